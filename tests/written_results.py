"""Result files such as the train scripts write, with random scores, and what is printed of them."""

from __future__ import annotations

import csv
import json
import statistics
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from report import experiments
from reporting.runs import Run, read_run
from training.setting import Setting

EXPERIMENTS = experiments()
SETTING = Setting(4, 8, 64, 0.1, 0.2, 0.3, 0.001, 0.003, 4, 32, 0.01)


def columns_of(name: str) -> list[str]:
    columns = EXPERIMENTS[name].columns
    return [columns.valid_loss, *columns.release, *columns.own]


def make_rows(name: str, settings: list[Setting], seeds: int) -> list[dict[str, str]]:
    random = np.random.default_rng(len(settings) + seeds)
    return [
        {
            **dict(zip(Setting._fields, setting.texts(), strict=True)),
            **{column: f"{random.uniform(0.1, 0.9):.6g}" for column in columns_of(name)},
            **{"Seed": str(seed), "Status": "ok"},
            **{"Best Epoch": "3", "Epochs": "5", "Seconds": "1.000"},
        }
        for setting in settings
        for seed in range(seeds)
    ]


def diverge(name: str, row: dict[str, str]) -> None:
    row.update(dict.fromkeys(columns_of(name), "nan"), Status="diverged")


def write_results(
    path: Path,
    name: str,
    rows: list[dict[str, str]],
    emotion: str | None = None,
    data_file: Path = Path("data/none.pkl"),
    sha256: str = "0" * 64,
    without: Sequence[str] = (),
) -> Path:
    with path.open("w", newline="") as file:
        header = EXPERIMENTS[name].columns.all()
        writer = csv.DictWriter(file, header, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    provenance = {
        "data_set": name,
        "emotion": emotion,
        "data_file": str(data_file),
        "fixed": {
            **{"data sha256": sha256, "epochs": 5, "patience": 3},
            **({"without": without} if without else {}),
        },
        "versions": {},
        "command": [],
        "started": "",
    }
    path.with_suffix(".json").write_text(json.dumps(provenance))
    return path


def read(path: Path) -> Run:
    return read_run(path, EXPERIMENTS)


def ranks(*values: int) -> list[Setting]:
    return [SETTING._replace(rank=value) for value in values]


def numbers(rows: list[dict[str, str]], setting: Setting, column: str) -> list[float]:
    texts = dict(zip(Setting._fields, setting.texts(), strict=True))
    return [float(row[column]) for row in rows if texts.items() <= row.items()]


def mean_and_spread(values: list[float], factor: int, digits: int) -> str:
    values = [value * factor for value in values]
    return f"{statistics.fmean(values):.{digits}f} ± {statistics.stdev(values):.{digits}f}"


def cells(text: str, label: str) -> list[str]:
    lines = [line for line in text.splitlines() if line.startswith("| ") and label in line]
    assert len(lines) == 1, (label, text)
    return lines[0].strip("| ").split(" | ")[1:]
