"""Measure what a search costs beside its training.

python benchmarks/costs.py                        # start, memory, resume and soak
python benchmarks/costs.py start soak             # two of the parts
python benchmarks/costs.py cluster --jobs 1 2     # needs requirements-cluster.txt

Runs train_mosi.py as it is, in temporary folders that are removed, prints a table and writes it as
costs.csv. Needs Linux. Memory is the proportional set size of processes: their own, and their share
of what they share with others; in the soak it is what is resident, which no other program changes.

- start: from the command until a worker begins the first setting, import included.
- memory: the most that all processes have at one time, by settings and by workers.
- resume: a CSV of many rows is read, and nothing, or one setting, is left to train.
- soak: thousands of tiny settings of one epoch; what each process holds, in memory and in open
  files, in the last quarter of them, and by how much that grew since the second (the first still
  warms up). Exits with status 1 if it grew by more than 1 %.
- cluster: settings per hour of Ray nodes with a core each, and of as many local processes.
"""

from __future__ import annotations

import argparse
import csv
import importlib.util
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from statistics import fmean
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

from data.conversion import write_pickle
from data.corpora import CORPORA
from data.files import InputError, make_folder, write_csv
from data.synthetic import synthetic
from search.grid import Settings, shuffled
from search.options import Parser, folder, run_script, whole, whole_between
from train_mosi import COLUMNS, GRID

SCRIPT = Path(__file__).resolve().parent.parent / "train_mosi.py"
CSV = "results/results_mosi_1.csv"
LARGE = ("--epochs", "1", "--grid", "text_hidden=256", "batch_size=128")  # takes most memory
SMALL = ("--epochs", "1", "--grid", "text_hidden=64", "batch_size=128")
TINY = (  # 73,728 settings
    *("--epochs", "1", "--grid", "audio_hidden=2,3", "video_hidden=2,3", "text_hidden=4,6"),
    *("audio_dropout=0,0.1,0.2", "video_dropout=0,0.1,0.2", "text_dropout=0,0.1"),
    *("rank=1,2", "batch_size=8,16"),
)
TINY_CORPUS = CORPORA["mosi"]._replace(examples=(16, 8, 8), dims=(6, 5, 7), steps=4)
TINY_SETTINGS = 6000
CLUSTER_SETTINGS = 72
ROLES = ("driver", "helper", "worker")  # the helpers fork the workers, and clean up
RESULT = r"^ *\d+ .*\ds\b"  # the row of a finished setting: its count, and its seconds
POLL_SECONDS = 0.1
GROWTH = {"MB resident": 1.01, "open files": 1.0}  # what of each the soak may hold at its end


class Cost(NamedTuple):
    """One row of the table."""

    part: str
    what: str
    value: float
    unit: str


class Sample(NamedTuple):
    """What a search's processes hold, by role and number and by unit, after so many settings."""

    settings: int
    held: dict[str, dict[str, float]]


class Run(NamedTuple):
    """What a command took and printed: seconds from its start for each line, and samples."""

    seconds: float
    lines: list[tuple[float, str]]
    samples: list[Sample]

    @property
    def times(self) -> list[float]:
        """When the rows of finished settings were printed."""
        return [at for at, line in self.lines if re.search(RESULT, line)]

    @property
    def peak(self) -> float:
        """The most memory of all processes together, in MB."""
        return max(sum(held["MB"] for held in sample.held.values()) for sample in self.samples)

    @property
    def hourly(self) -> float:
        """Settings per hour between the first result and the last."""
        first, *_, last = times = self.times
        return 3600 * (len(times) - 1) / (last - first)


def sample(driver: int, settings: int) -> Sample:
    """Returns what a search's processes hold now: the driver, its children, and theirs."""
    found = Sample(settings, {})
    generation = [driver]
    for role in ROLES:
        children = []
        for process in generation:
            folder = Path(f"/proc/{process}")
            try:
                words = (folder / "smaps_rollup").read_text().split()
                pss, rss = (int(words[words.index(key) + 1]) for key in ("Pss:", "Rss:"))  # kB
                found.held[f"{role} {process}"] = {
                    "MB": pss * 1024 / 1e6,
                    "MB resident": rss * 1024 / 1e6,
                    "open files": len(os.listdir(folder / "fd")),
                }
                for thread in folder.glob("task/*/children"):
                    children += thread.read_text().split()
            except OSError:  # it has ended
                continue
        generation = children
    return found


