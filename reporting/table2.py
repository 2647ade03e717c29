"""The paper's table 2, with what was measured here in it.

Beside the paper's rows stand the released code's re-runs by others and the constant predictor.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.corpora import CORPORA
from data.files import InputError, MissingFile
from reporting.markdown import Row, markdown, table
from reporting.runs import Run
from training.result import Data, Scored
from utils import load_corpus

TRAIT_COLUMN = " validation MAE"  # behind a trait's name: what its own best setting is chosen by


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


class Published(NamedTuple):
    """A data set's part of table 2.

    Attributes:
        scores: Its columns.
        models: By model, the scores that the paper prints.
        rerun: Those of the released code, trained by others. The paper's own numbers came from an
            earlier program.
    """

    scores: tuple[Score, ...]
    models: dict[str, tuple[float, ...]]
    rerun: tuple[float, ...]


PUBLISHED = {
    "mosi": Published(
        scores=(
            Score("MAE ↓", "Test MAE"),
            Score("Corr ↑", "Test Corr"),
            Score("Acc-2 ↑", "Test binary accuracy", percent=True),
            Score("F1 ↑", "Test f1_score", percent=True),
            Score("Acc-7 ↑", "Test multiclass accuracy", percent=True),
        ),
        models={
            "SVM": (1.864, 0.057, 50.2, 50.1, 17.5),
            "DF": (1.143, 0.518, 72.3, 72.1, 26.8),
            "BC-LSTM": (1.079, 0.581, 73.9, 73.9, 28.7),
            "MV-LSTM": (1.019, 0.601, 73.9, 74.0, 33.2),
            "MARN": (0.968, 0.625, 77.1, 77.0, 34.7),
            "MFN": (0.965, 0.632, 77.4, 77.3, 34.1),
            "TFN": (0.970, 0.633, 73.9, 73.4, 32.1),
            "LMF": (0.912, 0.668, 76.4, 75.7, 32.8),
        },
        rerun=(1.069, 0.560, 72.1, 72.1, 31.6),
    ),
    "pom": Published(
        scores=(
            Score("MAE ↓", "Mean MAE"),
            Score("Corr ↑", "Mean corr"),
            Score("Acc ↑", "Mean accuracy", percent=True),
        ),
        models={
            "SVM": (0.887, 0.104, 33.9),
            "DF": (0.869, 0.144, 34.1),
            "BC-LSTM": (0.840, 0.278, 34.8),
            "MV-LSTM": (0.891, 0.270, 34.6),
            "MARN": (math.nan, math.nan, 39.4),
            "MFN": (0.805, 0.349, 41.7),
            "TFN": (0.886, 0.093, 31.6),
            "LMF": (0.796, 0.396, 42.8),
        },
        rerun=(0.863, 0.248, 34.5),
    ),
    "iemocap": Published(
        scores=tuple(
            Score(f"F1 {emotion} ↑", "Test F1-score", percent=True, emotion=emotion)
            for emotion in CORPORA["iemocap"].emotions
        ),
        models={
            "SVM": (81.5, 78.8, 82.4, 64.9),
            "DF": (81.0, 81.2, 65.4, 44.0),
            "BC-LSTM": (81.7, 81.7, 84.2, 64.1),
            "MV-LSTM": (81.3, 74.0, 84.3, 66.7),
            "MARN": (83.6, 81.2, 84.2, 65.9),
            "MFN": (84.0, 82.1, 83.7, 69.2),
            "TFN": (83.6, 82.8, 84.2, 65.4),
            "LMF": (85.8, 85.9, 89.0, 71.7),
        },
        rerun=(84.6, 78.4, 85.2, 65.7),
    ),
}


def table_2(runs: Sequence[Run]) -> Iterator[str]:
    """Yields the paper's table 2 for one data set, with its runs in it, and notes.

    Nothing for a data set that the paper does not have.
    """
    name = runs[0].experiment.name
    if name not in PUBLISHED:
        return
    scores, models, rerun = PUBLISHED[name]

    def cells(values: Sequence[float]) -> list[str]:
        return [score.printed(value) for score, value in zip(scores, values, strict=True)]

    rows: list[Row] = [
        ("**LMF, as the paper prints it**", cells(models["LMF"])),
        ("LMF, the release's code trained by others", cells(rerun)),
    ]
    for group in _together(runs):
        rows += our_rows(group)
    constant, notes = _constant_rows(runs)
    rows += constant
    others = [model for model in reversed(models) if model != "LMF"]
    rows += [(f"{model}, as the paper prints it", cells(models[model])) for model in others]
    yield table([f"Table 2, {CORPORA[name].title}", *(score.title for score in scores)], rows)
    yield from notes


def _together(runs: Iterable[Run]) -> list[list[Run]]:
    """Returns the runs that make one row: the emotions of one run on the same data."""
    groups: dict[tuple[Path, str, str | None], list[dict[str | None, Run]]] = {}
    for run in runs:
        alike = groups.setdefault((run.path.parent, _common_name(run), run.sha256), [])
        group = next((one for one in alike if run.emotion not in one), None)
        if group is None:
            alike.append(group := {})
        group[run.emotion] = run
    return [[*group.values()] for alike in groups.values() for group in alike]


def _common_name(run: Run) -> str:
    return "_".join(word for word in run.name.split("_") if word != run.emotion)


def our_rows(group: Sequence[Run]) -> Iterator[Row]:
    """Yields what one run, or its emotions together, reached: one row, or two if it has traits."""
    name, scores = markdown(_common_name(group[0])), PUBLISHED[group[0].experiment.name].scores
    able = [run for run in group if run.candidates]
    if not able:
        yield f"LMF, here: {name} (all diverged)", ["–"] * len(scores)
        return
    name, counts = f"**LMF, here**: {name}", _counts(able)
    if traits := _traits(able[0]):
        yield f"{name}, each trait from its own best of {counts}", _by_trait(able[0], traits)
    cells = []
    for score in scores:
        run = next((run for run in able if run.emotion == score.emotion), None)
        cells.append(score.text(run.values(run.ranking()[0], score.column)) if run else "–")
    yield f"{name}, the best of {counts}", cells


def _counts(runs: Sequence[Run]) -> str:
    settings = span(len(run.candidates) for run in runs)
    seeds = span(len(run.rows[run.candidates[0]]) for run in runs)
    return f"{settings} setting{'s' * (settings != '1')} by validation, n = {seeds}"


def span(counts: Iterable[int]) -> str:
    """Returns the least and the greatest of some numbers, or the one that all of them are."""
    low, *_, high = sorted([*(counts := list(counts)), *counts])
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _traits(run: Run) -> list[str]:
    own = run.columns.own
    return [name.removesuffix(TRAIT_COLUMN) for name in own if name.endswith(TRAIT_COLUMN)]


def _by_trait(run: Run, traits: Sequence[str]) -> list[str]:
    """Returns means over traits, each trait's scores from its own best setting."""
    best = {trait: run.ranking(trait + TRAIT_COLUMN)[0] for trait in traits}
    cells = []
    for score in PUBLISHED[run.experiment.name].scores:
        kind = score.column.removeprefix("Mean ")
        by_trait = [run.values(setting, f"{trait} {kind}") for trait, setting in best.items()]
        cells.append(score.text(np.mean(by_trait, axis=0)))  # (traits, n) to (n,)
    return cells


