"""Trains many tiny settings in one search, and sees that nothing grows and nothing slows down.

python benchmarks/soak.py     (20,000 settings of one epoch)

A search that runs for days finishes some ten thousand settings. Here they are so small that as
many are done in minutes: whatever a setting leaves behind in memory or in open files adds up as
it would there. Each quarter of the search is a row of the table: its settings per second, the
processor time of one, and for the driver and all that came of it the resident memory (mean) and
the open files (most). Exits with status 1 if the last quarter is not as the second one (the first
still warms up). Of the speed, processor time counts, that of the quickest part of a quarter:
other programs disturb it least.
"""

from __future__ import annotations

import argparse
import os
import pickle
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.costs import ROOT, processes, processor_seconds, stat
from search.options import run_script, whole

GRID = (  # 73,728 settings
    *("audio_hidden=2,3", "video_hidden=2,3", "text_hidden=4,6", "audio_dropout=0,0.1,0.2"),
    *("video_dropout=0,0.1,0.2", "text_dropout=0,0.1", "rank=1,2", "batch_size=8,16"),
)
QUARTERS, PARTS = 4, 8
POLL_SECONDS = 0.25
LEAST = 5000  # settings: fewer are too quick for samples of each part
MEMORY, TIME = 0.01, 0.05  # how far the last quarter may lie above the second


class Sample(NamedTuple):
    """What the processes hold at one time."""

    seconds: float
    settings: int
    processor: float  # seconds, of all processes
    megabytes: dict[str, float]  # resident, by process
    files: dict[str, int]  # open, by process


def make_data(folder: Path) -> None:
    """Writes a mosi.pkl of a few examples."""
    draw = np.random.default_rng(0)
    data = {
        split: {
            "covarep": draw.normal(size=(count, 6)),
            "facet": draw.normal(size=(count, 5)),
            "glove": draw.normal(size=(count, 4, 7)),
            "label": draw.uniform(-3, 3, (count, 1)),
        }
        for split, count in {"train": 16, "valid": 8, "test": 8}.items()
    }
    (folder / "mosi.pkl").write_bytes(pickle.dumps(data))


class Watch(threading.Thread):
    """Samples a search's processes until it is told to stop."""

    def __init__(self, driver: int) -> None:
        super().__init__()
        self.driver, self.over, self.settings = driver, threading.Event(), 0
        self.samples: list[Sample] = []

    def run(self) -> None:
        """Samples."""
        started = time.perf_counter()
        while not self.over.wait(POLL_SECONDS):
            processor, megabytes, files = 0, {}, {}
            for role, process in processes(self.driver):
                try:
                    fields = stat(process)
                    files[f"{role} {process}"] = len(os.listdir(f"/proc/{process}/fd"))
                except OSError:  # it has ended
                    continue
                processor += processor_seconds(fields)
                megabytes[f"{role} {process}"] = int(fields[21]) * os.sysconf("SC_PAGE_SIZE") / 1e6
            seconds = time.perf_counter() - started
            self.samples.append(Sample(seconds, self.settings, processor, megabytes, files))


def soak(options: argparse.Namespace) -> list[Sample]:
    """Returns samples of a search, from its first to its last setting.

    Raises:
        RuntimeError: It failed.
    """
    with tempfile.TemporaryDirectory(prefix="soak-") as name:
        folder = Path(name)
        make_data(folder)
        command = [sys.executable, "-u", str(ROOT / "train_mosi.py"), "--data_path", name]
        command += ["--output_path", str(folder / "results"), "--model_path", str(folder)]
        command += ["--epochs", "1", "--settings", str(options.settings), "--grid", *GRID]
        command += ["--jobs", str(options.jobs)] if options.jobs else []
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        watch = Watch(process.pid)
        watch.start()
        assert process.stdout
        for line in process.stdout:
            watch.settings += "  valid " in line
        watch.over.set()
        watch.join()
        if process.wait() or watch.settings != options.settings:
            raise RuntimeError(f"{watch.settings} settings, status {process.returncode}")
    return [sample for sample in watch.samples if 0 < sample.settings < options.settings]


class Quarter(NamedTuple):
    """A row of the table."""

    rate: float  # settings per second
    milliseconds: float  # of processor time per setting, in its quickest part
    megabytes: dict[str, float]
    files: dict[str, int]


def quarters(samples: Sequence[Sample]) -> Iterator[Quarter]:
    """Yields the quarters of a search, by its settings."""
    size = samples[-1].settings / QUARTERS
    for i in range(QUARTERS):
        quarter = _between(samples, i * size, (i + 1) * size)
        starts = [(i + j / PARTS) * size for j in range(PARTS)]
        parts = [_between(samples, start, start + size / PARTS) for start in starts]
        names = [name for name in quarter[-1].files if name in quarter[0].files]
        yield Quarter(
            _settings(quarter) / (quarter[-1].seconds - quarter[0].seconds),
            min(
                1000 * (part[-1].processor - part[0].processor) / _settings(part) for part in parts
            ),
            {name: float(np.mean([one.megabytes[name] for one in quarter])) for name in names},
            {name: max(one.files[name] for one in quarter) for name in names},
        )


def _between(samples: Sequence[Sample], low: float, high: float) -> list[Sample]:
    return [sample for sample in samples if low <= sample.settings <= high]


def _settings(samples: Sequence[Sample]) -> int:
    return samples[-1].settings - samples[0].settings


def faults(second: Quarter, last: Quarter) -> Iterator[str]:
    """Yields what is not as it was."""
    if last.milliseconds > (1 + TIME) * second.milliseconds:
        yield f"a setting took {second.milliseconds:.2f} ms at first, {last.milliseconds:.2f} later"
    if last.megabytes.keys() != second.megabytes.keys():
        yield "a process ended"
    for name, megabytes in last.megabytes.items():
        before = second.megabytes.get(name, megabytes)
        if megabytes > (1 + MEMORY) * before:
            yield f"{name} grew from {before:.1f} to {megabytes:.1f} MB"
        if last.files[name] > second.files.get(name, last.files[name]):
            yield f"{name} has more open files"


def main() -> None:
    """Runs the search, and prints the table and the verdict."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    flags.add_argument("--settings", type=whole, default=20_000, help="(default: 20000)")
    flags.add_argument("--jobs", type=whole, help="worker processes (default: one per core)")
    options = flags.parse_args()
    if options.settings < LEAST:
        flags.error(f"--settings: expected at least {LEAST}, got {options.settings}")
    samples = soak(options)
    table = list(quarters(samples))
    for i, quarter in enumerate(table, 1):
        print(f"quarter {i}: {quarter.rate:.1f} settings/s, {quarter.milliseconds:.2f} ms each")
        for name, megabytes in quarter.megabytes.items():
            print(f"  {name:18} {megabytes:8.2f} MB  {quarter.files[name]:3} open files")
    found = list(faults(table[1], table[-1]))
    print(f"{options.settings:,} settings in {samples[-1].seconds:,.0f} s: ", end="")
    print("; ".join(found) if found else "nothing grows, nothing slows down")
    sys.exit(bool(found))


if __name__ == "__main__":
    run_script(main)
