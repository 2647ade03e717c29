"""Show a search on a Ray cluster of this machine, and how large a cluster its driver can feed.

python benchmarks/cluster.py --data_path data

Needs requirements-cluster.txt. Prints a table and writes it as cluster.csv. Starts aren't counted.

- rate: settings per hour that nodes with a core each train, beside as many local processes. The
  settings cover all batch sizes and text widths of MOSI equally.
- driver: train_mosi.py's search, rows, model file and lines included, on workers that only pretend:
  they answer with a model after a drawn time. The processor time per result of the driver, and of
  the mailbox that results come through, says what they could take with a core each; here they
  share the cores with the workers.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch

import numpy as np
from ray.cluster_utils import Cluster as Nodes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))


import train_mosi
from benchmarks.costs import Cost, measure, parse_parts, processor_seconds, stat
from benchmarks.throughput import sample
from benchmarks.throughput import workers as in_processes
from search import search
from search.cluster import connected
from search.jobs import Epoch, Trainer, chunks
from search.options import run_script, whole
from search.records import Records
from search.workers import prepare
from train_mosi import EXPERIMENT
from training.reference import initial_model
from training.result import Data, Limits, Result
from training.setting import Setting
from training.stacked import Job, default_slots
from utils import load_mosi


class Pretending(NamedTuple):
    """Stands in for a trainer: answers after a drawn time, with a model of the setting's size."""

    seconds: float  # per setting, on average

    def train(
        self, jobs: Sequence[Job], data: Data, tell: Callable[[Result | Epoch], None]
    ) -> None:
        """Tells a result for each job, never a better one than before."""
        for setting, seed in jobs:
            draw = random.Random(f"{setting} {seed}")
            if self.seconds:
                time.sleep(draw.expovariate(1 / self.seconds))
            state = initial_model(setting, seed, data.input_dims, 1).state_dict()
            loss = draw.uniform(1, 2)
            columns = EXPERIMENT.columns
            scores = dict.fromkeys((*columns.release, *columns.own), loss)
            history = [(loss, loss)] * 30
            tell(Result(setting, seed, "ok", loss, 10, 30, self.seconds, scores, history, state))


@contextlib.contextmanager
def cluster_of(nodes: int, cores: int) -> Iterator[None]:
    """Starts a cluster that "auto" finds: a head without cores, and nodes with some."""
    head = {"num_cpus": 0, "include_dashboard": False}
    os.environ["RAY_AUTH_MODE"] = "disabled"
    cluster = Nodes(initialize_head=True, head_node_args=head)
    for _ in range(nodes):
        cluster.add_node(num_cpus=cores)
    os.environ["RAY_ADDRESS"] = str(cluster.address)
    try:
        yield
    finally:
        cluster.shutdown()


def rate(options: argparse.Namespace) -> Iterator[Cost]:
    """Yields settings per hour by the number of cores, on a cluster and in local processes."""
    train, valid, test, _ = load_mosi(options.data_path)
    data = Data(train, valid, test)
    limits = Limits(options.epochs, options.epochs)
    trainer = Trainer(EXPERIMENT.task(data), limits, None, verbose=False)
    prepare()
    for cores in options.cores:
        settings = sample(options.settings * cores, seed=0)

        def work(of: Sequence[Setting], cores: int = cores) -> Iterator[list[Job]]:
            jobs = ((setting, 0) for setting in of)
            return chunks(jobs, len(of), lambda: cores, lambda size: default_slots(size, "cpu"))

        with cluster_of(cores, 1), connected("auto", cuda=False, jobs=None) as cluster:
            first = [[(setting, 1)] for setting in settings[:cores] * 2]
            list(cluster.train(iter(first), trainer, data))  # the workers import torch
            seconds = timed(cluster.train(work(settings), trainer, data), len(settings))
        hourly = 3600 * len(settings)
        yield Cost("rate", f"nodes of one core: {cores}", hourly / seconds, "settings/h")
        seconds = in_processes(settings, data, options.epochs, ["cpu"] * cores, None)
        yield Cost("rate", f"local processes: {cores}", hourly / seconds, "settings/h")


