"""What sets one data set's search apart, and what a command is to train."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from typing import NamedTuple

import numpy as np

from search.columns import Columns
from search.grid import Grid, Settings, shuffled
from search.table import Table
from training.result import Data, Task
from training.setting import Setting
from utils import Splits


class Experiment(NamedTuple):
    """What sets one data set's search apart.

    Attributes:
        name: Of the data set: that of its pickle, and of its table in hyperparams.txt.
        grid: The released search space.
        columns: Of the CSV.
        load: The loader, given the options and IEMOCAP's emotion.
        task: The loss and the scores, given the data.
    """

    name: str
    grid: Grid
    columns: Columns
    load: Callable[[argparse.Namespace, str | None], Splits]
    task: Callable[[Data], Task]


class Plan(NamedTuple):
    """What a command is to train.

    Attributes:
        settings: All that there are.
        count: How many of them, the first ones in the search's order.
        in_order: Whether that is the order in which they stand; else a random one of the seed.
        names: What single settings are called in hyperparams.txt.
    """

    settings: Settings | list[Setting]
    count: int
    in_order: bool
    names: dict[Setting, str]

    def positions(self, seed: int) -> Iterator[np.ndarray]:
        """Yields the positions of the settings to train, in blocks."""
        left = self.count
        everything = [np.arange(self.count)]
        for block in everything if self.in_order else shuffled(len(self.settings), seed):
            yield block[:left]
            left -= len(block)
            if left <= 0:
                return

    def find(self, table: Table) -> np.ndarray:
        """Returns the positions of a table's settings: (rows,), negative for those not planned."""
        if isinstance(self.settings, Settings):
            return self.settings.positions(table.values, table.places)
        position = {setting: i for i, setting in enumerate(self.settings)}
        found = [position.get(setting, -1) for setting, *_ in table.rows()]
        return np.array(found, dtype=np.int64)
