"""Measure what pruning saves and costs: on random orders of settings, and by the clock.

    python benchmarks/pruning.py --data_path DATA
    python benchmarks/pruning.py replay --rule 5:0.5,10:0.25 4:0.5,8:0.25 5:0.5
    python benchmarks/pruning.py --script pom --settings 60

- replay: the first settings of the search's draw are trained in full, once. On random orders of
  them, each rule decides from the validation losses what would have been pruned: which share of
  the epochs is trained, how often the best is the same one, and how much worse it is at most.
- clock: the search runs with and without --prune, each in a folder of its own that is removed.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

import joblib
import numpy as np

from data.files import InputError, make_folder, write_csv
from reporting.runs import read_run
from search.experiment import Experiment, Plan
from search.grid import Settings, narrow
from search.jobs import Trainer, chunks
from search.options import Parser, folder, run_script, whole, whole_between
from search.pruning import RULE, Rule, pilot_of, stops
from search.workers import LocalBackend, prepare
from training.result import Data, EarlyStopping, Limits, Result
from training.stacked import default_slots
from utils import load_corpus

PARTS = ("replay", "clock")
REPLAY = ("rule", "orders", "share of epochs", "same best", "mean loss", "largest loss")
CLOCK = ("search", "settings", "seconds", "share of seconds", "best validation loss")


class Replayed(NamedTuple):
    """What one order came to."""

    epochs: int
    best: float  # validation loss


def train(options: argparse.Namespace, experiment: Experiment) -> list[Result]:
    """Returns the results of the draw's first settings, in that order, trained to their end."""
    data = Data(*load_corpus(options.data_path, experiment.name).splits)
    devices = ["cpu"] * options.jobs
    settings = Settings(narrow(experiment.grid, options.grid or ()))
    plan = Plan(settings, settings.size, False, range(options.seed, options.seed + 1), {})
    jobs = list(plan.first(options.settings).jobs_left(set()))
    limits = Limits(options.epochs, options.patience)
    trainer = Trainer(experiment.task(data), limits, None, verbose=False)
    slots, stack = len(devices), lambda size: default_slots(size, "cpu")
    work = chunks(iter(jobs), len(jobs), lambda: slots, stack)
    messages = LocalBackend(devices).train(work, trainer, data)
    results = {(one.setting, one.seed): one for one in messages if isinstance(one, Result)}
    return [results[job]._replace(state_dict=None) for job in jobs]


def replay(results: Sequence[Result], limits: Limits, rule: Rule, pilots: int) -> Replayed:
    """Returns what a search in this order would have come to with pruning."""
    bounds = stops([pilot_of(result, rule) for result in results[:pilots]], rule)
    epochs, best = 0, np.inf
    for place, result in enumerate(results):
        stopping = EarlyStopping(limits._replace(stops=bounds if place >= pilots else ()))
        for losses in result.history:
            if not stopping.done:
                stopping.update(*losses)
        epochs += len(stopping.history)
        if stopping.status == "ok" and stopping.history:
            best = min(best, stopping.best_loss)
    return Replayed(epochs, best)


def replay_rules(options: argparse.Namespace, results: Sequence[Result]) -> Iterator[list[str]]:
    """Yields a row for each rule."""
    limits = Limits(options.epochs, options.patience)
    full = replay(results, limits, (), len(results))
    for rule in options.rule or [RULE]:
        draw = np.random.default_rng(options.seed)
        orders = (
            [results[i] for i in draw.permutation(len(results))] for _ in range(options.orders)
        )
        found = [replay(order, limits, rule, options.pilots) for order in orders]
        worse = np.array([one.best for one in found]) - full.best
        share = np.mean([one.epochs for one in found]) / full.epochs
        rule_text = ",".join(f"{epoch}:{quantile:g}" for epoch, quantile in rule)
        numbers = f"{share:.1%}", f"{np.mean(worse == 0):.1%}"
        losses = f"{worse.mean():.4f}", f"{worse.max():.4f}"
        yield [rule_text, str(options.orders), *numbers, *losses]


