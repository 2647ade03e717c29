"""What sets one data set's search apart, and what a command is to train."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Set
from typing import NamedTuple

from search.columns import Columns
from search.grid import Grid, Settings, shuffled
from search.table import Table
from training.result import Data, Task
from training.setting import Setting
from training.stacked import Job
from utils import InputError


class Experiment(NamedTuple):
    """What sets one data set's search apart."""

    name: str  # of its pickle, its table in hyperparams.txt, and its row among the corpora, if any
    grid: Grid  # the released search space
    columns: Columns  # of the CSV
    task: Callable[[Data], Task]  # the loss and the scores, given the data
    outputs: tuple[str, ...] = ()  # what the model's outputs are called, if there are several
    classes: bool = False  # whether they are logits; then labels are one-hot, or class numbers

    def task_of(self, data: Data, output_dim: int | None = None) -> Task:
        """Returns the task.

        Raises:
            InputError: The labels have other columns than the model would have outputs, or it
                would have others than asked for.
        """
        task, columns = self.task(data), data.train.label.shape[1]
        if output_dim not in (None, task.output_dim):
            raise InputError(
                f"--output_dim: expected {task.output_dim}, the outputs for {self.name}'s labels, "
                f"got {output_dim}; other labels take a script of your own: docs/own-data.md"
            )
        if not self.classes and columns != task.output_dim:
            raise InputError(
                f"train_{self.name}.py: expected labels with a column for each of its "
                f"{task.output_dim} outputs, got {columns}"
            )
        return task


class Plan(NamedTuple):
    """What a command is to train: settings, each with several seeds."""

    settings: Settings | list[Setting]  # all that there are
    count: int  # how many of them, the first ones in the search's order
    in_order: bool  # whether that is the order in which they stand; else the random one of a seed
    seeds: range  # those of each setting; the first one draws the order
    names: dict[Setting, str]  # what single settings are called in hyperparams.txt

    @property
    def total(self) -> int:
        """How many settings there are, those beyond `count` included."""
        return self.settings.size if isinstance(self.settings, Settings) else len(self.settings)

    def first(self, count: int) -> Plan:
        """Returns the plan of so many settings at most: the first ones in the search's order."""
        return self._replace(count=min(count, self.total))

    def chosen(self) -> Iterator[Setting]:
        """Yields the settings to train, in the search's order."""
        return map(self.settings.__getitem__, self._positions())

    def jobs_left(self, done: Set[int]) -> Iterator[Job]:
        """Yields the settings and seeds to train, in the search's order.

        Args:
            done: The numbers, as `find` gives them, of those that need no training any more.
        """
        for position in self._positions():
            for number, seed in enumerate(self.seeds, position * len(self.seeds)):
                if number not in done:
                    yield self.settings[position], seed

    def count_done(self, done: Set[int]) -> int:
        """Returns how many of the trainings to do are done."""
        if self.count == self.total:
            return len(done)
        seeds_done = Counter(number // len(self.seeds) for number in done)
        count = 0
        for position in self._positions():
            if not seeds_done:  # of a large grid, usually after its first settings
                break
            count += seeds_done.pop(position, 0)
        return count

    def find(self, table: Table) -> set[int]:
        """Returns a number for each row that is one of the trainings, whether to do or not."""
        if isinstance(self.settings, Settings):
            positions = self.settings.positions(table.values, table.places).tolist()
        else:
            position = {setting: i for i, setting in enumerate(self.settings)}
            positions = [position.get(setting, -1) for setting, *_ in table.rows()]
        rows = zip(positions, table.seeds.tolist(), strict=True)
        return {
            position * len(self.seeds) + self.seeds.index(seed)
            for position, seed in rows
            if position >= 0 and seed in self.seeds
        }

    def _positions(self) -> Iterator[int]:
        """Yields the positions of the settings to train."""
        if self.in_order:
            yield from range(self.count)
            return
        left = self.count
        for block in shuffled(self.total, self.seeds[0]):
            yield from block[:left].tolist()
            left -= len(block)
            if left <= 0:
                return
