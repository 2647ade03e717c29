"""The paper's table 2, with what was measured here in it.

Beside the paper's rows stand the released code's re-runs by others and the constant predictor.
"""

from __future__ import annotations

import math
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from reporting.figures import Row, table
from reporting.runs import Run
from search.experiment import Experiment
from train_pom import TRAITS
from training.result import Data, Scored
from utils import EMOTIONS, checksum

# Paper, table 2, by model: the scores in the order of SCORES.
PAPER: dict[str, dict[str, tuple[float, ...]]] = {
    "mosi": {
        "SVM": (1.864, 0.057, 50.2, 50.1, 17.5),
        "DF": (1.143, 0.518, 72.3, 72.1, 26.8),
        "BC-LSTM": (1.079, 0.581, 73.9, 73.9, 28.7),
        "MV-LSTM": (1.019, 0.601, 73.9, 74.0, 33.2),
        "MARN": (0.968, 0.625, 77.1, 77.0, 34.7),
        "MFN": (0.965, 0.632, 77.4, 77.3, 34.1),
        "TFN": (0.970, 0.633, 73.9, 73.4, 32.1),
        "LMF": (0.912, 0.668, 76.4, 75.7, 32.8),
    },
    "pom": {
        "SVM": (0.887, 0.104, 33.9),
        "DF": (0.869, 0.144, 34.1),
        "BC-LSTM": (0.840, 0.278, 34.8),
        "MV-LSTM": (0.891, 0.270, 34.6),
        "MARN": (math.nan, math.nan, 39.4),
        "MFN": (0.805, 0.349, 41.7),
        "TFN": (0.886, 0.093, 31.6),
        "LMF": (0.796, 0.396, 42.8),
    },
    "iemocap": {
        "SVM": (81.5, 78.8, 82.4, 64.9),
        "DF": (81.0, 81.2, 65.4, 44.0),
        "BC-LSTM": (81.7, 81.7, 84.2, 64.1),
        "MV-LSTM": (81.3, 74.0, 84.3, 66.7),
        "MARN": (83.6, 81.2, 84.2, 65.9),
        "MFN": (84.0, 82.1, 83.7, 69.2),
        "TFN": (83.6, 82.8, 84.2, 65.4),
        "LMF": (85.8, 85.9, 89.0, 71.7),
    },
}

# The released code, trained by others. The paper's own numbers came from an earlier program.
RERUNS: dict[str, tuple[float, ...]] = {
    "mosi": (1.069, 0.560, 72.1, 72.1, 31.6),
    "pom": (0.863, 0.248, 34.5),
    "iemocap": (84.6, 78.4, 85.2, 65.7),
}


class Score(NamedTuple):
    """One column of table 2, and the CSV column that it is taken from."""

    title: str
    column: str
    percent: bool = False
    emotion: str | None = None

    def text(self, values: np.ndarray | Sequence[float]) -> str:
        """Returns the mean over seeds, and the standard deviation if there are several."""
        values = np.asarray(values, dtype=float) * (100 if self.percent else 1)
        digits = 1 if self.percent else 3
        if not np.isfinite(values).all():
            return "–"
        spread = f" ± {values.std(ddof=1):.{digits}f}" if len(values) > 1 else ""
        return f"{values.mean():.{digits}f}{spread}"

    def printed(self, value: float) -> str:
        """Returns a score that stands in percent already, as the paper prints it."""
        return "–" if math.isnan(value) else f"{value:.{1 if self.percent else 3}f}"


SCORES: dict[str, tuple[Score, ...]] = {
    "mosi": (
        Score("MAE ↓", "Test MAE"),
        Score("Corr ↑", "Test Corr"),
        Score("Acc-2 ↑", "Test binary accuracy", percent=True),
        Score("F1 ↑", "Test f1_score", percent=True),
        Score("Acc-7 ↑", "Test multiclass accuracy", percent=True),
    ),
    "pom": (
        Score("MAE ↓", "Mean MAE"),
        Score("Corr ↑", "Mean corr"),
        Score("Acc ↑", "Mean accuracy", percent=True),
    ),
    "iemocap": tuple(
        Score(f"F1 {emotion} ↑", "Test F1-score", percent=True, emotion=emotion)
        for emotion in EMOTIONS
    ),
}

TITLES = {"mosi": "CMU-MOSI", "pom": "POM", "iemocap": "IEMOCAP"}


def table_2(name: str, runs: Sequence[Run]) -> str:
    """Returns a data set's part of the paper's table 2, with our rows in it, and notes."""
    scores, paper = SCORES[name], PAPER[name]

    def printed(values: Sequence[float]) -> list[str]:
        return [score.printed(value) for score, value in zip(scores, values, strict=True)]

    rows: list[Row] = [
        ("**LMF, as the paper prints it**", printed(paper["LMF"])),
        ("LMF, the release's code trained by others", printed(RERUNS[name])),
    ]
    for group in _together(runs):
        rows += our_rows(group)
    yardsticks, notes = _yardsticks(runs)
    rows += yardsticks
    others = [model for model in reversed(paper) if model != "LMF"]
    rows += [(f"{model}, as the paper prints it", printed(paper[model])) for model in others]
    header = [f"Table 2, {TITLES[name]}", *(score.title for score in scores)]
    return "\n\n".join([table(header, rows), *notes])