def timed(messages: Iterator[Result | Epoch | str | None], count: int) -> float:
    """Returns the seconds that so many results take."""
    started = time.perf_counter()
    assert sum(isinstance(message, Result) for message in messages) == count
    return time.perf_counter() - started


def driver(options: argparse.Namespace) -> Iterator[Cost]:
    """Yields what a search's driver costs per setting, and how many it takes in a second."""
    with cluster_of(options.nodes, options.node_cores):
        for mean in options.means:
            workers = options.nodes * options.node_cores
            what = f"{workers} workers, {mean:g} s each" if mean else f"{workers} workers, at once"
            count = options.answers if not mean else min(options.answers, int(30 * workers / mean))
            wall, own, mailbox = pretend(options.data_path, mean, count) * 1000 / (count - 1)
            yield Cost("driver", f"{what}: between results", wall, "ms")
            yield Cost("driver", f"{what}: driver per result", own, "ms")
            yield Cost("driver", f"{what}: mailbox per result", mailbox, "ms")
            yield Cost("driver", f"{what}: so they can take", 1000 / max(own, mailbox), "per s")


def pretend(data_path: Path, mean: float, count: int) -> np.ndarray:
    """Returns the seconds from the first row to the last, and the processor seconds in them.

    Shape:
        Wall clock, the driver's, its mailbox's: (3,).
    """
    times: list[np.ndarray] = []
    added = 0
    add = Records.add

    def timed_add(*arguments: object) -> object:
        nonlocal added
        added += 1
        if added in (1, count):
            now = (time.perf_counter(), time.process_time(), mailbox_seconds())
            times.append(np.array(now))
        return add(*arguments)  # pyright: ignore

    flags = {"data_path": data_path, "settings": count, "cluster": "auto"}
    with (
        tempfile.TemporaryDirectory(prefix="cluster-") as folder,
        contextlib.redirect_stdout(io.StringIO()),
        contextlib.redirect_stderr(io.StringIO()),
        patch.object(search, "Trainer", lambda *_: Pretending(mean)),
        patch.object(Records, "add", timed_add),
    ):
        train_mosi.main(flags | {"output_path": folder, "model_path": folder})
    return times[1] - times[0]


def mailbox_seconds() -> float:
    """Returns the processor seconds of the one process that is a mailbox."""
    (process,) = (
        path.parent.name
        for path in Path("/proc").glob("[0-9]*/cmdline")
        if b"::Mailbox" in path.read_bytes()
    )
    return processor_seconds(stat(process))


WAYS = {"rate": rate, "driver": driver}


def parse() -> argparse.Namespace:
    """Returns the flags."""
    flags = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = flags.add_argument
    add("--data_path", type=Path, default="data", help="folder of mosi.pkl (default: data)")
    add("--output_path", type=Path, default="results", help="folder for cluster.csv (results)")
    add("--cores", type=whole, nargs="+", default=[1, 2], help="of rate (1 2)")
    add("--settings", type=whole, default=36, help="of rate, per core (default: 36)")
    add("--epochs", type=whole, default=3, help="of rate (default: 3)")
    add("--nodes", type=whole, default=4, help="of driver (default: 4)")
    add("--node_cores", type=whole, default=4, help="of a node of driver (default: 4)")
    add("--means", type=float, nargs="+", default=[0.5, 0.1, 0], help="seconds to an answer")
    add("--answers", type=whole, default=5000, help="of driver, at most (default: 5000)")
    return parse_parts(flags, WAYS)


def main() -> None:
    """Measures, prints the table, and writes it as CSV."""
    measure(WAYS, parse(), "cluster.csv")


if __name__ == "__main__":
    run_script(main)
