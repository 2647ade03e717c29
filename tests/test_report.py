"""report.py and runs.py: what is read, what is refused, and what is said about a run."""

from __future__ import annotations

import statistics
from pathlib import Path

import numpy as np
import pytest
import torch
from written_results import (
    SETTING,
    cells,
    diverge,
    make_rows,
    mean_and_spread,
    numbers,
    ranks,
    write_results,
)

import report
from data.official import OFFICIAL
from reporting import sections
from reporting.runs import Run, read_history, read_run
from search.grid import narrow
from search.options import run_script
from train_mosi import GRID
from training.setting import Setting
from utils import InputError


def test_report_says_whether_the_data_are_the_official_ones(tmp_path: Path) -> None:
    path = tmp_path / "results_mosi_1.csv"
    rows = make_rows("mosi", [SETTING], 1)
    official = read_run(write_results(path, "mosi", rows, sha256=OFFICIAL["mosi"].sha256))
    assert "official" in sections.data_note(official)
    assert "like with like" not in sections.data_note(official)
    other = read_run(write_results(path, "mosi", rows, sha256=OFFICIAL["pom"].sha256))
    assert "not one of like with like" in sections.data_note(other)
    path.with_suffix(".json").unlink()
    assert "unknown" in sections.data_note(read_run(path))


def test_settings_with_diverged_or_missing_seeds_are_not_the_best(tmp_path: Path) -> None:
    rows = make_rows("mosi", ranks(1, 4, 8), 2)
    for row in rows:
        row["Best Validation MAE"] = row["rank"]  # the lower the rank the better
    diverge("mosi", rows[0])  # rank 1, one of two seeds
    del rows[2]  # rank 4, one of two seeds
    run = read_run(write_results(tmp_path / "results_mosi_1.csv", "mosi", rows))
    assert [setting.rank for setting in run.ranking()] == [8]
    assert (run.trainings, run.diverged) == (5, 1)


def test_run_in_which_all_diverged_is_reported_as_such(tmp_path: Path) -> None:
    rows = make_rows("pom", ranks(1, 4), 1)
    for row in rows:
        diverge("pom", row)
    path = write_results(tmp_path / "results_pom_1.csv", "pom", rows)
    report.main([str(path), "--output_path", str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    assert cells(text, "pom_1 (all diverged)") == ["–", "–", "–"]
    assert "settings 2, trainings 2, 2 of them without result" in text


def test_torn_last_line_is_left_out_and_left_alone(tmp_path: Path) -> None:
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", make_rows("mosi", ranks(1, 4), 1))
    torn = path.read_bytes()[:-7]
    path.write_bytes(torn)
    assert [setting.rank for setting in read_run(path).rows] == [1]
    assert path.read_bytes() == torn


def replaced(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("Test Corr,", "Test Kendall,", "missing: Test Corr; unknown: Test Kendall"),
        ("\n4,8,64", "\n4,8,sixty", "text_hidden: expected a"),
        ("\n4,8,64,", "\n4,8,64,0.1,", "expected a row of 26 values .*27 values"),
        (",ok,", ",good,", "Status: 'good'"),
        (",0,ok,", ",first,ok,", "Seed: invalid literal"),
        (",0,ok,", "x,0,ok,", "Test multiclass accuracy|Test f1_score"),
    ],
)
def test_what_is_wrong_in_a_file_is_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", make_rows("mosi", [SETTING], 1))
    replaced(path, old, new)
    with pytest.raises(InputError, match=message) as error:
        read_run(path)
    assert str(path) in str(error.value)


def test_rows_of_another_data_set_are_refused(tmp_path: Path) -> None:
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", make_rows("mosi", [SETTING], 1))
    rows = make_rows("pom", [SETTING], 1)
    pom = write_results(tmp_path / "results_pom_1.csv", "pom", rows)
    path.write_text(path.read_text() + pom.read_text())  # two files in one
    with pytest.raises(
        InputError, match=r"results_mosi_1\.csv, line 3: expected a row of 26 values"
    ):
        read_run(path)
    path.write_text(pom.read_text())  # beside the other's .json
    with pytest.raises(InputError, match=r"missing: Test MAE, .*unknown: Confidence accuracy"):
        read_run(path)


def test_file_without_json_is_known_by_its_columns_and_name(tmp_path: Path) -> None:
    rows = make_rows("iemocap", [SETTING], 1)
    path = write_results(tmp_path / "results_iemocap_sad_1.csv", "iemocap", rows, "sad")
    path.with_suffix(".json").unlink()
    run = read_run(path)
    assert (run.experiment.name, run.emotion, run.sha256) == ("iemocap", "sad", None)
    unnamed = path.rename(tmp_path / "results_x.csv")
    with pytest.raises(InputError, match=r"results_x.csv: expected the emotion"):
        read_run(unnamed)


@pytest.mark.parametrize("text", ["{", "[]", '{"data_set": "sims"}', "null"])
def test_damaged_json_is_named(tmp_path: Path, text: str) -> None:
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", make_rows("mosi", [SETTING], 1))
    path.with_suffix(".json").write_text(text)
    with pytest.raises(InputError, match=r"results_mosi_1\.json: expected what a train script"):
        read_run(path)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "expected results_*.csv with rows in them, got none"),
        (lambda folder: (folder / "results_x.csv").touch(), "got none; train first"),
        (lambda folder: write_results(folder / "results_x.csv", "mosi", []), "got none"),
        (lambda folder: (folder / "results_x.csv").write_text("a,b\n1,2\n"), "unknown: a, b"),
        (lambda folder: folder.rmdir(), "expected a results_*.csv or a folder of them"),
    ],
)
def test_bad_input_is_one_line_and_exit_status_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: object, message: str
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    assert callable(make)
    make(folder)
    with pytest.raises(SystemExit) as end:
        run_script(lambda: report.main([str(folder), "--output_path", str(tmp_path / "out")]))
    printed = capsys.readouterr().err
    assert (end.value.code, printed.count("\n")) == (2, 1)
    assert message in printed
    assert not (tmp_path / "out").exists()


