"""A data set of one's own: docs/own-data.md is followed as it stands, to the predictions."""

from __future__ import annotations

import ast
import pickle
import re
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, run_line
from conftest import table as rows

import predict
from examples import train_own
from utils import InputError, load

PAGE = (ROOT / "docs" / "own-data.md").read_text(encoding="utf-8")
STEP = re.compile(r"^```python\n(.*?)^```|^    (python [^\n]*)\n", re.MULTILINE | re.DOTALL)


def section(title: str) -> str:
    return PAGE.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def test_the_page_leads_from_arrays_to_predictions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, object] = {}
    for code, command in STEP.findall(PAGE.partition("\n## Regression\n")[0]):
        if command:
            run_line(command)
        else:
            exec(code, names)
    assert len(rows("results/results_own_1.csv")) == 4
    written, new = rows("results/predictions.csv"), rows("new.csv")
    data, logits = names["data"], names["logits"]
    assert isinstance(data, dict)
    assert isinstance(logits, np.ndarray)
    assert [row["id"] for row in written] == data["test"]["id"]
    assert [int(row["label"]) for row in written] == data["test"]["label"][:, 0].tolist()
    assert [int(row["prediction"]) for row in written] == logits.argmax(1).tolist()
    assert new == [{name: row[name] for name in new[0]} for row in written]
    assert list(new[0]) == ["prediction", "probability 0", "probability 1", "probability 2"]
    assert load("data/own.pkl")[3] == (12, 10, 16)
    run_line("python data/prepare.py inspect data/own.pkl")
    assert "class numbers" in (shown := capsys.readouterr().out)
    assert "docs/own-data.md" in shown
    assert "name it mosi.pkl" not in shown


def changed(name: str, changes: str) -> str:
    """Returns the example script with another NAME, and a section's definitions for its own."""
    (block,) = re.findall(r"^```python\n(.*?)^```", changes, re.MULTILINE | re.DOTALL)
    (line,) = re.findall(r"`(from utils import \w+)`", changes)
    new = {defined(node) for node in ast.parse(block).body}
    lines = (ROOT / "examples" / "train_own.py").read_text(encoding="utf-8").splitlines()
    kept: list[str] = []
    replaced = 0
    for node in ast.parse("\n".join(lines)).body:
        if defined(node) in new:
            kept += [] if replaced else [line, block]
            replaced += 1
        else:
            kept += lines[node.lineno - 1 : node.end_lineno]
    assert replaced == 5  # the columns, loss, scores, task, experiment
    return "\n".join(kept).replace('NAME = "own"', f'NAME = "{name}"')


def defined(node: ast.stmt) -> str:
    target = node.targets[0] if isinstance(node, ast.Assign) else node
    return getattr(target, "id", "") or getattr(target, "name", "") or ast.dump(node)


@pytest.mark.parametrize(
    ("title", "columns", "header"),
    [
        ("Regression", 1, ["label", "prediction"]),
        (
            "Several labels",
            3,
            [
                f"{kind} {name}"
                for kind in ("label", "prediction")
                for name in ("happy", "sad", "angry")
            ],
        ),
    ],
)
def test_what_the_page_changes_trains_and_predicts(
    title: str, columns: int, header: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = title.split()[0].lower()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(predict, "ROOT", tmp_path)
    Path(f"train_{name}.py").write_text(changed(name, section(title)), encoding="utf-8")
    names: dict[str, object] = {}
    exec(STEP.findall(section("1. Arrays"))[0][0], names)
    data = names["data"]
    assert isinstance(data, dict)
    for parts in data.values():
        parts["label"] = (parts["glove"][:, -1, :columns] > 0) * (1.0 if columns > 1 else 0.7)
    Path(f"data/{name}.pkl").write_bytes(pickle.dumps(data))
    main = import_module(f"train_{name}").main
    small = {"settings": 2, "epochs": 3, "jobs": 1, "grid": {"text_hidden": [8]}}
    reference, fast = (losses(main({**small, "run_id": k, "stack": k})) for k in (1, 2))
    assert fast == pytest.approx(reference, abs=1e-3)
    written = rows(predict.main([f"models/model_{name}_1.pt", "--split", "valid"]))
    assert list(written[0]) == ["id", *header]
    assert len(written) == 60
    for parts in data.values():
        parts["label"] = parts["glove"][:, 0, :7]
    Path(f"data/{name}.pkl").write_bytes(pickle.dumps(data))
    with pytest.raises(InputError, match=f"each of its {columns} outputs, got 7"):
        main({**small, "run_id": "other"})


def losses(path: Path) -> dict[str, float]:
    """Returns a CSV's validation losses, by the setting."""
    return {str([*row.values()][:11]): float([*row.values()][11]) for row in rows(path)}


@pytest.mark.parametrize(
    ("split", "label", "message"),
    [
        ("test", np.full((80, 1), 3), "expected a class number from 0 to 2, the highest in train"),
        ("test", np.full((80, 1), 0.5), "expected a class number from 0 to 2"),
        ("test", np.full((80, 1), -1), "expected a class number from 0 to 2"),
        ("test", np.full(80, 1), r"expected test/label to be a numeric array \(N, D\)"),
        ("train", np.zeros((300, 1)), "expected class numbers 0, 1 and so on, got 0 only"),
    ],
)
def test_labels_that_are_no_classes_are_refused(
    split: str, label: np.ndarray, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, dict] = {}
    exec(STEP.findall(PAGE)[0][0], names)
    names["data"][split]["label"] = label
    Path("data/own.pkl").write_bytes(pickle.dumps(names["data"]))
    with pytest.raises(InputError, match=rf"own\.pkl: {message}"):
        train_own.main({"settings": 1})
    assert not Path("results").exists()


def test_a_missing_file_leads_to_the_page(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; save the arrays there \(docs/own-data"):
        train_own.main({"data_path": tmp_path})
