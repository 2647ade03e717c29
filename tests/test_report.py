"""report.py: what is said about a run, and what is drawn."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import Options, tiny_arrays
from written_results import (
    SETTING,
    cells,
    diverge,
    make_rows,
    mean_and_spread,
    numbers,
    ranks,
    read,
    write_results,
)

import report
import train_mosi
from data import prepare
from data.corpora import CORPORA
from reporting import sections
from search.grid import narrow
from train_mosi import GRID
from training.setting import Setting
from utils import InputError


def test_report_says_whether_the_data_are_the_official_ones(tmp_path: Path) -> None:
    path = tmp_path / "results_mosi_1.csv"
    rows = make_rows("mosi", [SETTING], 1)
    official = read(write_results(path, "mosi", rows, sha256=CORPORA["mosi"].sha256))
    assert "official" in sections.data_note(official)
    assert "like with like" not in sections.data_note(official)
    other = read(write_results(path, "mosi", rows, sha256=CORPORA["pom"].sha256))
    assert "not one of like with like" in sections.data_note(other)
    path.with_suffix(".json").unlink()
    assert "unknown" in sections.data_note(read(path))


def test_what_the_data_are_is_said_once_for_all_runs_on_them(tmp_path: Path) -> None:
    rows = make_rows("mosi", [SETTING], 1)
    for run_id in (1, 2, 3):
        write_results(tmp_path / f"results_mosi_{run_id}.csv", "mosi", rows, sha256="1" * 64)
    report.main([str(tmp_path), "--output_path", str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    assert text.count("not one of like with like") == 1
    for run_id in (2, 3):
        (tmp_path / f"results_mosi_{run_id}.json").unlink()
    report.main([str(tmp_path), "--output_path", str(tmp_path)])
    assert (tmp_path / "report.md").read_text().count("Data: unknown") == 2
    assert text.count("Data: as of mosi\\_1.") + text.count("Data: as of mosi_1.") == 2


def test_settings_with_diverged_or_missing_seeds_are_not_the_best(tmp_path: Path) -> None:
    rows = make_rows("mosi", ranks(1, 4, 8), 2)
    for row in rows:
        row["Best Validation MAE"] = row["rank"]  # the lower the rank the better
    diverge("mosi", rows[0])  # rank 1, one of two seeds
    del rows[2]  # rank 4, one of two seeds
    run = read(write_results(tmp_path / "results_mosi_1.csv", "mosi", rows))
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
    assert "urves" not in text
    with pytest.raises(InputError, match=r"results_pom_1\.csv: expected a row with a validation"):
        report.main(["--best_grid", str(path)])


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
    run = read(write_results(tmp_path / "results_mosi_1.csv", "mosi", rows))
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
    assert sections.rank_study(read(path)) == ranks(1, 4, 8)
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


def test_best_grid_is_the_best_setting_as_the_grid_flag_takes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = make_rows("mosi", ranks(1, 8), 1)
    rows[0]["Best Validation MAE"], rows[1]["Best Validation MAE"] = "0.8", "0.7"
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", rows)
    report.main(["--best_grid", str(path)])
    words = capsys.readouterr().out.split()
    best = SETTING._replace(rank=8)
    assert narrow(GRID, words) == {name: [value] for name, value in best._asdict().items()}


def test_runs_without_a_modality_stand_beside_those_of_the_same_settings(tmp_path: Path) -> None:
    rows = {}
    for name, without in {"a": [], "b": ["video"], "c": ["audio", "text"]}.items():
        rows[name] = make_rows("mosi", [SETTING], 3 + len(without))
        path = tmp_path / f"results_{name}.csv"
        write_results(path, "mosi", rows[name], without=without)
    write_results(tmp_path / "results_search.csv", "mosi", make_rows("mosi", ranks(1, 4), 1))
    report.main([str(tmp_path), "--output_path", str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    for kept, name, seeds in (("audio, video, text", "a", 3), ("audio, text", "b", 4)):
        label = f"**{kept}**: {name}, the best of 1 setting by validation, n = {seeds}"
        errors = [float(row["Test MAE"]) for row in rows[name]]
        assert cells(text, label)[0] == mean_and_spread(errors, 1, 3)
    assert text.index("**audio, text**: b") < text.index("**video**: c")
    assert "**audio, video, text**: search" not in text  # of other settings
    for name in "bc":
        assert f"**LMF, here**: {name}" not in text  # the paper's table has all three
    assert "- **b**, without video: settings 1" in text
    assert "- **c**, without audio and text: settings 1" in text


def test_runs_without_a_modality_make_a_report_alone(tmp_path: Path) -> None:
    rows = make_rows("pom", [SETTING], 1)
    diverge("pom", rows[0])
    write_results(tmp_path / "results_pom.csv", "pom", rows, without=["text"])
    report.main([str(tmp_path), "--output_path", str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    assert cells(text, "audio, video: pom (all diverged)") == ["–", "–", "–"]
    assert "Table 2" not in text


@pytest.mark.parametrize("without", ["text", ["words"], [["text"]], ["audio", "video", "text"]])
def test_what_a_run_can_not_be_without_is_refused(without: list[str], tmp_path: Path) -> None:
    rows = make_rows("mosi", [SETTING], 1)
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", rows, without=without)
    with pytest.raises(InputError, match="got another without, or none"):
        read(path)


def test_figures_are_drawn_for_hundreds_of_settings(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    drawn = [Setting(*(random.choice(GRID[name]) for name in Setting._fields)) for _ in range(200)]
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", make_rows("mosi", drawn, 1))
    report.main([str(path), "--output_path", str(tmp_path)])
    assert (tmp_path / "hyperparameters_mosi_1.png").stat().st_size > 20_000


@pytest.mark.parametrize(("kind", "start"), [("pdf", b"%PDF"), ("svg", b"<?xml")])
def test_figures_are_drawn_for_a_paper_too(kind: str, start: bytes, tmp_path: Path) -> None:
    settings = [*ranks(1, 4), SETTING._replace(rank=1, weight_decay=0)]
    path = write_results(tmp_path / "results_a.b_1.csv", "pom", make_rows("pom", settings, 2))
    report.main([str(path), "--output_path", str(tmp_path), "--format", kind])
    drawn = [tmp_path / f"{name}_a.b_1.{kind}" for name in ("hyperparameters", "rank")]
    assert sorted(tmp_path.glob("*_a.b_1.[ps]*")) == drawn
    assert all(figure.read_bytes().startswith(start) for figure in drawn)
    text = (tmp_path / "report.md").read_text()
    assert text.count("![") == (0 if kind == "pdf" else 2)  # PDF is no image to a browser
    assert text.count(f"_a.b_1.{kind})") == 2


def test_a_score_of_the_test_split_is_called_so(tmp_path: Path) -> None:
    for name in ("mosi", "pom"):
        write_results(tmp_path / f"results_{name}.csv", name, make_rows(name, ranks(1, 4), 1))
    report.main([str(tmp_path), "--output_path", str(tmp_path)])
    heads = [
        line.split(" | ")[:3]
        for line in (tmp_path / "report.md").read_text().splitlines()
        if line.startswith(("| Rank", "| Best settings"))
    ]
    valid = "Best Validation MAE"
    assert heads == [
        [title, *columns]
        for score in ("Test MAE", "Test Mean MAE")
        for title, *columns in (["| Best settings", valid, score], ["| Rank", score, valid])
    ]


def test_report_is_printed_on_a_terminal_that_lacks_its_characters(tmp_path: Path) -> None:
    write_results(tmp_path / "results_mosi_1.csv", "mosi", make_rows("mosi", [SETTING], 2))
    script = Path(report.__file__)
    command = [sys.executable, str(script), str(tmp_path), "--output_path", str(tmp_path / "new")]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    run = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, check=False)
    assert (run.returncode, run.stderr) == (0, b"")
    text = (tmp_path / "new" / "report.md").read_text(encoding="utf-8")
    assert text.encode("ascii", "backslashreplace") in run.stdout


def test_made_up_data_are_called_so_and_never_stand_in_the_papers_table(
    tmp_path: Path, options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = tiny_arrays("mosi", seed=1)
    for split, parts in arrays.items():
        (tmp_path / "copy").mkdir(exist_ok=True)
        for role, key in (("audio", "covarep"), ("video", "facet"), ("text", "glove")):
            np.save(tmp_path / "copy" / f"{split}_{role}.npy", parts[key])
        np.save(tmp_path / "copy" / f"{split}_label.npy", parts["label"])
        np.save(
            tmp_path / "copy" / f"{split}_id.npy", np.array(["synthetic 7"] * len(parts["label"]))
        )
    folder = {"output_path": tmp_path / "out", "model_path": tmp_path / "out"}
    train_mosi.main({**options, **folder, "signature": "real"})
    assert "synthetic data" not in capsys.readouterr().out
    prepare.main(["convert", f"{tmp_path / 'copy'}", "--to", "mosi", "-o", f"{tmp_path / 'new'}"])
    capsys.readouterr()
    train_mosi.main({**options, **folder, "data_path": tmp_path / "new", "signature": "made"})
    assert "synthetic data: made-up numbers" in capsys.readouterr().out
    (tmp_path / "out" / "efficiency.md").touch()
    report.main([str(tmp_path / "out"), *(f"--{n}={p}" for n, p in folder.items())])
    text = capsys.readouterr().out
    paper, ours = (
        next(part for part in text.split("\n\n") if part.startswith(f"| {title}"))
        for title in ("Table 2, CMU-MOSI", "CMU-MOSI's layout, **synthetic** data")
    )
    assert "real_1" in paper
    assert "made_1" not in paper
    assert "made_1" in ours
    assert "as the paper prints it" not in ours
    assert "### made_1 (synthetic data)" in text
    assert "[efficiency.md](efficiency.md)" in text
