"""Measure what a search costs beside its training: start, memory, growth and resuming.

python benchmarks/costs.py --data_path data

Runs train_mosi.py as it is, in temporary folders that are removed, prints a table and writes it as
costs.csv. Needs Linux, whose /proc/PID/smaps_rollup tells each process's proportional set size
(PSS): its own memory, and its share of what it shares with others.

- start: until a worker begins the first setting, import included. A row is printed when its setting
  has ended, so that the setting's own seconds are taken off.
- workers: the peak memory of the driver, the process that workers are forked from, and the workers.
- growth: seconds and peak memory of all processes against the number of settings.
- resume: a CSV of many rows is read and nothing is left to train.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from search.grid import Settings, shuffled
from search.options import run_script, whole
from train_mosi import COLUMNS, GRID

ROOT = Path(__file__).resolve().parent.parent
LARGE = ("--grid", "text_hidden=256", "batch_size=128")  # of the grid, what takes most memory
SMALL = ("--grid", "text_hidden=64", "batch_size=128")
POLL_SECONDS = 0.1


class Cost(NamedTuple):
    """One row of the table."""

    part: str
    what: str
    value: float
    unit: str


Way = Callable[[argparse.Namespace], Iterator[Cost]]


class Run(NamedTuple):
    """What a command took.

    Attributes:
        seconds: From its start to its end.
        lines: What it printed, and how many seconds after its start.
        peaks: Each process's largest PSS in MB, by (role, process id).
        peak: The largest sum of all processes' PSS at one time, in MB.
    """

    seconds: float
    lines: list[tuple[float, str]]
    peaks: dict[tuple[str, int], float]
    peak: float


def stat(process: int | str) -> list[str]:
    """Returns the fields of a process's /proc/PID/stat behind its name; raises OSError if ended."""
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def processor_seconds(fields: Sequence[str]) -> float:
    """Returns the processor time in such fields."""
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def processes(driver: int) -> Iterator[tuple[str, int]]:
    """Yields the role and the process id of the driver and all that came of it."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(stat(path.parent.name)[1])
        except OSError:  # it has ended
            continue
    yield "driver", driver
    for process, parent in parents.items():
        if parent == driver:
            yield "forkserver", process
        elif parents.get(parent) == driver:
            yield "worker", process


def pss(process: int) -> float:
    """Returns a process's proportional set size in MB; 0 if it has ended."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
    except OSError:
        return 0.0
    fields = [line.split() for line in text.splitlines()]
    return sum(int(words[1]) * 1024 / 1e6 for words in fields if words[0] == "Pss:")


class _Memory(threading.Thread):
    """Watches a command's memory until it is told to stop."""

    def __init__(self, driver: int) -> None:
        super().__init__()
        self.driver, self.over = driver, threading.Event()
        self.peaks: dict[tuple[str, int], float] = {}
        self.peak = 0.0

    def run(self) -> None:
        while not self.over.wait(POLL_SECONDS):
            now = {key: pss(key[1]) for key in processes(self.driver)}
            self.peak = max(self.peak, sum(now.values()))
            for key, size in now.items():
                self.peaks[key] = max(size, self.peaks.get(key, 0.0))


