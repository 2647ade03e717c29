"""Measure a search's speed: settings per hour, beside the way in which the release trains them.

    python benchmarks/throughput.py                 # on a CPU
    make gpu-throughput                             # on a GPU

Three ways train settings of the MOSI grid; each prints its row as soon as it is measured:

- fast: the scripts' default, `training.stacked.fit_stacked`, a worker per core, or per GPU.
- release: as the released scripts work. One setting at a time with torch's default threads, a
  DataLoader whose 4 workers start anew for every pass, the test split scored in every epoch.
- reference: `training.reference.fit`, a worker process per core (--stack 1 of the scripts).

The sample covers every batch size and text_hidden equally. The fast way trains all of it, since a
search has enough settings of a size to train together, or with --stack K as many as fill a stack
of each size. The others train its first part, since their time per setting does not depend on how
many there are, and maybe for fewer epochs: settings per hour are those of --epochs. The fast way
needs more of them on a GPU, where steps are captured in its first. Starting the workers is not
counted.

Useful arithmetic is that of the LSTM's products over the words, each time that one stands in a
text. Real texts repeat words, the synthetic ones don't: --data_path takes real ones.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

import joblib
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from data.files import make_folder, write_csv
from model import LMF
from search.jobs import Trainer, chunks
from search.options import Parser, check_cuda, folder, run_script, whole, whole_between
from search.workers import LocalBackend, prepare
from train_mosi import EXPERIMENT, GRID, loss
from training.reference import adam
from training.result import Data, Limits, Result
from training.setting import Setting, model_config
from training.stacked import Job, default_slots
from training.words import Words, leading_zero_frames
from utils import Split, load_mosi

TEXTS, BATCHES = GRID["text_hidden"], GRID["batch_size"]
SIZES = [  # the first ones, as many as batch sizes, have each text_hidden equally often
    (batch, TEXTS[(i + turn) % len(TEXTS)])
    for turn in range(len(TEXTS))
    for i, batch in enumerate(BATCHES)
]
COLUMNS = ("way", "device", "settings", "epochs", "seconds", "settings per hour", "times release",
           "useful GFLOP/s", "share of matrix product speed")  # fmt: skip
TIMES = COLUMNS.index("times release")


class Way(NamedTuple):
    """A way to train, and what is trained; it returns the seconds that it takes."""

    name: str
    settings: Sequence[Setting]
    epochs: int
    train: Callable[[Sequence[Setting], int], float]


def sample(count: int, seed: int) -> list[Setting]:
    """Returns settings of the MOSI grid, each batch size with each text_hidden equally often."""
    draw = random.Random(seed)
    return [draw_setting(draw, *SIZES[i % len(SIZES)]) for i in range(count)]


def draw_setting(draw: random.Random, batch_size: int, text_hidden: int) -> Setting:
    """Returns a setting of the MOSI grid, but for these two of its values."""
    values = {name: draw.choice(values) for name, values in GRID.items()}
    return Setting(**values | {"batch_size": batch_size, "text_hidden": text_hidden})


def useful_flops(setting: Setting, data: Data, epochs: int) -> float:
    """Returns the arithmetic of the LSTM's products over the words; padding is no use."""
    width, words = setting.text_hidden, data.input_dims[2]
    forward = 2 * 4 * width * (words + width)
    backward = 2 * 4 * width * (words + 2 * width)  # no gradient flows to the words
    trained, validated = (
        split.text.shape[1] * len(split) - int(leading_zero_frames(split.text).sum())
        for split in (data.train, data.valid)
    )
    return float(epochs * (trained * (forward + backward) + validated * forward))


def train_as_released(setting: Setting, data: Data, epochs: int, device: str) -> None:
    """Trains one setting for some epochs, as the released scripts do."""
    model = LMF(**model_config(setting, data.input_dims, 1)).to(device)
    optimizer = adam(model, setting)

    def one_pass(split: Split, batch_size: int) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in DataLoader(split, batch_size=batch_size, num_workers=4, shuffle=True):
            audio, visual, text, label = (part.float().to(device) for part in batch)
            if len(label) > 1:
                yield model(audio, visual, text), label

    for _ in range(epochs):
        model.train()
        total = 0.0
        for output, label in one_pass(data.train, setting.batch_size):
            model.zero_grad()
            summed = loss(output, label).sum()
            summed.backward()
            total += summed.item() / len(data.train)
            optimizer.step()
        model.eval()
        for split in (data.valid, data.test):
            for output, label in one_pass(split, len(split)):
                loss(output, label).sum().item()


def release(data: Data, device: str, settings: Sequence[Setting], epochs: int) -> float:
    """Returns the seconds that the release's way takes."""
    doubles = Data(*(Split(*(part.double() for part in split[:])) for split in data))
    started = time.perf_counter()
    for setting in settings:
        train_as_released(setting, doubles, epochs, device)
    return time.perf_counter() - started


