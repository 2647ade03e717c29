"""What a search prints of its settings: rows that fit the terminal, the legend, the best, a bar."""

from __future__ import annotations

import math
import re
import sys

import numpy as np
import pytest
from conftest import Options
from test_records import SETTING

import train_iemocap
import train_mosi
from search import progress
from search.experiment import Plan
from search.grid import Settings
from search.leaderboard import Row, Standing
from search.printing import Rows, short
from search.progress import Estimate
from search.table import Table
from training.result import Result
from training.setting import RANGES, Setting

NO_ROWS = Table([[] for _ in SETTING], np.empty((11, 0)), *[np.empty(0)] * 3)
LONGEST = Setting(16, 16, 256, 0.15, 0.15, 0.15, 0.0003, 0.0003, 16, 128, 0.001)


def plan(
    settings: Settings | list[Setting], repeats: int = 1, names: dict[Setting, str] | None = None
) -> Plan:
    return Plan(settings, 1000, False, range(repeats), names or {})


def rows(plan: Plan, earlier: Table = NO_ROWS) -> Rows:
    return Rows(plan, earlier, train_mosi.COLUMNS, 1000)


def result(status: str = "ok", setting: Setting = LONGEST, reason: str = "") -> Result:
    loss = math.nan if status in ("diverged", "failed") else 1.23456
    return Result(setting, 2, status, loss, 1, 500, 99.94, {}, [], None, reason)


def printed(rows: Rows, result: Result, count: int = 1000) -> list[str]:
    test = 1.5 if result.status == "ok" else math.nan
    valid = result.valid_loss if result.status == "ok" else math.nan
    return list(rows.result(count, result, Row(result.setting, result.seed, valid, test)))


@pytest.mark.parametrize("script", [train_mosi, train_iemocap])
@pytest.mark.parametrize("repeats", [1, 3])
def test_a_row_of_the_released_grid_has_all_hyperparameters_in_80_columns(
    script: object, repeats: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = rows(plan(Settings(script.EXPERIMENT.grid), repeats))  # pyright: ignore
    lines = [*shown.legend(), shown.head(), shown.head(best=True), *printed(shown, result())]
    lines.append(shown.best(1, Standing(1.0, LONGEST, (1.0, 2.0), (1.0, 3.0))))
    assert max(map(len, lines)) <= 80
    assert "only in the CSV" not in "\n".join(lines)
    for line in lines[-2:]:
        assert line.endswith(" 16 16 256 .15 .15 .15 3e-4 3e-4   16 128 .001")
    assert all(name in "\n".join(lines) for name in Setting._fields)


@pytest.mark.parametrize("width", [60, 80, 120])
def test_what_has_no_room_in_a_row_is_named(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    values = {name: [2, 65535] if RANGES[name].whole else [0.5, 0.123] for name in Setting._fields}
    shown = rows(plan(Settings(values), repeats=2))
    setting = Setting._make(of_name[1] for of_name in values.values())
    lines = [*shown.legend(), shown.head(), *printed(shown, result(setting=setting))]
    assert max(map(len, lines)) <= width
    assert ("only in the CSV, for want of room" in "\n".join(lines)) == (width < 120)
    assert "weight_decay" in "\n".join(lines[:-2])


def test_only_hyperparameters_that_differ_also_from_earlier_rows_have_a_column() -> None:
    grid = {name: [value] for name, value in LONGEST._asdict().items()}
    earlier = NO_ROWS._replace(values=[[value] for value in LONGEST._replace(rank=4)])
    shown = rows(plan(Settings({**grid, "batch_size": [8, 128]})), earlier)
    assert shown.head().split() == ["valid", "test", "ep", "time", "rank", "bs"]
    (line,) = printed(shown, result(), count=7)
    assert line.split() == ["7", "1.2346", "1.5000", "500", "100s", "16", "128"]
    assert "the same in all: audio_hidden=16 video_hidden=16" in "\n".join(shown.legend())


def test_a_row_says_how_a_setting_without_a_score_ended() -> None:
    shown = rows(plan([SETTING]))
    pruned, diverged = (printed(shown, result(how))[0].split() for how in ("pruned", "diverged"))
    assert pruned == ["1000", "1.2346", "pruned", "500", "100s"]
    assert diverged == ["1000", "diverged", "500", "100s"]
    row, why = printed(shown, result("failed", reason="its worker ended"))
    assert "failed" in row
    assert why.strip() == "failed: its worker ended"


def test_listed_settings_are_shown_by_their_names() -> None:
    name = "a_name_longer_than_there_is_room_for_in_a_line_of_eighty_characters"
    shown = rows(plan([LONGEST, SETTING], names={SETTING: "short", LONGEST: name}))
    assert shown.head().split()[-1] == "name"
    assert printed(shown, result(setting=SETTING))[0].endswith(" short")
    (line,) = printed(shown, result())
    assert len(line) <= 80
    assert line.endswith("...")


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *((64, "64"), (0.0, "0"), (0, "0"), (0.15, ".15"), (0.0003, "3e-4"), (0.001, ".001")),
        *(
            (0.00123456, ".00123"),
            (0.00003, "3e-5"),
            (1e-30, "1e-30"),
            (1.0, "1"),
            (123456.0, "1.23e5"),
        ),
    ],
)
def test_values_are_short(value: float, text: str) -> None:
    assert short(value) == text