def clock(options: argparse.Namespace, experiment: Experiment) -> Iterator[list[str]]:
    """Yields a row for the search in full, and one for that with pruning."""
    main = import_module(f"train_{experiment.name}").main
    names = ("data_path", "settings", "epochs", "patience", "seed", "jobs", "grid")
    shared = {name: getattr(options, name) for name in names}
    base = 0.0
    for name, own in (("in full", {}), ("--prune", {"prune": True, "pilots": options.pilots})):
        with tempfile.TemporaryDirectory() as place:
            places = {"output_path": place, "model_path": place}
            started = time.perf_counter()
            path = main({**shared, **own, **places})
            seconds = time.perf_counter() - started
            run = read_run(path, {experiment.name: experiment})
        base = base or seconds
        best = f"{run.losses(run.ranking()[0])[0]:.4f}" if run.candidates else "none"
        yield [name, str(len(run.rows)), f"{seconds:.1f}", f"{seconds / base:.1%}", best]


def _rule(text: str) -> Rule:
    try:
        pairs = [pair.split(":") for pair in text.split(",")]
        rule = [(int(epoch), float(quantile)) for epoch, quantile in pairs]
    except ValueError:
        rule = [(0, 0.0)]
    if any(epoch < 1 or not 0 < quantile <= 1 for epoch, quantile in rule):
        raise argparse.ArgumentTypeError(f"expected EPOCH:QUANTILE[,...], got {text!r}")
    return rule


def _flags() -> Parser:
    flags = Parser(description=__doc__)
    add = flags.add_argument
    add("parts", nargs="*", metavar="PART", help=f"{' or '.join(PARTS)} (default: both)")
    add("--script", choices=("mosi", "pom"), default="mosi", help="whose settings")
    add("--data_path", default="./data", help="folder of the pickle")
    add("--output_path", type=folder, default=Path("results"), help="folder for pruning_*.csv")
    add(
        "--settings",
        type=whole_between(2, 10**6),
        default=150,
        help="how many to train: more than pilots",
    )
    add("--pilots", type=whole, default=10, help="how many the others are held against")
    rule = "EPOCH:QUANTILE[,...], one or more rules to replay (default: that of --prune)"
    add("--rule", type=_rule, nargs="+", metavar="RULE", help=rule)
    add("--orders", type=whole, default=400, help="random orders to replay")
    add("--epochs", type=whole, default=50, help="most epochs per setting")
    add("--patience", type=whole, default=10, help="as of the train scripts")
    add("--grid", nargs="+", metavar="NAME=VALUE[,VALUE...]", help="as of the train scripts")
    add("--jobs", type=whole, default=joblib.cpu_count(), help="worker processes")
    add("--seed", type=whole_between(0, 2**31), default=0, help="of the draw and the orders")
    return flags


def main(words: Sequence[str] | None = None) -> None:
    """Measures, prints the tables, and writes them as CSV."""
    options = _flags().parse_args(words)
    parts = options.parts or PARTS
    if unknown := set(parts) - set(PARTS):
        raise InputError(f"PART: expected {' or '.join(PARTS)}, got {min(unknown)}")
    if options.pilots >= options.settings:
        raise InputError(
            f"--pilots: expected fewer than --settings, got {options.pilots} with "
            f"{options.settings}; name fewer of the one or more of the other"
        )
    make_folder(options.output_path)
    prepare()
    experiment = import_module(f"train_{options.script}").EXPERIMENT
    if "replay" in parts:
        rows = replay_rules(options, train(options, experiment))
        _tell(options, "replay", [REPLAY, *rows])
    if "clock" in parts:
        _tell(options, "clock", [CLOCK, *clock(options, experiment)])


def _tell(options: argparse.Namespace, part: str, rows: Sequence[Sequence[str]]) -> None:
    """Prints a table, and writes it."""
    print()
    for row in rows:
        print(" | ".join(row))
    path = options.output_path / f"pruning_{options.script}_{part}.csv"
    write_csv(path, rows)
    print(f"written to {path}\n")


if __name__ == "__main__":
    run_script(main)
