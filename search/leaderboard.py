"""The best settings of a search by their mean validation loss; test scores don't count."""

from __future__ import annotations

import heapq
import math
import statistics
from typing import NamedTuple

import numpy as np

from search.table import Table
from training.setting import Setting


class Row(NamedTuple):
    """What a search reads back of one row."""

    setting: Setting
    seed: int
    valid_loss: float  # NaN unless the status is ok: it ranks settings
    test_score: float


class Standing(NamedTuple):
    """A setting's place on the leaderboard; settings compare by their mean validation loss."""

    mean_valid_loss: float  # infinite if a seed has none
    setting: Setting
    valid_losses: tuple[float, ...]
    test_scores: tuple[float, ...]


class Leaderboard:
    """Ranks settings as their rows come in."""

    def __init__(self, seeds: int = 1, size: int = 5) -> None:
        self.seeds, self.size = seeds, size
        self._best: list[Standing] = []
        self._unfinished: dict[Setting, list[Row]] = {}

    def add(self, row: Row) -> None:
        """Takes in one finished training."""
        rows = self._unfinished.setdefault(row.setting, [])
        rows.append(row)
        if len(rows) >= self.seeds:
            self._best = heapq.nsmallest(self.size, [*self._best, self._standing(row.setting)])
            del self._unfinished[row.setting]

    def add_all(self, table: Table) -> None:
        """Takes in a table of validation losses and test scores.

        Only rows that can be among the best, or whose other seeds are to come, are looked at.
        """
        if not len(table.seeds):
            return
        _, place, seeds = np.unique(table.numbers(), return_inverse=True, return_counts=True)
        losses = np.where(np.isnan(table.scores[0]), math.inf, table.scores[0])
        means = np.bincount(place, losses) / seeds
        finished = seeds >= self.seeds
        ranked = np.sort(means[finished])
        last = ranked[self.size - 1] if len(ranked) >= self.size else math.inf
        contend = ~finished | (means <= last + abs(last) * 1e-9)  # summed in another order
        for setting, seed, (valid_loss, test_score, *_) in table.where(contend[place]).rows():
            self.add(Row(setting, seed, valid_loss, test_score))

    def best(self) -> list[Standing]:
        """Returns the best settings, the best first, those with seeds still to come included.

        A setting with a seed that was pruned, diverged or failed has no place among them.
        """
        standings = [*self._best, *map(self._standing, self._unfinished)]
        finite = (one for one in standings if math.isfinite(one.mean_valid_loss))
        return heapq.nsmallest(self.size, finite)

    def _standing(self, setting: Setting) -> Standing:
        rows = sorted(self._unfinished[setting], key=lambda row: row.seed)
        losses = tuple(row.valid_loss for row in rows)
        mean = math.inf if any(map(math.isnan, losses)) else statistics.fmean(losses)
        return Standing(mean, setting, losses, tuple(row.test_score for row in rows))