def train(folder: Path, data_path: Path, *flags: str, watch: bool = False) -> Run:
    """Runs train_mosi.py with its files in a folder.

    Args:
        folder: Where results/ and models/ are to be.
        data_path: Folder of mosi.pkl.
        flags: Its other flags.
        watch: Whether to take samples, which slows it down.

    Raises:
        InputError: It failed.
    """
    command = [sys.executable, "-u", str(SCRIPT), "--data_path", str(data_path), *flags]
    command += ["--output_path", str(folder / "results"), "--model_path", str(folder / "models")]
    run = Run(0, [], [])
    over = threading.Event()
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def take_samples() -> None:
        while watch and not over.wait(POLL_SECONDS):
            run.samples.append(sample(process.pid, len(run.times)))

    watcher = threading.Thread(target=take_samples)
    watcher.start()
    assert process.stdout
    for line in process.stdout:
        run.lines.append((time.perf_counter() - started, line))
    status = process.wait()
    seconds = time.perf_counter() - started
    over.set()
    watcher.join()
    if status:
        said = run.lines[-1][1] if run.lines else "nothing"
        raise InputError(f"train_mosi.py ended with status {status} and said: {said}")
    return run._replace(seconds=seconds)


def start(options: argparse.Namespace, folder: Path) -> Iterator[Cost]:
    """Yields the seconds to the first setting."""
    times = []
    for turn in (folder / str(i) for i in range(3)):
        run = train(turn, options.data_path, "--settings", "1", *SMALL)
        with (turn / CSV).open(newline="") as file:
            (row,) = csv.DictReader(file)
        times.append(run.times[0] - float(row["Seconds"]))  # printed when it has ended
    yield Cost("start", "command to the first setting, least of 3", min(times), "s")
    yield Cost("start", "command to the first setting, most of 3", max(times), "s")


def memory(options: argparse.Namespace, folder: Path) -> Iterator[Cost]:
    """Yields peak memory against the number of settings, and of workers."""
    cases = [(f"settings: {count}", ["--settings", count, *SMALL]) for count in options.settings]
    for jobs in options.jobs:
        cases.append((f"workers: {jobs}", ["--jobs", jobs, "--settings", 8 * jobs, *LARGE]))
    for what, flags in cases:
        run = train(folder / what, options.data_path, *map(str, flags), watch=True)
        yield Cost("memory", what, run.peak, "MB")


def resume(options: argparse.Namespace, folder: Path) -> Iterator[Cost]:
    """Yields how long a command takes that finds all of its rows done, and one that doesn't."""
    train(folder, options.data_path, "--settings", "1", "--epochs", "1")
    append_rows(folder / CSV, options.rows)
    for left, what in enumerate(("nothing left", "one setting left")):
        flags = ("--settings", str(options.rows + left), "--epochs", "1")
        run = train(folder, options.data_path, *flags)
        assert len(run.times) == left, run.lines
        yield Cost("resume", f"{options.rows:,} rows, {what}", run.seconds, "s")
    peak = train(folder, options.data_path, *flags, watch=True).peak
    yield Cost("resume", f"{options.rows:,} rows: memory", peak, "MB")


def append_rows(path: Path, count: int) -> None:
    """Makes a CSV with its first row one of count rows, in the order of the search."""
    seed = json.loads(path.with_suffix(".json").read_text())["fixed"]["seed"]
    draw, settings = random.Random(seed), Settings(GRID)
    positions = (i for block in shuffled(len(settings), seed) for i in block.tolist())
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        for position in islice(positions, 1, count):
            losses = [f"{draw.uniform(5, 9):.6g}" for _ in (COLUMNS.valid_loss, *COLUMNS.release)]
            run = ["0", "ok", "7", "27", f"{draw.uniform(5, 90):.3f}"]
            own = [f"{draw.random():.6g}" for _ in COLUMNS.own]
            writer.writerow([*settings[position].texts(), *losses, *run, *own])


