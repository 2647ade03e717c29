"""Time the training steps of a GPU's path beside the memory traffic that they need.

    make gpu-steps

For sizes of the MOSI grid and numbers of members: milliseconds per captured step, by the device's
own events; the bytes that a step's operations read and write, each from and to memory; and the
floor, the time in which the GPU copies as many bytes. A step is slower than its floor where its
kernels are too small to fill the GPU, and can be faster where its cache holds what they share. What
does not fit into memory is left out. A profile comes last: a step's kernels, by their time.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks.throughput import draw_setting
from data.files import InputError, make_folder, write_csv
from search.jobs import set_torch_up
from search.options import Parser, folder, run_script, whole
from train_mosi import EXPERIMENT
from training.memory import members_that_fit
from training.parameters import sizes
from training.result import Data, Limits
from training.stacked import Job, Stack
from training.words import Words
from utils import load_mosi

DEVICE = "cuda:0"
COPIED = 2**28  # floats: 1 GiB
SIZES = ((64, 4), (128, 16), (256, 4), (256, 128))  # text_hidden, batch_size
MEMBERS = (4, 16, 64, 128, 256)
PROFILED = (128, 16)
STEPS = 50  # at least so many are timed, three times
COLUMNS = ("text_hidden", "batch_size", "members", "ms per step", "GB moved", "floor ms",
           "times floor", "GB reserved")  # fmt: skip
NO_TRAFFIC = {"empty", "empty_like", "new_empty", "empty_strided", "new_empty_strided"}
OVERWRITES = {"copy_", "zero_", "fill_"}
GATHERS = {"index", "index_select", "gather"}  # read as much of their first argument as they write


class Traffic(TorchDispatchMode):
    """Counts the bytes that operations read and write, as if no cache held any."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        name = func.overloadpacket.__name__
        aliases = [returned.alias_info for returned in func._schema.returns]
        if name in NO_TRAFFIC or any(alias and not alias.is_write for alias in aliases):
            return result  # a view, or memory that nobody has written to
        written, given = (
            [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]
            for tree in (result, (args, kwargs))
        )
        overwritten = [kwargs.get("out"), args[0] if name in OVERWRITES else None]
        read = [tensor for tensor in given if not any(tensor is other for other in overwritten)]
        if name in GATHERS:
            read[0] = written[0]
        self.bytes += sum(map(_bytes, written + read))
        return result


def _bytes(tensor: Tensor) -> int:
    return min(tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes())


def full_stack(data: Data, text_hidden: int, batch_size: int, members: int) -> Stack | None:
    """Returns settings of a size, ready for an epoch; None if they don't fit into memory."""
    draw, task = random.Random(0), EXPERIMENT.task(data)
    jobs: list[Job] = [(draw_setting(draw, batch_size, text_hidden), i) for i in range(members)]
    size = sizes(jobs[0][0])
    if members_that_fit(size, data, task.output_dim) < members:
        return None
    words = Words(data.train.text), Words(data.valid.text)
    stack = Stack(size, members, data, words, task, Limits(1, 1), on_gpu=True)
    stack._fill(iter(jobs))
    stack._draw()
    return stack