def test_single_row_makes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = make_rows("mosi", [SETTING], 1)
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", rows)
    report.main([str(path), "--output_path", str(tmp_path / "new" / "folder")])
    text = (tmp_path / "new" / "folder" / "report.md").read_text()
    assert f"{float(rows[0]['Test MAE']):.3f}" == cells(text, "n = 1")[0]
    assert text in capsys.readouterr().out
    assert "png" not in text  # nothing varies, and there is no model


def test_hyperparameters_that_vary_are_drawn_with_every_setting_once(tmp_path: Path) -> None:
    settings = [*ranks(1, 4), SETTING._replace(rank=1, weight_decay=0)]
    rows = make_rows("mosi", settings, 2)
    run = read_run(write_results(tmp_path / "results_mosi_1.csv", "mosi", rows))
    found = sections.losses_by_value(run)
    means = [statistics.fmean(numbers(rows, s, "Best Validation MAE")) for s in settings]
    assert found == {
        "rank": {1: pytest.approx([means[0], means[2]]), 4: pytest.approx([means[1]])},
        "weight_decay": {0: pytest.approx([means[2]]), 0.01: pytest.approx(means[:2])},
    }


def test_rank_study_compares_settings_that_differ_in_nothing_else(tmp_path: Path) -> None:
    settings = [
        *ranks(8, 1, 4),
        SETTING._replace(rank=2, batch_size=8),
        SETTING._replace(rank=16, batch_size=8),
        SETTING._replace(rank=32, audio_hidden=16),
    ]
    rows = make_rows("mosi", settings, 3)
    diverge("mosi", rows[0])  # rank 8
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", rows)
    assert sections.rank_study(read_run(path)) == ranks(1, 4, 8)
    report.main([str(path), "--output_path", str(tmp_path)])
    lines = (tmp_path / "report.md").read_text().split("| Rank |")[1].splitlines()
    found = {
        line.split(" | ")[0].strip("| "): line.strip("| ").split(" | ")[1:] for line in lines[2:5]
    }
    maes = {rank: numbers(rows, SETTING._replace(rank=rank), "Test MAE") for rank in (1, 4, 8)}
    assert found["1"][0] == mean_and_spread(maes[1], 1, 3)
    assert found["8"][0] == mean_and_spread(maes[8][1:], 1, 3)
    assert [found[rank][2:] for rank in ("1", "4", "8")] == [["3", "0"], ["3", "0"], ["2", "1"]]
    assert (tmp_path / "rank_mosi_1.png").read_bytes()[1:4] == b"PNG"