def soak(_: argparse.Namespace, folder: Path) -> Iterator[Cost]:
    """Yields what each process holds early and late in a long search; exits if it grew."""
    write_pickle(folder / "mosi.pkl", synthetic(TINY_CORPUS, seed=0))
    run = train(folder, folder, "--settings", str(TINY_SETTINGS), *TINY, watch=True)
    yield Cost("soak", f"{TINY_SETTINGS:,} settings", run.hourly / 3600, "settings/s")
    second, last = (
        [sample.held for sample in run.samples if sample.settings * 4 // TINY_SETTINGS == quarter]
        for quarter in (1, 3)
    )
    grown = []
    for name in sorted(last[0].keys() | second[0].keys()):
        for unit, most in GROWTH.items():
            before, after = (
                fmean([held[name][unit] for held in quarter if name in held] or [0])
                for quarter in (second, last)
            )
            what = f"{name}: in the last quarter {after:,.1f}, grown by"
            yield Cost("soak", what, after - before, unit)
            grown += [f"{name}'s {unit}"] if after > most * before else []
    if grown:
        sys.exit(f"grown from the second quarter to the last: {', '.join(grown)}")


def cluster(options: argparse.Namespace, folder: Path) -> Iterator[Cost]:
    """Yields settings per hour by the number of one-core nodes, and of local processes."""
    if not importlib.util.find_spec("ray"):
        raise InputError("cluster: needs Ray; python -m pip install -r requirements-cluster.txt")
    from ray.cluster_utils import Cluster

    flags = ("--settings", str(CLUSTER_SETTINGS), "--epochs", "3", "--stack", "1")
    os.environ["RAY_AUTH_MODE"] = "disabled"
    for jobs in options.jobs:
        head = {"num_cpus": 0, "include_dashboard": False}
        nodes = Cluster(initialize_head=True, head_node_args=head)
        try:
            for _ in range(jobs):
                nodes.add_node(num_cpus=1)
            os.environ["RAY_ADDRESS"] = str(nodes.address)  # which "auto" finds
            run = train(folder / f"nodes {jobs}", options.data_path, *flags, "--cluster", "auto")
        finally:
            nodes.shutdown()
        yield Cost("cluster", f"nodes of one core: {jobs}", run.hourly, "settings/h")
        run = train(folder / f"jobs {jobs}", options.data_path, *flags, "--jobs", str(jobs))
        yield Cost("cluster", f"local processes: {jobs}", run.hourly, "settings/h")


PARTS = {"start": start, "memory": memory, "resume": resume, "soak": soak, "cluster": cluster}


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints each cost, and writes the table as CSV, also if a part fails."""
    options = _flags().parse_args(words)
    own = Path(f"/proc/self/task/{os.getpid()}/children")
    if not own.exists() or not Path("/proc/self/smaps_rollup").exists():
        raise InputError("expected Linux, whose /proc tells what processes hold")
    make_folder(options.output_path)
    costs: list[Cost] = []
    try:
        for part in options.parts or [part for part in PARTS if part != "cluster"]:
            with tempfile.TemporaryDirectory(prefix="costs-") as folder:
                for cost in PARTS[part](options, Path(folder)):
                    print("{:8} {:44} {:10.2f} {}".format(*cost), flush=True)
                    costs.append(cost)
    finally:
        path = options.output_path / "costs.csv"
        rows = [(*cost[:2], f"{cost.value:.3f}", cost.unit) for cost in costs]
        write_csv(path, [Cost._fields, *rows])
    print(f"\nwritten to {path}")


def _flags() -> Parser:
    flags = Parser(description=__doc__)
    add = flags.add_argument
    add("parts", nargs="*", type=_part, metavar="PART", help="(default: all but cluster)")
    add("--data_path", type=folder, default=Path("data"), help="folder of mosi.pkl")
    add("--output_path", type=folder, default=Path("results"), help="folder for costs.csv")
    add("--jobs", type=whole, nargs="+", default=[1, 2, 4, 8], help="workers; of cluster, nodes")
    add("--settings", type=whole, nargs="+", default=[100, 400], help="of memory")
    add("--rows", type=whole_between(2, 8_000_000), default=1_000_000, help="of resume")
    return flags


def _part(text: str) -> str:
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"expected one of {', '.join(PARTS)}, got {text!r}")
    return text


if __name__ == "__main__":
    run_script(main)