def workers(
    data: Data, devices: list[str], stack: int | None, settings: Sequence[Setting], epochs: int
) -> float:
    """Returns the seconds that worker processes take, from the moment when they are ready."""
    kind = devices[0].split(":")[0]
    trainer = Trainer(EXPERIMENT.task(data), Limits(epochs, epochs), stack, verbose=False)
    jobs = ((setting, 0) for setting in settings)
    started: list[float] = []

    def timed() -> Iterator[list[Job]]:
        started.append(time.perf_counter())
        slots = len(devices)
        yield from chunks(
            jobs, len(settings), lambda: slots, lambda size: stack or default_slots(size, kind)
        )

    messages = LocalBackend(devices).train(timed(), trainer, data)
    results = [message for message in messages if isinstance(message, Result)]
    assert len(results) == len(settings)
    assert all(result.epochs == epochs or result.status == "diverged" for result in results)
    return time.perf_counter() - started[0]


def matrix_product_speed(device: str) -> float:
    """Returns the device's single-precision matrix product speed in FLOP/s, the best of ten."""
    size = 2048 if device == "cpu" else 8192
    a, b = torch.randn(2, size, size, device=device)
    best = 0.0
    for _ in range(10):
        started = time.perf_counter()
        float((a @ b)[0, 0])
        best = max(best, 2 * size**3 / (time.perf_counter() - started))
    return best


def ways(options: argparse.Namespace, data: Data, device: str) -> Iterator[Way]:
    """Yields the ways to train, the fast one first."""
    devices = [device] * (1 if options.cuda else options.jobs or joblib.cpu_count())
    settings = sample(options.settings, options.seed)
    for stack in options.stack or [None]:
        name = "fast" if stack is None else f"fast, K = {stack}"
        chosen = settings[: stack * len(SIZES)] if stack else settings
        yield Way(name, chosen, options.epochs, partial(workers, data, devices, stack))
    few, epochs = settings[: options.release_settings], options.release_epochs or options.epochs
    yield Way("release", few, epochs, partial(release, data, device))
    yield Way("reference", few, epochs, partial(workers, data, devices, 1))


def measure(options: argparse.Namespace, data: Data, kind: str, path: Path) -> None:
    """Prints and writes the row of each way; times release where the release's is known."""
    device = "cuda:0" if options.cuda else "cpu"
    speed = matrix_product_speed(device)
    print(f"matrix product speed: {speed / 1e9:.0f} GFLOP/s\n\n{' | '.join(COLUMNS)}", flush=True)
    hourly: dict[str, float] = {}
    table: list[list[str]] = []
    for name, settings, epochs, train in ways(options, data, device):
        seconds = train(settings, epochs)
        flops = sum(useful_flops(each, data, epochs) for each in settings) / seconds
        hourly[name] = 3600 * len(settings) * epochs / options.epochs / seconds
        row = [name, kind, str(len(settings)), str(epochs), f"{seconds:.1f}"]
        row += [f"{hourly[name]:.0f}", "", f"{flops / 1e9:.1f}", f"{flops / speed:.3f}"]
        print(" | ".join(row), flush=True)
        table.append(row)
        if "release" in hourly:
            for row in table:
                row[TIMES] = f"{hourly[row[0]] / hourly['release']:.1f}"
        write_csv(path, [COLUMNS, *table])
    print("\ntimes release: " + ", ".join(f"{row[0]} {row[TIMES]}" for row in table))


def _flags() -> Parser:
    flags = Parser(description=__doc__)
    add = flags.add_argument
    sizes = whole_between(len(SIZES), 10**6)  # each size once, or more often
    batches = whole_between(len(BATCHES), 10**6)
    add("--data_path", type=folder, default="./data", help="folder of mosi.pkl")
    add("--output_path", type=folder, default=Path("results"), help="folder for throughput.csv")
    add("--cuda", action="store_true", help="measure on one GPU")
    add("--settings", type=sizes, default=288, help="settings of the fast path")
    add("--release_settings", type=batches, default=36, help="at most, of the others")
    add("--epochs", type=whole, default=4, help="epochs of each")
    add("--release_epochs", type=whole, help="of the others (default: --epochs)")
    add("--jobs", type=whole, help="worker processes (default: one per core)")
    add("--stack", type=whole, nargs="+", help="settings that train together (default: by size)")
    add("--seed", type=int, default=0, help="of the sample")
    return flags


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints the table, and writes it as CSV."""
    options = _flags().parse_args(words)
    if options.cuda:
        check_cuda()
    make_folder(options.output_path)
    prepare(compiled=not options.cuda)
    data = Data(*load_mosi(options.data_path)[:3])
    text = Words(data.train.text)
    padding = float(text.padding.sum()) / text.ids.numel()
    kind = torch.cuda.get_device_name() if options.cuda else f"{joblib.cpu_count()} CPU cores"
    print(
        f"{kind}, torch {torch.__version__}; {text.ids.numel()} frames of text to train on, "
        f"{padding:.0%} are padding, {len(text.vectors)} differ"
    )
    path = options.output_path / "throughput.csv"
    measure(options, data, kind, path)
    print(f"written to {path}")


if __name__ == "__main__":
    run_script(main)
