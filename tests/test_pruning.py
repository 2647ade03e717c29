"""--prune: settings that are behind the pilots stop early, and rows depend on nothing else."""

from __future__ import annotations

import json
import math
from collections import Counter

import pytest
from conftest import Options
from test_faults import files
from test_search import Rows, rows

import train_mosi
from search.provenance import Pilot
from search.pruning import pilot_of, stops
from training.result import Result
from training.setting import Setting

PILOTS = 4
LOSSES = [5.0, 1.0, 3.0, 2.0, 4.0, math.nan, 6.0]  # of validation, by epoch
GRID = ["audio_hidden=3", "video_hidden=3", "text_hidden=6", "learning_rate=0.001,0.003,0.01"]


@pytest.fixture
def pruned(options: Options) -> Options:
    """A small search of which some settings stop after 5 and after 10 epochs."""
    own = {"grid": GRID, "epochs": 14, "settings": 16, "seed": 3, "prune": True, "pilots": PILOTS}
    return {**options, **own}


def full(options: Options) -> Options:
    """Returns the same search without pruning, as another run."""
    return {**options, "prune": False, "pilots": None, "run_id": "full"}


def bounds(options: Options) -> dict[int, float]:
    """Returns the bounds after epochs 5 and 10, from the pilots in the JSON of a search."""
    pilots = json.loads(files(options)[1].read_text())["pilots"].values()
    assert len(pilots) == PILOTS
    five, ten = zip(*(pilot["best_losses"] for pilot in pilots), strict=True)
    return {5: sorted(five)[1], 10: sorted(ten)[0]}


def check_rule(found: Rows, unpruned: Rows, options: Options) -> None:
    """Sees that what the pilots are not ahead of is as without pruning, and the rest stopped."""
    highest, statuses = bounds(options), Counter()
    for key, row in found.items():
        statuses[row["Status"], row["Epochs"]] += 1
        if row["Status"] == "ok":
            assert row == unpruned[key]
            continue
        assert row["Status"] == "pruned"
        assert float(row["Best Validation MAE"]) > highest[int(row["Epochs"])]
        assert float(row["Best Validation MAE"]) >= float(unpruned[key]["Best Validation MAE"])
        assert 1 <= int(row["Best Epoch"]) <= int(row["Epochs"])
        assert {row[name] for name in train_mosi.COLUMNS.release} == {"nan"}
    assert {("pruned", "5"), ("pruned", "10"), ("ok", "14")} <= set(statuses)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ([1], (1, 1)),
        ([2, 1], (1, 1)),
        ([1, 2, 3], (1, 1)),
        ([4, 3, 2, 1], (2, 1)),
        ([*range(1, 11)], (5, 2)),
        ([3] * 10, (3, 3)),
        ([None, 1, 1, 2], (1, 1)),
        ([None, None, None, 4, 5, 6], (6, 4)),
        ([None] * 3, (math.inf, math.inf)),
    ],
)
def test_the_bound_is_a_quantile_of_the_pilots(
    losses: list[float | None], expected: tuple[float, float]
) -> None:
    pilots = [Pilot(epochs=9, best_losses=[] if loss is None else [loss, loss]) for loss in losses]
    assert stops(pilots) == tuple(zip((5, 10), expected, strict=True))


@pytest.mark.parametrize(
    ("status", "count", "expected"),
    [("ok", 4, [1.0, 1.0]), ("ok", 1, [5.0, 5.0]), ("diverged", 6, []), ("failed", 0, [])],
)
def test_a_pilot_that_ended_early_counts_with_its_last_best(
    status: str, count: int, expected: list[float]
) -> None:
    setting = Setting(4, 4, 6, 0.0, 0.0, 0.0, 0.001, 0.001, 1, 4, 0.0)
    history = [(0.0, loss) for loss in LOSSES[:count]]
    result = Result(setting, 0, status, math.nan, 0, count, 0.0, {}, history, None)
    assert pilot_of(result) == {"epochs": count, "best_losses": expected}


def test_settings_behind_the_pilots_stop_and_others_are_trained_as_ever(
    pruned: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(train_mosi.main(pruned))
    output = capsys.readouterr().out
    check_rule(found, rows(train_mosi.main(full(pruned))), pruned)
    count = sum(row["Status"] == "pruned" for row in found.values())
    assert f"pruned: {count} of 16 trainings; about " in output
    before, after = output.split("the other 12 settings stop at a best validation loss above ")
    assert before.count("Test MAE") == PILOTS
    assert "pilots: the first 4 settings are trained to their end" in before
    assert "pruned" not in before
    highest = bounds(pruned)
    assert after.startswith(f"{highest[5]:.4f} after epoch 5, {highest[10]:.4f} after epoch 10\n")
    assert "nan" not in after.split("the best settings")[1]