def full_batches(stack: Stack, most: int) -> list[int]:
    """Returns the sizes of an epoch's batches, the last one left out, if it is smaller."""
    batch_size = stack.size.batch_size
    return [batch_size] * min(most, len(stack.data.train) // batch_size)


def seconds_of(stack: Stack, least_steps: int) -> float:
    """Returns the seconds of a captured step: the least of three means."""
    assert stack.graphs
    epoch = full_batches(stack, least_steps)
    rounds = -(-least_steps // len(epoch))
    means = []
    for measured in (False, True, True, True):  # before, steps are captured
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        for _ in range(rounds):
            stack.graphs.run(stack._step, epoch)
        end.record()
        end.synchronize()
        if measured:
            means.append(start.elapsed_time(end) / 1000 / rounds / len(epoch))
    return min(means)


def measure(stack: Stack) -> tuple[float, int, int]:
    """Returns a step's seconds, the bytes that it moves, and those of all memory, graphs' too."""
    assert stack.graphs
    with Traffic() as traffic:
        stack.graphs.advance(stack._step, stack.size.batch_size)
    torch.cuda.empty_cache()  # what is captured has memory of its own
    seconds = seconds_of(stack, STEPS)
    return seconds, traffic.bytes, torch.cuda.memory_reserved()


def bytes_copied_per_second() -> float:
    """Returns how fast the device copies its memory, read and written bytes counted."""
    source = torch.zeros(COPIED, device=DEVICE)
    target = torch.empty_like(source)
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    times = []
    for _ in range(10):
        start.record()
        target.copy_(source)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1000)
    return 2 * source.nbytes / min(times)


def rows(data: Data, members: Sequence[int], speed: float) -> Iterator[tuple[str, ...]]:
    """Yields the table's rows as they are measured, and says what does not fit."""
    for text_hidden, batch_size in SIZES:
        for count in members:
            words = (str(text_hidden), str(batch_size), str(count))
            try:
                stack = full_stack(data, text_hidden, batch_size, count)
                step = measure(stack) if stack else None
            except torch.cuda.OutOfMemoryError:
                step = None
            stack = None  # before the next one's memory is measured
            if step is None:
                print(f"{' | '.join(words)} | does not fit into memory: left out", flush=True)
                continue
            seconds, moved, reserved = step
            floor = moved / speed
            yield (
                *words, f"{1e3 * seconds:.3f}", f"{moved / 1e9:.2f}",
                f"{1e3 * floor:.3f}", f"{seconds / floor:.2f}", f"{reserved / 1e9:.2f}",
            )  # fmt: skip


def print_profile(stack: Stack) -> None:
    """Prints which kernels a captured step spends its time in."""
    epoch = full_batches(stack, most=10)
    seconds_of(stack, len(epoch))  # captures it
    assert stack.graphs
    with profile(activities=[ProfilerActivity.CUDA]) as profiled:
        stack.graphs.run(stack._step, epoch)
        torch.cuda.synchronize()
    kernels = [(event.self_device_time_total, event) for event in profiled.key_averages()]
    total = sum(time for time, _ in kernels)
    text_hidden, batch_size, members = stack.size.text, stack.size.batch_size, len(stack.members)
    print(f"\na step of {members} members, text_hidden {text_hidden}, batch_size {batch_size}:")
    print("microseconds | share | times | kernel")
    for time, event in sorted(kernels, key=lambda kernel: -kernel[0])[:20]:
        numbers = f"{time / len(epoch):.1f} | {time / total:.3f} | {event.count / len(epoch):.1f}"
        print(f"{numbers} | {event.key[:100]}", flush=True)


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints each row and the profile, and writes the table as CSV."""
    options = _flags().parse_args(words)
    if not torch.cuda.is_available():
        raise InputError(
            "expected a GPU that torch can use, found none; install a CUDA build of torch and its "
            "driver"
        )
    make_folder(options.output_path)
    set_torch_up()
    data = Data(*load_mosi(options.data_path)[:3]).to(DEVICE)
    speed = bytes_copied_per_second()
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}; copies {speed / 1e9:.0f} GB/s"
    )
    print(" | ".join(COLUMNS), flush=True)
    table: list[Sequence[str]] = [COLUMNS]
    path = options.output_path / "steps.csv"
    for row in rows(data, options.members, speed):
        print(" | ".join(row), flush=True)
        table.append(row)
        write_csv(path, table)
    for count in sorted(options.members, reverse=True):
        if stack := full_stack(data, *PROFILED, count):
            print_profile(stack)
            break


def _flags() -> Parser:
    flags = Parser(description=__doc__)
    add = flags.add_argument
    add("--data_path", type=folder, default="./data", help="folder of mosi.pkl")
    add("--output_path", type=folder, default=Path("results"), help="folder for steps.csv")
    add("--members", type=whole, nargs="+", default=MEMBERS, help="settings that train together")
    return flags


if __name__ == "__main__":
    run_script(main)
