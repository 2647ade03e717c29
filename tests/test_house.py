"""How the source is laid out: imports run downwards, and a data set is a script and a row."""

from __future__ import annotations

import ast
import csv
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest
from conftest import GRID, Options, pickled, tiny_arrays

import report
from data.corpora import CORPORA

ROOT = Path(report.__file__).parent
LEVELS = (  # each may import itself, file by file, and what stands before it
    ("data/files.py", "data/pickles.py", "data/corpora.py", "data/checks.py", "data/assembly.py"),
    ("utils.py", "model.py"),
    ("training/*.py",),
    ("search/*.py",),
    ("reporting/*.py",),
    ("data/*.py",),
    ("*.py",),
    ("benchmarks/*.py",),
)


def imported(path: Path) -> Iterator[Path]:
    """Yields the project's files that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.module, f"{path}: imports relatively"
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        files = (ROOT / f"{name.replace('.', '/')}.py" for name in names)
        yield from filter(Path.exists, files)


def test_imports_run_downwards_and_in_no_circle() -> None:
    levels: dict[Path, int] = {}
    for level, patterns in enumerate(LEVELS):
        for path in (path for pattern in patterns for path in sorted(ROOT.glob(pattern))):
            levels.setdefault(path, level)
    assert set(levels) == {*ROOT.glob("*.py"), *ROOT.glob("[!.]*/*.py")} - {*ROOT.glob("tests/*")}
    graph = {path: set(imported(path)) for path in levels}
    upwards = [
        f"{path.relative_to(ROOT)} imports {other.relative_to(ROOT)}"
        for path, others in graph.items()
        for other in others
        if levels[other] > levels[path]
    ]
    assert not upwards
    TopologicalSorter(graph).prepare()  # raises CycleError, and names the circle


def test_the_root_shows_the_experiment() -> None:
    assert len(list(ROOT.glob("*.py"))) <= 8


SCRIPT = '''"""Search LMF's hyperparameters on moods: three of them, from 0 to 5."""

from search.columns import Columns
from search.experiment import Experiment
from search.options import parser, read_options
from search.search import search
from train_mosi import GRID
from training.result import Task


def loss(output, label):
    return (output - label).square().sum(-1)


def scores(scored):
    return {"Test MSE": scored.test_loss, "Test bias": float(scored.test_output.mean())}


EXPERIMENT = Experiment(
    name="moods",
    grid=GRID,
    columns=Columns("Best Validation MSE", ("Test MSE",), ("Test bias",), headline="Test MSE"),
    task=lambda data: Task(output_dim=3, loss=loss, loss_divisor=3, scores=scores),
)


def main(options=None):
    flags = parser(__doc__, EXPERIMENT.name, epochs=10, output_dim=3)
    return search(EXPERIMENT, read_options(flags, options))
'''


def test_a_data_set_takes_a_script_and_a_row(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    row = CORPORA["pom"]._replace(
        name="moods", title="Moods", label_columns=3, label_range=(0, 5), extra_column=None
    )
    monkeypatch.setitem(CORPORA, "moods", row)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "train_moods.py").write_text(SCRIPT)
    monkeypatch.syspath_prepend(str(tmp_path / "scripts"))
    arrays = tiny_arrays("pom")
    for split in arrays.values():
        split["label"] = split["label"][:, :3] - 1
    options |= {"data_path": pickled(tmp_path / "data", "moods", arrays), "settings": 2}

    path = import_module("train_moods").main({**options, "grid": GRID})
    names = ["Best Validation MSE", "Test MSE", "Test bias"]
    with path.open(newline="") as file:
        for found in csv.DictReader(file):
            assert found["Status"] == "ok"
            assert all(float(found[name]) for name in names)

    mine = tmp_path / "mine.txt"
    header = " ".join(["name", *list(found)[:11]])
    mine.write_text(f"[moods]\n{header}\nfirst 3 3 6 0 0 0 0.01 0.01 2 8 0\n")
    del options["grid"]
    import_module("train_moods").main({**options, "hyperparams": mine})
    assert path.read_text().count("\n") == 4

    folders = [str(options["output_path"]), "--model_path", str(options["model_path"])]
    report.main([*folders, "--output_path", str(tmp_path / "report")])
    text = (tmp_path / "report" / "report.md").read_text()
    assert "## Moods" in text
    assert "moods.pkl" in text
    assert "left out" not in text
