"""The search that the three train scripts share: flags, draws, progress, and what is kept."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import itertools
import platform
import sys
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import torch

from data.assembly import SYNTHETIC_NOTE
from search.cluster import Cluster, connected
from search.experiment import Experiment, Plan
from search.grid import Settings, narrow
from search.hyperparams import read_hyperparams
from search.jobs import Trainer, chunks
from search.leaderboard import Leaderboard
from search.messages import Epoch, Notice, Progress
from search.next_steps import next_steps, with_settings
from search.output import checked_output
from search.printing import Rows, counted, say
from search.progress import Display, Estimate
from search.provenance import Provenance
from search.pruning import Pruning, pruning_condition
from search.records import Records
from search.run_files import RunFiles
from search.signals import end_by, ending_at_signals
from search.table import Table
from search.workers import LocalBackend, prepare
from training.parameters import Sizes
from training.result import Data, Limits, Result
from training.setting import Setting, model_config
from training.stacked import default_slots
from utils import Loaded, load_corpus

_FORESEEABLE = 10_000  # settings; days of training


@checked_output(drops=True)
def search(experiment: Experiment, options: argparse.Namespace, emotion: str | None = None) -> Path:
    """Trains what the options ask for and has not been trained yet; returns the CSV's path.

    IEMOCAP's emotion is put into the file names.

    Raises:
        InputError: Something that was given doesn't fit; nothing is overwritten.
        KeyboardInterrupt: By Ctrl-C, once everything is in order.
    """
    plan = _plan(experiment, options, emotion)
    if not options.cluster:
        prepare(compiled=options.stack != 1 and not options.cuda)
    loaded = load_corpus(
        options.data_path, experiment.name, options.max_len, emotion, options.without
    )
    for note in loaded.notes:
        say(note)
    if loaded.synthetic:
        say(SYNTHETIC_NOTE)
    data = Data(*loaded.splits)
    options.output_dim = experiment.task_of(data, options.output_dim).output_dim
    folders = options.output_path, options.model_path
    files = RunFiles.named(*folders, options.signiture, emotion, options.run_id)
    provenance = _provenance(experiment, options, emotion, plan, loaded)
    records = Records(files, experiment.columns, provenance)
    run = _Search(experiment, options, emotion, plan, data, records)
    with ending_at_signals(run.end), records:
        run.run()
    if run.interrupt:
        end_by(run.interrupt)
    return records.files.csv


def _plan(experiment: Experiment, options: argparse.Namespace, emotion: str | None) -> Plan:
    """Returns the settings that hyperparams.txt lists, or those of the grid."""
    names: dict[Setting, list[str]] = {}
    if options.hyperparams is not None:
        chosen = (emotion,) if emotion else ()
        found = read_hyperparams(Path(options.hyperparams), experiment.name, chosen)
        for name, setting in found.items():
            names.setdefault(setting, []).append(name)
        settings, total = list(names), len(names)
    else:
        settings = Settings(narrow(experiment.grid, options.grid or (), options.without))
        total = settings.size
    return Plan(
        settings,
        count=min(total, options.settings or total),
        in_order=options.hyperparams is not None,
        seeds=range(options.seed, options.seed + options.repeats),
        names={setting: ", ".join(called) for setting, called in names.items()},
    )


def _provenance(
    experiment: Experiment,
    options: argparse.Namespace,
    emotion: str | None,
    plan: Plan,
    loaded: Loaded,
) -> Provenance:
    return Provenance(
        data_set=experiment.name,
        emotion=emotion,
        data_file=str(options.data_path / f"{experiment.name}.pkl"),
        fixed={
            "data sha256": loaded.sha256,
            "epochs": options.epochs,
            "patience": options.patience,
            "max_len": options.max_len,
            "output_dim": options.output_dim,
            "seed": options.seed,
            "device": "cuda" if options.cuda else "cpu",
            "path": "reference" if options.stack == 1 else "fast",
            "torch": torch.__version__.split("+")[0],
            "columns": experiment.columns.all(),
            **pruning_condition(plan, options.pilots),
            **({"without": options.without} if options.without else {}),
            **({"synthetic": True} if loaded.synthetic else {}),
        },
        versions={"python": platform.python_version(), "numpy": np.__version__},
        command=sys.argv,
        started=datetime.datetime.now(datetime.timezone.utc).isoformat(),
    )


class _Search:
    """One command's search, once its input is known to be good."""

    def __init__(
        self,
        experiment: Experiment,
        options: argparse.Namespace,
        emotion: str | None,
        plan: Plan,
        data: Data,
        records: Records,
    ) -> None:
        self.experiment, self.options, self.plan = experiment, options, plan
        self.data, self.records = data, records
        self.about = {"data_set": experiment.name, "emotion": emotion}
        self.done: set[int] = set()  # numbers of trainings, as the plan gives them
        self.leaderboard = Leaderboard(options.repeats)
        self.pruning = Pruning(plan, options.pilots, records)
        self.interrupt: int | None = None  # the signal that asked for an end

    def end(self, number: int) -> None:
        """Asks for an end, by this signal."""
        self.interrupt = number

    def run(self) -> None:
        """Trains what is left, and prints how it went."""
        table = self.records.read()
        self._take_in(table)
        self.wanted = self.plan.count * self.options.repeats
        self.finished = self.plan.count_done(self.done)
        self.rows = Rows(self.plan, table, self.experiment.columns, self.wanted)
        self._print_head()
        if self.finished < self.wanted and not self.interrupt:
            self._train()
        self._print_end()

    def _take_in(self, table: Table) -> None:
        """Notes what earlier commands finished, also with another grid and other seeds."""
        seeds = self.plan.seeds
        table = table.where((table.seeds >= seeds[0]) & (table.seeds <= seeds[-1]))
        self.leaderboard.add_all(table)
        self.done = self.plan.find(table)
        self.pruning.take_in(table, self.done)

    def _devices(self) -> list[str]:
        if self.options.cluster:
            return ["cuda" if self.options.cuda else "cpu"]
        left = max(1, self.wanted - self.finished)
        if self.options.cuda:
            count = torch.cuda.device_count()
            return [f"cuda:{i}" for i in range(min(self.options.jobs or count, count, left))]
        return ["cpu"] * min(self.options.jobs or joblib.cpu_count(), left)

    def _train(self) -> None:
        options, task = self.options, self.experiment.task_of(self.data)
        jobs, left = self.plan.jobs_left(self.done), self.wanted - self.finished

        def stack(size: Sizes) -> int:
            return options.stack or default_slots(size, "cuda" if options.cuda else "cpu")

        # on a cluster, telling one takes a worker as long as some epochs of training
        tells_epochs = options.verbose or not options.cluster
        estimate = Estimate(left, options.epochs, self.pruning.mean_epochs)
        display = Display(estimate, self.finished, self._is_endless())
        with contextlib.closing(display), self._backend() as backend:
            for count, stops, line in self.pruning.phases(left, self.done, options.epochs):
                if line:
                    display.say(line)
                estimate.start_phase()
                limits = Limits(options.epochs, options.patience, stops)
                trainer = Trainer(task, limits, options.stack, tells_epochs)
                work = chunks(itertools.islice(jobs, count), count, backend.slots, stack)
                with contextlib.closing(backend.train(work, trainer, self.data)) as messages:
                    self._take(messages, display)
                if self.interrupt:
                    break

    def _take(self, messages: Iterator[Progress], display: Display) -> None:
        """Keeps and prints what comes from the workers."""
        for message in messages:
            match message:
                case Result():
                    self._keep(message, display)
                case Epoch(setting, seed, epoch):
                    display.estimate.take_epoch((setting, seed), epoch)
                    if self.options.verbose:
                        display.say(self.rows.epoch(message))
                case Notice(line):
                    display.say(line)
            display.show()
            if self.interrupt:
                break

    def _backend(self) -> contextlib.AbstractContextManager[LocalBackend | Cluster]:
        """Returns what the settings train on: this machine's workers or a cluster's."""
        if self.options.cluster:
            return connected(self.options.cluster, self.options.cuda, self.options.jobs)
        return contextlib.nullcontext(LocalBackend(self._devices()))

    def _keep(self, result: Result, display: Display) -> None:
        config = model_config(result.setting, self.data.input_dims, self.options.output_dim)
        self.pruning.add(result)
        row = self.records.add(result, {**self.about, "config": config})
        self.leaderboard.add(row)
        self.finished += 1
        display.estimate.take_end(result)
        for line in self.rows.result(self.finished, result, row):
            display.say(line)

    def _is_endless(self) -> bool:
        return not self.options.settings and self.plan.count > _FORESEEABLE

    def _print_head(self) -> None:
        options, sizes = self.options, "/".join(str(len(split)) for split in self.data)
        emotion = self.about["emotion"]
        say(
            f"{self.experiment.name}{f', {emotion}' if emotion else ''}: "
            f"{sizes} examples (train/valid/test)"
        )
        say(
            f"audio, video, text of {', '.join(map(str, self.data.input_dims))} features"
            f"{' (0: left out)' * bool(options.without)}"
        )
        device = ", ".join(sorted(set(self._devices())))
        say(f"{device}, seed {options.seed}, torch {torch.__version__}")
        plan, settings = self.plan, counted(self.plan.total, "setting")
        if plan.count < plan.total:
            settings = f"{plan.count:,} of {settings}"
        each = f"{counted(options.repeats, 'seed')} each"
        say(f"{settings}, {each}; {self.finished:,} of {self.wanted:,} are done")
        say(f"results: {self.records.files.csv}")
        say(f"model: {self.records.files.model}")
        if self.finished >= self.wanted:
            say("nothing is left to train: all of them are in the results")
        elif self._is_endless():
            say("this has no end in practice: Ctrl-C ends it and keeps what is finished;")
            say("--settings 100 trains as many of them, drawn at random")
        print()
        for line in self.rows.legend():
            say(line)
        if self.finished < self.wanted:
            say(self.rows.head())

    def _print_end(self) -> None:
        best, files = self.leaderboard.best(), self.records.files
        if self.options.pilots:
            say(self.pruning.summary())
        if not best:
            say("no setting has a validation loss yet")
        else:
            print()
            say("the best settings by validation")
            say(self.rows.head(best=True))
            for place, standing in enumerate(best, 1):
                say(self.rows.best(place, standing))
            print()
            say(f"results: {files.csv}")
            say(f"how they came about: {files.json}")
            say(f"best model: {files.model}")
            print()
            for line in next_steps(self.experiment.name, self.options, files):
                say(line)
        if self.interrupt:
            say("it was interrupted; the same command goes on with it")
        elif self.options.words is not None and self.plan.count < self.plan.total:
            more = min(2 * self.plan.count, self.plan.total)
            say(f"go on:   {with_settings(self.options.words, more)}")