def train(folder: Path, data_path: Path, *flags: str, watch: bool = True) -> Run:
    """Runs train_mosi.py with its files in a folder.

    Raises:
        RuntimeError: It failed; what it printed is shown.
    """
    command = [sys.executable, "-u", str(ROOT / "train_mosi.py"), "--data_path", str(data_path)]
    command += ["--output_path", str(folder / "results"), "--model_path", str(folder / "models")]
    started = time.perf_counter()
    process = subprocess.Popen(
        [*command, *flags], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    memory = _Memory(process.pid)
    if watch:
        memory.start()
    assert process.stdout
    lines = [(time.perf_counter() - started, line) for line in process.stdout]
    status = process.wait()
    seconds = time.perf_counter() - started
    if watch:
        memory.over.set()
        memory.join()
    if status:
        raise RuntimeError(f"train_mosi.py ended with status {status}:\n{lines}")
    return Run(seconds, lines, memory.peaks, memory.peak)


def seconds_of(*statements: str) -> float:
    """Returns how long a statement takes in a process of its own, after others."""
    *before, statement = statements
    code = "; ".join(["import time", *before, "start = time.perf_counter()", statement])
    code += "; print(time.perf_counter() - start)"
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return float(run.stdout.splitlines()[-1])  # after what load_mosi says of the data


def start(options: argparse.Namespace) -> Iterator[Cost]:
    """Yields the seconds to the first setting, and what they consist of."""
    path = str(options.data_path / "mosi.pkl")
    parts = {
        "interpreter and imports": ("import train_mosi",),
        "pickle.load alone": (
            "import pickle, numpy",
            f"pickle.load(open({path!r}, 'rb'), encoding='bytes')",
        ),
        "load_mosi": ("from utils import load_mosi", f"load_mosi({str(options.data_path)!r})"),
        "checksum": (
            "from pathlib import Path; from utils import checksum",
            f"checksum(Path({path!r}))",
        ),
    }
    for what, statements in parts.items():
        yield Cost("start", what, min(seconds_of(*statements) for _ in range(3)), "s")
    heads, firsts = [], []
    for _ in range(3):
        with tempfile.TemporaryDirectory(prefix="costs-") as name:
            flags = ("--settings", "1", "--epochs", "1", *SMALL)
            run = train(Path(name), options.data_path, *flags, watch=False)
            (row,) = read_rows(Path(name))
        heads.append(next(at for at, line in run.lines if line.startswith("results:")))
        ended = next(at for at, line in run.lines if line.startswith("1/1"))
        firsts.append(ended - float(row["Seconds"]))
    yield Cost("start", "command to its first lines", min(heads), "s")
    yield Cost("start", "command to the first setting, least of 3", min(firsts), "s")
    yield Cost("start", "command to the first setting, most of 3", max(firsts), "s")


def read_rows(folder: Path) -> list[dict[str, str]]:
    """Returns the rows of the CSV that a command wrote."""
    (path,) = (folder / "results").glob("*.csv")
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def workers(options: argparse.Namespace) -> Iterator[Cost]:
    """Yields peak memory against the number of workers."""
    for jobs in options.jobs:
        with tempfile.TemporaryDirectory(prefix="costs-") as name:
            flags = ("--jobs", str(jobs), "--settings", str(8 * jobs), "--epochs", "1", *LARGE)
            run = train(Path(name), options.data_path, *flags)
        named = f"{jobs} worker{'s' * (jobs > 1)}"
        for role in ("driver", "forkserver", "worker"):
            sizes = [size for (kind, _), size in run.peaks.items() if kind == role]
            yield Cost("workers", f"{named}: largest {role}", max(sizes), "MB")
        yield Cost("workers", f"{named}: all together", run.peak, "MB")


def growth(options: argparse.Namespace) -> Iterator[Cost]:
    """Yields seconds and memory against the number of settings."""
    for count in options.settings:
        with tempfile.TemporaryDirectory(prefix="costs-") as name:
            flags = ("--settings", str(count), "--epochs", "1", *SMALL)
            run = train(Path(name), options.data_path, *flags)
        head = next(at for at, line in run.lines if line.startswith("results:"))
        yield Cost("growth", f"{count} settings: after the start", run.seconds - head, "s")
        yield Cost("growth", f"{count} settings: all processes", run.peak, "MB")


def resume(options: argparse.Namespace) -> Iterator[Cost]:
    """Yields how long a command takes that finds all of its rows done."""
    rows = str(options.rows)
    with tempfile.TemporaryDirectory(prefix="costs-") as name:
        folder = Path(name)
        train(folder, options.data_path, "--settings", "1", "--epochs", "1", watch=False)
        append_rows(folder, options.rows)
        flags = ("--settings", rows, "--epochs", "1")
        run = train(folder, options.data_path, *flags, watch=False)
        if not any("nothing is left" in line for _, line in run.lines):
            raise RuntimeError(f"not all rows were taken for done:\n{run.lines}")
        yield Cost("resume", f"{options.rows:,} rows, nothing left", run.seconds, "s")
        peak = train(folder, options.data_path, *flags).peak  # being watched takes time
        yield Cost("resume", f"{options.rows:,} rows, nothing left: memory", peak, "MB")
        one_more = str(options.rows + 1)
        run = train(folder, options.data_path, "--settings", one_more, "--epochs", "1", watch=False)
        (done,) = (at for at, line in run.lines if line.startswith(f"{one_more}/{one_more}"))
        yield Cost("resume", f"{options.rows:,} rows, one setting left, to its row", done, "s")


def append_rows(folder: Path, count: int) -> None:
    """Makes a CSV with its first row one of count rows, in the order of the search."""
    (path,) = (folder / "results").glob("*.csv")
    seed = json.loads(path.with_suffix(".json").read_text())["fixed"]["seed"]
    draw = random.Random(seed)
    settings = Settings(GRID)
    scores = len(COLUMNS.release)
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        written = 0
        for block in shuffled(len(settings), seed):
            for position in block.tolist():
                if written:
                    losses = [f"{draw.uniform(5, 9):.6g}" for _ in range(1 + scores)]
                    run = ["0", "ok", "7", "27", f"{draw.uniform(5, 90):.3f}"]
                    own = [f"{draw.random():.6g}" for _ in COLUMNS.own]
                    writer.writerow([*settings[position].texts(), *losses, *run, *own])
                written += 1
                if written == count:
                    return


WAYS = {"start": start, "workers": workers, "growth": growth, "resume": resume}


def parse() -> argparse.Namespace:
    """Returns the flags."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--data_path", type=Path, default="data", help="folder of mosi.pkl (default: data)")
    add("--output_path", type=Path, default="results", help="folder for costs.csv (results)")
    add("--jobs", type=whole, nargs="+", default=[1, 2, 4, 8], help="of workers (1 2 4 8)")
    add("--settings", type=whole, nargs="+", default=[50, 100, 200, 400], help="of growth")
    add("--rows", type=whole, default=1_000_000, help="of resume (default: 1000000)")
    return parse_parts(flags, WAYS)


def parse_parts(flags: argparse.ArgumentParser, ways: Iterable[str]) -> argparse.Namespace:
    """Returns the flags and the parts that were asked for."""
    known = ", ".join(ways)
    flags.add_argument("parts", nargs="*", metavar="PART", help=f"of {known} (default: all)")
    options = flags.parse_args()
    unknown = set(options.parts) - set(ways)
    if unknown:
        flags.error(f"expected parts from {known}, got {', '.join(sorted(unknown))}")
    return options


def measure(ways: Mapping[str, Way], options: argparse.Namespace, name: str) -> None:
    """Measures the parts that were asked for, prints each cost, and writes them as CSV."""
    costs: list[Cost] = []
    for part in options.parts or ways:
        for cost in ways[part](options):
            print(f"{cost.part:8}  {cost.what:52}  {cost.value:9.2f} {cost.unit}", flush=True)
            costs.append(cost)
    path = options.output_path / name
    os.makedirs(path.parent, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Cost._fields)
        writer.writerows([*cost[:2], f"{cost.value:.3f}", cost.unit] for cost in costs)
    print(f"\nwritten to {path}")


def main() -> None:
    """Measures, prints the table, and writes it as CSV."""
    measure(WAYS, parse(), "costs.csv")


if __name__ == "__main__":
    run_script(main)
