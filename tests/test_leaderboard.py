"""The best settings of a search: by validation, over seeds, at once and one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
from test_records import SETTING

from search.leaderboard import Leaderboard, Row
from search.table import Table
from training.setting import Setting


def row(rank: int, loss: float, test: float = 0.0, seed: int = 0) -> Row:
    return Row(SETTING._replace(rank=rank), seed, loss, test)


def test_the_leaderboard_ranks_by_validation_and_never_by_test() -> None:
    board = Leaderboard()
    losses = {1: 0.7, 2: 0.5, 3: 0.9, 4: 0.6, 5: math.nan, 6: 0.8, 7: 1.0}
    for rank, loss in losses.items():
        board.add(row(rank, loss, test=1 - loss))
    assert [standing.setting.rank for standing in board.best()] == [2, 4, 1, 6, 3]
    assert board.best()[0].test_scores == (0.5,)


def test_the_leaderboard_ranks_by_the_mean_over_seeds() -> None:
    board = Leaderboard(seeds=2)
    for seed, losses in enumerate([(0.1, 0.5, 0.2), (0.9, 0.3, math.nan)]):
        for rank, loss in enumerate(losses, 1):
            board.add(row(rank, loss, seed=seed))
    board.add(row(4, 0.45))  # its other seed is still to come
    best = board.best()
    assert [standing.setting.rank for standing in best] == [2, 4, 1]
    assert best[0].valid_losses == (0.5, 0.3)
    assert best[0].mean_valid_loss == pytest.approx(0.4)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_leaderboard_takes_in_a_table_as_it_takes_in_its_rows(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    count = 400
    values = [[value] for value in SETTING]
    values[Setting._fields.index("rank")] = list(range(1, count // seeds + 2))
    places = np.zeros((len(values), count), dtype=int)
    places[Setting._fields.index("rank")] = rng.permutation(count) // seeds
    losses = rng.integers(1, 40, count) / 8  # many are the same
    losses[rng.random(count) < 0.1] = math.nan
    scores = np.stack([losses, rng.random(count)])
    table = Table(values, places, np.arange(count), scores, np.zeros(count, dtype=bool))
    for part in (table, table.where(np.arange(count) < 4), table.where(np.arange(count) < 0)):
        at_once, one_by_one = Leaderboard(seeds), Leaderboard(seeds)
        at_once.add_all(part)
        for setting, seed, scores in part.rows():
            one_by_one.add(Row(setting, seed, *scores))
        assert repr(at_once.best()) == repr(one_by_one.best())
        at_once.add(row(7, 0.5, seed=count))
        one_by_one.add(row(7, 0.5, seed=count))
        assert repr(at_once.best()) == repr(one_by_one.best())
