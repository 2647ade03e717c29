"""Compare LMF with TFN, full tensor fusion, in parameters, speed and memory: the paper's table 3.

python benchmarks/efficiency.py           # about 1.5 minutes; writes results/efficiency.md
python benchmarks/efficiency.py --batch_sizes 8 512 --seconds 2
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import platform
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

import torch
from torch import Tensor, nn

from benchmarks.tfn import TFN, tensor_fusion
from data.files import make_folder, write_atomically
from model import LMF, low_rank_fusion
from reporting import figures
from reporting.markdown import image, table
from search.options import Parser, folder, run_script, whole_between

INPUT_DIMS = (74, 46, 300)  # MOSI's features of audio, video, text
STEPS = 20  # words per example
AUDIO, VIDEO, TEXT = 32, 32, 64  # paper, section 6.4: widths of the fused representations
RANK = 4
ROUNDS = 5  # how often LMF and TFN take turns

# Paper, table 3 (Quadro K4200): data points per second, and section 6.4's parameters.
PAPER_SPEED = {"TFN": (340.74, 1177.17), "LMF": (1134.82, 2249.90)}
PAPER_PARAMETERS = {"TFN": 12.5e6, "LMF": 1.1e6}

FUSION_WIDTHS = {"TFN": [2**i for i in range(2, 8)], "LMF": [2**i for i in range(2, 16)]}
FUSION_BATCH = 32

NOT_COMPARABLE = (
    "What can't be compared with the paper: the speeds themselves, which are of other hardware "
    "and software; the batch size, which the paper does not give; and the parameter counts, which "
    "belong to another implementation than the released one, whose sizes these are. What can: "
    "that LMF has fewer parameters and is faster, and by how much (LMF : TFN, the median over "
    "rounds in which the two take turns). Both share the subnetworks and the time that those take. "
    "Peak memory is what training adds to a process, or on CUDA to torch's allocations, in 10^6 "
    "bytes; – is not measured."
)


def make_model(name: str) -> nn.Module:
    """Returns TFN or LMF in the sizes of the paper's comparison."""
    hidden_dims = AUDIO, VIDEO, 2 * TEXT  # the LSTM is twice as wide as its output, as in training
    if name == "TFN":
        return TFN(INPUT_DIMS, hidden_dims, TEXT, output_dim=1)
    return LMF(INPUT_DIMS, hidden_dims, TEXT, (0.0, 0.0, 0.0), output_dim=1, rank=RANK)


def parameter_counts(name: str) -> tuple[int, int]:
    """Returns how many parameters TFN or LMF has: in all, and outside the subnetworks."""
    named = [(key, value.numel()) for key, value in make_model(name).named_parameters()]
    fusion = sum(count for key, count in named if "_subnet." not in key)
    return sum(count for _, count in named), fusion


def make_step(name: str, batch_size: int, device: str, training: bool) -> Callable[[], object]:
    """Returns a function that trains or tests a model on one batch."""
    torch.manual_seed(0)
    model = make_model(name).to(device).train(training)
    shapes = [(INPUT_DIMS[0],), (INPUT_DIMS[1],), (STEPS, INPUT_DIMS[2]), (1,)]
    *inputs, label = (torch.randn(batch_size, *shape, device=device) for shape in shapes)
    optimizer = torch.optim.Adam(model.parameters())

    def train() -> None:
        optimizer.zero_grad()
        (model(*inputs) - label).abs().sum().backward()
        optimizer.step()

    @torch.no_grad()
    def test() -> None:
        model(*inputs)

    return train if training else test


def rate(step: Callable[[], object], device: str, seconds: float) -> float:
    """Returns how many times per second a step can be taken, over about so many seconds."""
    synchronize = torch.cuda.synchronize if device == "cuda" else torch.cpu.synchronize
    count, elapsed = 1, 0.0
    while elapsed < seconds:
        if elapsed:
            count = math.ceil(count * min(8.0, 1.1 * seconds / elapsed))
        synchronize()
        started = time.perf_counter()
        for _ in range(count):
            step()
        synchronize()
        elapsed = time.perf_counter() - started
    return count / elapsed