def _together(runs: Iterable[Run]) -> list[list[Run]]:
    """Returns the runs that make one row: the emotions of one run on the same data."""
    groups: dict[tuple[Path, str, str | None], list[Run]] = {}
    for run in runs:
        key = run.path.parent, _common_name(run), run.sha256
        groups.setdefault(key, []).append(run)
    return list(groups.values())


def _common_name(run: Run) -> str:
    return "_".join(word for word in run.name.split("_") if word != run.emotion)


def our_rows(group: Sequence[Run]) -> Iterator[Row]:
    """Yields what one run, or its emotions together, reached: one row, for POM two."""
    able = [run for run in group if run.candidates]
    if not able:
        yield f"LMF, here: {_common_name(group[0])} (all diverged)", ["–"] * _width(group[0])
        return
    label = f"**LMF, here**: {_common_name(able[0])}, {{}} of {_counts(able)}"
    if able[0].experiment.name == "pom":
        yield label.format("each trait from its own best"), _by_trait(able[0])
    cells = []
    for score in SCORES[able[0].experiment.name]:
        run = next((run for run in able if run.emotion == score.emotion), None)
        cells.append(score.text(run.values(run.ranking()[0], score.column)) if run else "–")
    yield label.format("the best"), cells


def _width(run: Run) -> int:
    return len(SCORES[run.experiment.name])


def _counts(runs: Sequence[Run]) -> str:
    settings = span(len(run.candidates) for run in runs)
    seeds = span(len(run.rows[run.candidates[0]]) for run in runs)
    return f"{settings} setting{'s' * (settings != '1')} by validation, n = {seeds}"


def span(counts: Iterable[int]) -> str:
    """Returns the least and the greatest of some numbers, or the one that all of them are."""
    low, *_, high = sorted([*(counts := list(counts)), *counts])
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _by_trait(run: Run) -> list[str]:
    """Returns POM's means over traits, each trait's scores from its own best setting."""
    best = {trait: run.ranking(f"{trait} validation MAE")[0] for trait in TRAITS}
    cells = []
    for score in SCORES["pom"]:
        kind = score.column.removeprefix("Mean ")
        by_trait = [run.values(setting, f"{trait} {kind}") for trait, setting in best.items()]
        cells.append(score.text(np.mean(by_trait, axis=0)))  # (traits, n) to (n,)
    return cells


def _yardsticks(runs: Sequence[Run]) -> tuple[list[Row], list[str]]:
    """Returns the row of the constant predictor for each data file, and notes on missing ones."""
    rows, notes = [], []
    for sha256 in dict.fromkeys(run.sha256 for run in runs):
        same = list({run.emotion: run for run in runs if run.sha256 == sha256}.values())
        constant = {
            run.emotion: constant_scores(run.experiment, path, run.emotion)
            for run, path in zip(same, map(_data_file, same), strict=True)
            if path
        }
        if constant:
            cells = [
                score.text([constant[score.emotion][score.column]])
                if score.emotion in constant
                else "–"
                for score in SCORES[same[0].experiment.name]
            ]
            rows.append(("Always predicting the median label of train", cells))
        else:
            notes.append(
                "The constant predictor's scores are left out: the data that "
                f"{', '.join(run.name for run in same)} was trained on are not there any more."
            )
    return rows, notes


def _data_file(run: Run) -> Path | None:
    """Returns the file that a run was trained on, if it is still there and the same."""
    path = Path(run.provenance["data_file"]) if run.provenance else None
    return path if path and path.is_file() and _checksum(path) == run.sha256 else None


_checksum = cache(checksum)


def constant_scores(experiment: Experiment, path: Path, emotion: str | None) -> dict[str, float]:
    """Returns the test scores, by CSV column, of predicting each label's median in train."""
    *splits, _ = experiment.load(Namespace(data_path=path.parent, max_len=None), emotion)
    train, valid, test = (split.label for split in splits)
    median = torch.from_numpy(np.median(train.numpy(), axis=0))
    task = experiment.task(Data(*splits))
    outputs = [median.expand_as(label) for label in (valid, test)]
    valid_loss, test_loss = (
        float(task.loss(output, label).mean()) / task.loss_divisor
        for output, label in zip(outputs, (valid, test), strict=True)
    )
    arrays = (outputs[0].numpy(), valid.numpy(), outputs[1].numpy(), test.numpy())
    return task.scores(Scored(valid_loss, test_loss, *arrays))