def test_no_rank_study_where_something_else_differs_too(tmp_path: Path) -> None:
    settings = [SETTING, SETTING._replace(rank=8, batch_size=8)]
    rows = make_rows("mosi", settings, 1)
    run = read_run(write_results(tmp_path / "results_mosi_1.csv", "mosi", rows))
    assert sections.rank_study(run) == []


def save_model(path: Path, setting: Setting, seed: int) -> None:
    history = [(3.0, 2.0), (2.5, 1.5), (2.0, 1.75)]
    checkpoint = {"setting": setting._asdict(), "seed": seed, "best_epoch": 2, "history": history}
    torch.save(checkpoint, path)


def test_learning_curves_are_those_of_the_runs_own_model(tmp_path: Path) -> None:
    rows = make_rows("mosi", [SETTING], 2)
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", rows)
    run = read_run(path)
    model = tmp_path / "model_mosi_1.pt"
    assert "is not there" in str(read_history(run, tmp_path))
    model.write_bytes(b"nothing of the kind")
    assert "is no model" in str(read_history(run, tmp_path))
    save_model(model, SETTING._replace(rank=1), 0)
    assert "another run" in str(read_history(run, tmp_path))
    save_model(model, SETTING, 1)
    found = read_history(run, tmp_path)
    assert not isinstance(found, str)
    assert (found[0].tolist(), found[1]) == ([[3.0, 2.0], [2.5, 1.5], [2.0, 1.75]], 2)
    report.main([str(path), "--output_path", str(tmp_path), "--model_path", str(tmp_path)])
    assert "(curves_mosi_1.png)" in (tmp_path / "report.md").read_text()
    assert (tmp_path / "curves_mosi_1.png").exists()


def test_best_grid_is_the_best_setting_as_the_grid_flag_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_rows("mosi", ranks(1, 8), 1)
    rows[0]["Best Validation MAE"], rows[1]["Best Validation MAE"] = "0.8", "0.7"
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", rows)
    report.main(["--best_grid", str(path)])
    words = capsys.readouterr().out.split()
    chosen = narrow(GRID, ["rank=1,32", *words])
    assert chosen.pop("rank") == [1, 32]
    assert chosen == {name: [value] for name, value in SETTING._asdict().items() if name != "rank"}


def test_best_grid_of_rows_that_all_diverged_is_refused(tmp_path: Path) -> None:
    rows = make_rows("mosi", [SETTING], 1)
    diverge("mosi", rows[0])
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", rows)
    with pytest.raises(InputError, match=r"results_mosi_1\.csv: expected a row with a validation"):
        sections.best_grid(read_run(path))


def test_figures_are_drawn_for_hundreds_of_settings(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    drawn = [Setting(*(random.choice(GRID[name]) for name in Setting._fields)) for _ in range(200)]
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", make_rows("mosi", drawn, 1))
    report.main([str(path), "--output_path", str(tmp_path)])
    assert (tmp_path / "hyperparameters_mosi_1.png").stat().st_size > 20_000


def test_runs_of_any_repeats_keep_their_rows_in_seed_order(tmp_path: Path) -> None:
    rows = make_rows("mosi", [SETTING], 3)
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", rows[::-1])
    run: Run = read_run(path)
    assert run.values(SETTING, "Test MAE").tolist() == numbers(rows, SETTING, "Test MAE")


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    paths = []
    for folder in ("cpu", "gpu"):
        (tmp_path / folder).mkdir()
        rows = make_rows("mosi", ranks(1, 4), 1 + len(paths))
        paths.append(write_results(tmp_path / folder / "results_mosi_1.csv", "mosi", rows))
        save_model(tmp_path / folder / "model_mosi_1.pt", SETTING, 0)
    runs = sections.distinct([read_run(path) for path in paths])
    assert [run.name for run in runs] == ["cpu_mosi_1", "gpu_mosi_1"]
    assert not isinstance(read_history(runs[0], tmp_path / "cpu"), str)
    report.main([*map(str, paths), "--output_path", str(tmp_path)])
    drawn = {path.name for path in tmp_path.glob("rank_*.png")}
    assert drawn == {"rank_cpu_mosi_1.png", "rank_gpu_mosi_1.png"}