def _constant_rows(runs: Sequence[Run]) -> tuple[list[Row], list[str]]:
    """Returns the row of the constant predictor for each data file, and notes on missing ones."""
    rows, notes = [], []
    for sha256 in dict.fromkeys(run.sha256 for run in runs):
        constant: dict[str | None, dict[str, float]] = {}
        missing: dict[str, list[Run]] = {}
        for run in (run for run in runs if run.sha256 == sha256):
            try:
                if run.emotion not in constant:
                    constant[run.emotion] = constant_scores(run)
            except InputError as error:
                missing.setdefault(str(error), []).append(run)
        if constant:
            scores = PUBLISHED[runs[0].experiment.name].scores
            label = "Always predicting the median label of train"
            rows.append((label, [_constant_cell(score, constant) for score in scores]))
        notes += [
            "The constant predictor's scores are left out for "
            f"{', '.join(markdown(run.name) for run in without)}: {markdown(why)}."
            for why, found in missing.items()
            if (without := [run for run in found if run.emotion not in constant])
        ]
    return rows, notes


def _constant_cell(score: Score, constant: dict[str | None, dict[str, float]]) -> str:
    return score.text([constant[score.emotion][score.column]]) if score.emotion in constant else "–"


def constant_scores(run: Run) -> dict[str, float]:
    """Returns the test scores, by CSV column, of predicting each label's median in train.

    Raises:
        InputError: The data that the run was trained on are not where they were, or a score is
            missing.
    """
    gone = "the data that it was trained on are not there any more"
    if not run.origin:
        raise InputError("nothing says what data it was trained on")
    name = run.experiment.name
    try:
        loaded = load_corpus(run.origin.data_file.parent, name, emotion=run.emotion)
    except MissingFile:
        raise InputError(gone) from None
    if loaded.sha256 != run.sha256:
        raise InputError(f"{gone}, but others")
    train, valid, test = (split.label for split in loaded.splits)
    median = torch.from_numpy(np.median(train.numpy(), axis=0))
    task = run.experiment.task(Data(*loaded.splits))
    outputs = [median.expand_as(label) for label in (valid, test)]
    valid_loss, test_loss = (
        float(task.loss(output, label).mean()) / task.loss_divisor
        for output, label in zip(outputs, (valid, test), strict=True)
    )
    arrays = (outputs[0].numpy(), valid.numpy(), outputs[1].numpy(), test.numpy())
    found = task.scores(Scored(valid_loss, test_loss, *arrays))
    missing = {*run.columns.release, *run.columns.own} - found.keys()
    if missing:
        raise InputError(
            f"train_{name}.py: expected a score for each of its columns, got none for "
            f"{', '.join(sorted(missing))}"
        )
    return found
