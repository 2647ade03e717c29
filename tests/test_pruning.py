"""--prune: settings that are behind the pilots stop early, and rows depend on nothing else."""

from __future__ import annotations

import json
import math
import random
import signal
from collections import Counter
from pathlib import Path

import pytest
from conftest import Options
from drivers import BORDER, PILOT, ROW, TRAINING, Drivers
from test_faults import Undisturbed, files, whole_lines
from test_search import Rows, rows

import train_mosi
from report import experiments
from reporting.runs import read_run
from reporting.sections import losses_by_value, rank_study, report
from search.provenance import Pilot
from search.pruning import pilot_of, stops
from training.result import Result
from training.setting import Setting, describe
from utils import InputError

PILOTS = 4
LOSSES = [5.0, 1.0, 3.0, 2.0, 4.0, math.nan, 6.0]  # of validation, by epoch
GRID = [
    *("audio_hidden=3", "video_hidden=3", "text_hidden=6", "learning_rate=0.001,0.003,0.01"),
    "batch_size=12,23",
]


@pytest.fixture
def pruned(options: Options) -> Options:
    """A small search of which some settings stop after 5 and after 10 epochs."""
    own = {"grid": GRID, "epochs": 12, "settings": 12, "seed": 3, "prune": True, "pilots": PILOTS}
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
    assert {("pruned", "5"), ("pruned", "10"), ("ok", "12")} <= set(statuses)


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
    assert f"pruned: {count} of 12 trainings, which saved about " in output
    assert "% of the epochs (an estimate: the pilots trained for " in output
    before, after = output.split("the other 8 settings stop at a best validation loss above ")
    _, pilots = before.split("\npilots: the first 4 settings are trained to their end\n")
    assert [line.split()[0] for line in pilots.splitlines()] == list("1234")
    assert "pruned" not in before
    highest = bounds(pruned)
    assert after.startswith(f"{highest[5]:.4f} after epoch 5, {highest[10]:.4f} after epoch 10\n")
    shown = [line.split()[1:3] for line in after.splitlines()[1:9]]
    losses = [f"{float(row['Best Validation MAE']):.4f}" for row in found.values()][PILOTS:]
    assert [loss for loss, _ in shown] == losses
    assert sum(test == "pruned" for _, test in shown) == count
    assert not {"pruned", "nan"} & set(after.split("the best settings")[1].split())


def test_rows_are_the_same_for_any_jobs_and_stack_and_for_settings_that_are_added(
    pruned: Options,
) -> None:
    expected = rows(train_mosi.main({**pruned, "repeats": 2}))
    for settings, repeats in ((3, 1), (6, 1), (12, 2)):
        more = {
            **pruned,
            "jobs": 2,
            "stack": 3,
            "run_id": 2,
            "settings": settings,
            "repeats": repeats,
        }
        found = rows(train_mosi.main(more))
        assert found.items() <= expected.items()
        assert len(found) == settings * repeats
    assert {row["Status"] for row in expected.values() if row["Seed"] == "4"} == {"ok", "pruned"}


def test_the_reference_path_prunes_by_the_same_rule(pruned: Options) -> None:
    reference = {**pruned, "stack": 1}
    check_rule(rows(train_mosi.main(reference)), rows(train_mosi.main(full(reference))), reference)


@pytest.mark.slow
def test_a_search_that_is_killed_or_interrupted_in_any_phase_loses_and_repeats_nothing(
    drivers: Drivers, pruned: Options, tmp_path: Path
) -> None:
    draw, options = random.Random(0), {**pruned, "jobs": 2, "stack": 2}
    undisturbed = Undisturbed(options, drivers.run(options))
    for number, status in ((signal.SIGKILL, -9), (signal.SIGINT, 130)):
        folder, kept = tmp_path / f"{status}", b""
        places = {"output_path": folder / "results", "model_path": folder / "models"}
        own = {**options, **places}
        for phase in (PILOT, BORDER, ROW, TRAINING):  # one after the other
            call = draw.randint(1, undisturbed.calls[phase] // 5)  # less and less is left
            answer = drivers.run(own, number, phase, call)
            assert (answer.status, answer.phase, answer.left) == (status, phase, [])
            assert whole_lines(files(own)[0]).startswith(kept)
            kept = whole_lines(files(own)[0])
        assert drivers.run(own).status == 0
        assert files(own)[0].read_bytes().startswith(kept)
        undisturbed.check(own)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"prune": False, "pilots": None}, "pruning (then by 4 pilots of draw "),
        ({"pilots": 5}, "now by 5 pilots of draw "),
        ({"grid": [*GRID, "rank=1,4"]}, "now by 4 pilots of draw "),
        ({"prune": False}, "--pilots: expected --prune too"),
        ({"grid": None, "hyperparams": True}, "--prune and --hyperparams: expected one of them"),
        ({"pilots": 0}, "--pilots: expected a whole number from 1"),
    ],
)
def test_a_run_keeps_to_its_pilots(change: Options, reason: str, pruned: Options) -> None:
    pruned["settings"] = 2
    path = train_mosi.main(pruned)
    before = path.read_bytes(), path.with_suffix(".json").read_bytes()
    with pytest.raises(InputError) as caught:
        train_mosi.main({**pruned, **change})
    assert reason in str(caught.value)
    assert (path.read_bytes(), path.with_suffix(".json").read_bytes()) == before


