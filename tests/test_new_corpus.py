"""A new data set takes a train script and a row in data/corpora.py, nothing else."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import pytest

import report
from data import prepare
from data.corpora import CORPORA, Corpus
from search.options import run_script

SIMS = Corpus(
    name="sims",
    title="CH-SIMS",
    request="nowhere",
    file_size=1,
    sha256="0" * 64,
    examples=(24, 10, 12),
    dims=(5, 4, 6),
    label_columns=3,
    label_range=(-1, 1),
    padded_in_front=False,
    steps=7,
)
SCRIPT = """
from search.columns import Columns
from search.experiment import Experiment
from search.options import parser, read_options
from search.search import search
from training.result import Task

GRID = {
    **{"audio_hidden": [3], "video_hidden": [2], "text_hidden": [4], "audio_dropout": [0]},
    **{"video_dropout": [0.1], "text_dropout": [0.2], "factor_learning_rate": [0.003]},
    **{"learning_rate": [0.003], "rank": [1, 2, 3], "batch_size": [8], "weight_decay": [0]},
}


def loss(output, label):
    return (output - label).abs().sum(-1)


def scores(scored):
    return {"Test error": scored.test_loss, "Greatest": float(scored.test_output.max())}


EXPERIMENT = Experiment(
    name="sims",
    grid=GRID,
    columns=Columns("Best Validation error", ("Test error",), ("Greatest",), "Test error"),
    task=lambda data: Task(output_dim=3, loss=loss, loss_divisor=3, scores=scores),
)


def main(options):
    return search(EXPERIMENT, read_options(parser(None, "sims", 2, output_dim=3), options))
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Synthetic data of a new data set, beside its train script, which can be imported."""
    monkeypatch.setitem(CORPORA, "sims", SIMS)
    (tmp_path / "train_sims.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(tmp_path)
    prepare.main(["synthetic", "sims", "--output_path", str(tmp_path)])
    return tmp_path


def test_new_data_set_is_inspected(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prepare.main(["inspect", str(folder / "sims.pkl")])
    assert f"can be used: python train_sims.py --data_path {folder}" in capsys.readouterr().out
    prepare.main(["verify", str(folder)])
    said = capsys.readouterr().out
    assert "not the official file, but train_sims.py can use it: 24 / 10 / 12 examples" in said


def test_new_data_set_is_trained_and_reported(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = {name: folder / name for name in ("output_path", "model_path")}
    main = import_module("train_sims").main
    found = main({"data_path": folder, **paths, "repeats": 2, "jobs": 1})
    assert found == folder / "output_path" / "results_sims_1.csv"
    words = [f"--{name}={path}" for name, path in paths.items()]
    run_script(lambda: report.main([str(found), *words]))
    assert "left out" not in capsys.readouterr().out
    text = (folder / "output_path" / "report.md").read_text()
    assert "## CH-SIMS" in text
    assert "settings 3, trainings 6; at most 2 epochs, patience 20. Data: sims.pkl" in text
    assert "| Best settings | Best Validation error | Test error | n |" in text
    assert text.count(".png)") == 2  # rank study, learning curves
    assert "able 2" not in text  # the paper does not have it