def measure_speed(
    batch_size: int, device: str, training: bool, seconds: float
) -> list[tuple[float, float]]:
    """Returns data points per second of TFN and of LMF, for each round.

    They take turns, so that both meet the same disturbances.
    """
    steps = [make_step(name, batch_size, device, training) for name in ("TFN", "LMF")]
    for step in steps:
        rate(step, device, seconds / 5)  # warms caches and clocks
    return [
        (batch_size * rate(steps[0], device, seconds), batch_size * rate(steps[1], device, seconds))
        for _ in range(ROUNDS)
    ]


def speed_texts(rounds: Sequence[tuple[float, float]]) -> list[str]:
    """Returns the medians of TFN and LMF, and that of LMF's lead within a round."""
    tfn, lmf = (statistics.median(rates) for rates in zip(*rounds, strict=True))
    lead = statistics.median(lmf / tfn for tfn, lmf in rounds)
    return [f"{tfn:,.0f}", f"{lmf:,.0f}", f"{lead:.2f}"]


def peak_memory(name: str, batch_size: int, device: str) -> float:
    """Returns by how many MB (10^6 bytes) training raises the peak memory.

    It runs in a process of its own, whose peak is that of this model alone.
    """
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_peak_memory_here, (name, batch_size, device))


def _peak_memory_here(name: str, batch_size: int, device: str) -> float:
    torch.set_num_threads(1)
    make_step(name, 2, device, True)()  # libraries load what they need
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    before = _peak(device)
    step = make_step(name, batch_size, device, True)
    for _ in range(3):
        step()
    return _peak(device) - before


def _peak(device: str) -> float:
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 1e6
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024 / 1e6


def fusion_costs(device: str, seconds: float) -> dict[str, list[tuple[int, int, float]]]:
    """Returns, for TFN and LMF, (width, parameters, microseconds per data point) of the fusion.

    The width is that of each of three modalities; a step is forward and backward of the fusion
    alone. The fastest of a few turns counts.
    """
    cases = [(name, width) for name, widths in FUSION_WIDTHS.items() for width in widths]
    steps = {case: make_fusion_step(*case, device) for case in cases}
    best = dict.fromkeys(cases, 0.0)
    for _ in range(ROUNDS):
        for case, (step, _) in steps.items():
            best[case] = max(best[case], rate(step, device, seconds / 10))
    costs: dict[str, list[tuple[int, int, float]]] = {name: [] for name in FUSION_WIDTHS}
    for name, width in cases:
        _, parameters = steps[name, width]
        costs[name].append((width, parameters, 1e6 / FUSION_BATCH / best[name, width]))
    return costs


def make_fusion_step(name: str, width: int, device: str) -> tuple[Callable[[], None], int]:
    """Returns forward and backward of the fusion of three modalities, and its parameters."""
    size = (width + 1) ** 3

    def tensor(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, requires_grad=True)

    inputs = [tensor(FUSION_BATCH, width) for _ in range(3)]
    if name == "TFN":
        parameters = [tensor(1, size), tensor(1)]
    else:
        factors = [tensor(RANK, width + 1, 1) for _ in range(3)]
        parameters = [*factors, tensor(1, RANK), tensor(1, 1)]

    def step() -> None:
        if name == "TFN":
            output = tensor_fusion(inputs, *parameters)
        else:
            output = low_rank_fusion(inputs, parameters[:3], *parameters[3:])
        torch.autograd.grad(output.sum(), [*inputs, *parameters])

    return step, sum(parameter.numel() for parameter in parameters)