def test_a_run_without_pruning_is_not_continued_with_it(pruned: Options) -> None:
    train_mosi.main({**full(pruned), "settings": 1})
    with pytest.raises(InputError, match=r"pruning \(then None, now by 4 pilots of draw"):
        train_mosi.main({**pruned, "run_id": "full"})


@pytest.mark.parametrize(
    ("pilot", "reason"),
    [
        (None, "expected what the pilot {} reached, got none; bring that file back"),
        ({"epochs": 12, "best_losses": [1.0]}, "expected what the pilot {} reached, got none"),
        ({"epochs": 12, "best_losses": [1.0, "low"]}, "expected what a train script writes"),
        ({"epochs": 12, "best_losses": [math.nan, 1.0]}, "expected what a train script writes"),
        ([12, 1.0, 1.0], "expected what a train script writes"),
    ],
)
def test_what_a_finished_pilot_reached_may_not_be_lost(
    pilot: object, reason: str, pruned: Options
) -> None:
    path = train_mosi.main({**pruned, "settings": 2})
    stored = json.loads(path.with_suffix(".json").read_text())
    described = list(stored["pilots"])[1]
    stored["pilots"][described] = pilot
    if not pilot:
        del stored["pilots"][described]
    path.with_suffix(".json").write_text(json.dumps(stored))
    with pytest.raises(InputError) as caught:
        train_mosi.main(pruned)
    assert f"{path.with_suffix('.json')}: {reason.format(described)}" in str(caught.value)


def test_where_there_are_no_others_than_pilots_a_line_says_so(
    pruned: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    path = train_mosi.main({**pruned, "settings": 3})
    assert "the first 3 settings are trained to their end; there are no others to be pruned" in (
        capsys.readouterr().out
    )
    assert all(row["Status"] == "ok" for row in rows(path).values())


def test_where_all_pilots_diverged_nothing_is_pruned(
    pruned: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["learning_rate=1e30", "factor_learning_rate=1e30"]
    path = train_mosi.main({**pruned, "settings": 6, "grid": grid})
    output = capsys.readouterr().out
    assert "nothing is pruned: too few pilots have a validation loss" in output
    assert "pruned: 0 of 6 trainings\n" in output
    assert [row["Status"] for row in rows(path).values()] == ["diverged"] * 6


@pytest.mark.parametrize("epochs", [5, 6])
def test_epochs_too_few_for_pruning_are_told_in_one_line(
    epochs: int, pruned: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    train_mosi.main({**pruned, "epochs": epochs, "settings": 5})
    output = capsys.readouterr().out
    assert output.count("nothing is pruned: that begins after epoch 5") == (epochs == 5)
    assert output.count("pilots: ") == output.count("settings stop at a best") == (epochs > 5)
    assert "after epoch 10" not in output


def test_pruned_settings_are_counted_in_reports_and_else_left_out(
    pruned: Options, tmp_path: Path
) -> None:
    grid = [*GRID, "audio_dropout=0", "video_dropout=0,0.1", "weight_decay=0"]
    path = train_mosi.main({**pruned, "grid": grid, "repeats": 2})
    stopped = {key[:-1] for key, row in rows(path).items() if row["Status"] == "pruned"}
    whole = {key[:-1] for key in rows(path)} - stopped
    run = read_run(path, experiments())
    assert {setting.texts() for setting in run.candidates} == whole
    assert {setting.texts() for setting in run.pruned} == stopped
    assert run.diverged == 0
    shown = losses_by_value(run)["rank"].values()
    assert sum(map(len, shown)) == len(whole)
    assert not run.pruned & {*rank_study(run)}
    text = report([run], [], tmp_path / "models", tmp_path)
    assert f"trainings 24, {len(stopped)} of the settings stopped early (pruned); at most" in text
    assert not any(describe(setting) in text for setting in run.pruned)