def test_an_estimate_is_refined_as_trainings_end() -> None:
    estimate = Estimate(left=4, most=50)
    assert (estimate.trained, estimate.total) == (0, 200)
    first, second = ((LONGEST, seed) for seed in (2, 3))
    for epoch in range(1, 11):
        estimate.take_epoch(first, epoch)
        estimate.take_epoch(second, epoch)
    assert (estimate.trained, estimate.total) == (20, 200)
    estimate.take_end(result()._replace(epochs=10))
    assert (estimate.trained, estimate.total) == (20, 40)
    estimate.take_epoch(second, 1)  # its worker was lost
    assert (estimate.trained, estimate.total) == (11, 40)


def test_an_estimate_counts_ended_trainings_where_epochs_are_not_told() -> None:
    estimate = Estimate(left=3, most=50, expected=20)
    assert estimate.total == 60
    estimate.take_end(result()._replace(epochs=10))
    estimate.take_end(result("failed")._replace(epochs=0))
    assert (estimate.trained, estimate.total) == (10, 20)
    estimate.start_phase()
    estimate.take_end(result()._replace(epochs=30))
    assert (estimate.trained, estimate.total) == (40, 40)


def test_an_emotion_and_counts_of_one_are_named(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    train_iemocap.main({**options, "emotion": "all", "settings": 1})
    output = capsys.readouterr().out
    for emotion in ("happy", "sad", "angry", "neutral"):
        assert f"iemocap, {emotion}: 23/9/11 examples" in output
    assert " settings, 1 seed each; 0 of 1 are done\n" in output


def test_a_pipe_gets_lines_of_progress(
    options: Options, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.0)
    train_mosi.main({**options, "settings": 2})
    output = capsys.readouterr().out
    assert re.search(r"\n0 of 2 trained, [12] of about 6 epochs, [\d.e+]+ a second, ", output)
    assert "\n2 of 2 trained, 6 of about 6 epochs, " in output
    monkeypatch.setattr(progress, "LINE_SECONDS", 60.0)
    train_mosi.main({**options, "run_id": 2})
    assert " trained, " not in capsys.readouterr().out


def test_a_terminal_gets_a_bar_of_epochs(
    options: Options, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    train_mosi.main({**options, "settings": 2})
    bar = capsys.readouterr().err
    assert "0 of 2 trained:   0%|" in bar
    assert "| 6 of about 6 epochs, " in bar