def main(words: Sequence[str] | None = None) -> None:
    """Measures, writes and prints what the command line's flags, or a list of words, ask for."""
    options = _flags().parse_args(words)
    torch.set_num_threads(options.threads)
    make_folder(options.output_path)
    parts = ["# LMF beside TFN", _conditions(options.threads), parameter_table()]
    for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
        parts.append(speed_table(device, options.batch_sizes, options.seconds))
        path = options.output_path / f"efficiency_{device}.{options.format}"
        slopes = figures.fusion_costs(path, fusion_costs(device, options.seconds), device)
        parts.append(
            "Fusion alone, forward and backward: over the three largest widths the time grows "
            f"with the width to the power of {slopes['TFN']:.2f} for TFN (by its operations 3, "
            "the product of the widths; memory beyond the caches adds to it) and "
            f"{slopes['LMF']:.2f} for LMF (by its operations 1, their sum)."
        )
        parts.append(image("Cost of the fusion against the hidden width", path))
    text = "\n\n".join([*parts, NOT_COMPARABLE]) + "\n"
    path = options.output_path / "efficiency.md"
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
    print(text)
    print(f"report: {path}")


def _flags() -> Parser:
    flags = Parser(description=__doc__)
    add = flags.add_argument
    batches = whole_between(2, 10**6)  # BatchNorm can't train on one
    add("--batch_sizes", type=batches, nargs="+", default=[8, 32, 128], help="data points a step")
    add("--threads", type=whole_between(1, 10**4), default=1, help="of the CPU")
    add("--seconds", type=_seconds, default=0.25, help="length of one measurement")
    add("--output_path", type=folder, default=Path("results"), help="folder for efficiency.md")
    add("--format", choices=figures.FORMATS, default=figures.FORMATS[0], help="of the figure")
    return flags


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"expected a number above 0, up to 3600, got {text!r}")
    return seconds


def _conditions(threads: int) -> str:
    devices = [f"{platform.processor() or platform.machine()} with {threads} thread(s)"]
    if torch.cuda.is_available():
        devices.append(torch.cuda.get_device_name())
    return (
        f"Widths {AUDIO}, {VIDEO}, {TEXT}, rank {RANK}, one output; inputs as in MOSI: {STEPS} "
        f"words of {INPUT_DIMS[2]}, {INPUT_DIMS[0]} audio and {INPUT_DIMS[1]} video features, "
        f"random. {' and '.join(devices)}, torch {torch.__version__}, single precision."
    )


def parameter_table() -> str:
    """Returns how many parameters both have, beside the formulas and the paper's numbers."""
    extended = AUDIO + 1, VIDEO + 1, TEXT + 1
    formulas = {
        "TFN": ("O·∏(d+1) + O", math.prod(extended) + 1),
        "LMF": ("O·r·Σ(d+1) + r + O", RANK * sum(extended) + RANK + 1),
    }
    rows = []
    for name, (formula, value) in formulas.items():
        counts = [f"{count:,}" for count in parameter_counts(name)]
        paper = f"{PAPER_PARAMETERS[name] / 1e6:.1f} million"
        rows.append((name, [*counts, f"{formula} = {value:,}", paper]))
    header = ["Parameters", "in all", "of the fusion", "the fusion by formula", "paper, in all"]
    return table(header, rows)


def speed_table(device: str, batch_sizes: Sequence[int], seconds: float) -> str:
    """Returns data points per second and peak memory, beside the paper's."""
    rows = []
    for batch_size in batch_sizes:
        cells = []
        for training in (True, False):
            cells += speed_texts(measure_speed(batch_size, device, training, seconds))
        cells += [f"{peak_memory(name, batch_size, device):.0f}" for name in ("TFN", "LMF")]
        rows.append((f"batch {batch_size}", cells))
    paper = []
    for tfn, lmf in zip(PAPER_SPEED["TFN"], PAPER_SPEED["LMF"], strict=True):
        paper += [f"{tfn:,.2f}", f"{lmf:,.2f}", f"{lmf / tfn:.2f}"]
    rows.append(("paper, Quadro K4200", [*paper, "–", "–"]))
    header = [f"Table 3, {device}: data points/s", "training TFN", "training LMF"]
    header += ["training LMF : TFN", "testing TFN", "testing LMF", "testing LMF : TFN"]
    return table([*header, "peak MB TFN", "peak MB LMF"], rows)


if __name__ == "__main__":
    run_script(main)
