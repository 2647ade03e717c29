"""The paper's table 2, with what was measured here in it.

Beside the paper's rows stand the released code's re-runs by others and the constant predictor.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
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
    """A data set's part of table 2: its columns, and by model the scores that the paper prints."""

    scores: tuple[Score, ...]
    models: dict[str, tuple[float, ...]]


# Of MOSI, POM and IEMOCAP, as printed. "rerun" is the released code, trained by others: the paper's
# own numbers came from an earlier program.
_TABLE_2 = """
SVM     1.864 0.057 50.2 50.1 17.5 | 0.887 0.104 33.9 | 81.5 78.8 82.4 64.9
DF      1.143 0.518 72.3 72.1 26.8 | 0.869 0.144 34.1 | 81.0 81.2 65.4 44.0
BC-LSTM 1.079 0.581 73.9 73.9 28.7 | 0.840 0.278 34.8 | 81.7 81.7 84.2 64.1
MV-LSTM 1.019 0.601 73.9 74.0 33.2 | 0.891 0.270 34.6 | 81.3 74.0 84.3 66.7
MARN    0.968 0.625 77.1 77.0 34.7 |   nan   nan 39.4 | 83.6 81.2 84.2 65.9
MFN     0.965 0.632 77.4 77.3 34.1 | 0.805 0.349 41.7 | 84.0 82.1 83.7 69.2
TFN     0.970 0.633 73.9 73.4 32.1 | 0.886 0.093 31.6 | 83.6 82.8 84.2 65.4
LMF     0.912 0.668 76.4 75.7 32.8 | 0.796 0.396 42.8 | 85.8 85.9 89.0 71.7
rerun   1.069 0.560 72.1 72.1 31.6 | 0.863 0.248 34.5 | 84.6 78.4 85.2 65.7
"""


def _published(part: int, *scores: Score) -> Published:
    models = {}
    for line in _TABLE_2.strip().splitlines():
        model, numbers = line.split(maxsplit=1)
        models[model] = tuple(map(float, numbers.split("|")[part].split()))
    return Published(scores, models)


PUBLISHED = {
    "mosi": _published(
        0,
        Score("MAE ↓", "Test MAE"),
        Score("Corr ↑", "Test Corr"),
        Score("Acc-2 ↑", "Test binary accuracy", percent=True),
        Score("F1 ↑", "Test f1_score", percent=True),
        Score("Acc-7 ↑", "Test multiclass accuracy", percent=True),
    ),
    "pom": _published(
        1,
        Score("MAE ↓", "Mean MAE"),
        Score("Corr ↑", "Mean corr"),
        Score("Acc ↑", "Mean accuracy", percent=True),
    ),
    "iemocap": _published(
        2,
        *(
            Score(f"F1 {emotion} ↑", "Test F1-score", percent=True, emotion=emotion)
            for emotion in CORPORA["iemocap"].emotions
        ),
    ),
}


def table_2(runs: Sequence[Run]) -> Iterator[str]:
    """Yields the paper's table 2 for one data set, with its runs in it, and notes.

    Runs on synthetic data have a table without the paper's rows. Nothing without runs, or for a
    data set that the paper does not have.
    """
    if not runs or (name := runs[0].experiment.name) not in PUBLISHED:
        return
    scores, models = PUBLISHED[name]

    def printed(label: str, values: Sequence[float]) -> Row:
        return label, [score.printed(value) for score, value in zip(scores, values, strict=True)]

    constant, notes = _constant_rows(runs, scores)
    corpus, synthetic = CORPORA[name].title, runs[0].synthetic
    title = f"{corpus}'s layout, **synthetic** data" if synthetic else f"Table 2, {corpus}"
    ours = "LMF, on synthetic data" if synthetic else "LMF, here"
    rows = [row for group in together(runs) for row in our_rows(group, scores, ours)] + constant
    if not synthetic:
        others = [model for model in reversed(models) if model not in ("LMF", "rerun")]
        rows = [
            printed("**LMF, as the paper prints it**", models["LMF"]),
            printed("LMF, the release's code trained by others", models["rerun"]),
            *rows,
            *(printed(f"{model}, as the paper prints it", models[model]) for model in others),
        ]
    yield table([title, *(score.title for score in scores)], rows)
    yield from notes


def together(runs: Sequence[Run]) -> list[list[Run]]:
    """Returns the runs that make one row: the emotions of one run on the same data."""
    groups: dict[tuple[object, ...], list[Run]] = {}
    seen = Counter()
    for run in runs:
        alike = run.path.parent, _common_name(run), run.sha256
        groups.setdefault((*alike, seen[alike, run.emotion]), []).append(run)
        seen[alike, run.emotion] += 1
    return list(groups.values())


def _common_name(run: Run) -> str:
    return "_".join(word for word in run.name.split("_") if word != run.emotion)


def our_rows(
    group: Sequence[Run], scores: Sequence[Score], title: str = "LMF, here"
) -> Iterator[Row]:
    """Yields what one run, or its emotions together, reached: one row, or two if it has traits."""
    name = markdown(_common_name(group[0]))
    able = {run.emotion: run for run in group if run.candidates}
    if not able:
        yield f"{title}: {name} (all diverged)", ["–"] * len(scores)
        return
    settings = span([len(run.candidates) for run in able.values()])
    seeds = span([len(run.rows[run.candidates[0]]) for run in able.values()])
    name = f"**{title}**: {name}"
    counts = f"{settings} setting{'s' * (settings != '1')} by validation, n = {seeds}"
    first = next(iter(able.values()))
    if traits := [name for name in first.columns.own if name.endswith(TRAIT_COLUMN)]:
        yield f"{name}, each trait from its own best of {counts}", _by_trait(first, traits, scores)
    cells = []
    for score in scores:
        run = able.get(score.emotion)
        cells.append(score.text(run.values(run.ranking()[0], score.column)) if run else "–")
    yield f"{name}, the best of {counts}", cells


def span(counts: Collection[int]) -> str:
    """Returns the least and the greatest of some numbers, or the one that all of them are."""
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _by_trait(run: Run, valid_columns: Sequence[str], scores: Sequence[Score]) -> list[str]:
    """Returns means over traits, each trait's scores from its own best setting."""
    best = {column.removesuffix(TRAIT_COLUMN): run.ranking(column)[0] for column in valid_columns}
    cells = []
    for score in scores:
        kind = score.column.removeprefix("Mean ")
        by_trait = [run.values(setting, f"{trait} {kind}") for trait, setting in best.items()]
        cells.append(score.text(np.mean(by_trait, axis=0)))  # (traits, n) to (n,)
    return cells


def _constant_rows(runs: Sequence[Run], scores: Sequence[Score]) -> tuple[list[Row], list[str]]:
    """Returns the row of the constant predictor for each data file, and notes on missing ones."""
    rows, notes = [], []
    for sha256 in dict.fromkeys(run.sha256 for run in runs):
        alike = [run for run in runs if run.sha256 == sha256]
        constant: dict[str | None, dict[str, float]] = {}
        missing: dict[str, list[Run]] = {}
        for run in alike:
            try:
                if run.emotion not in constant:
                    constant[run.emotion] = constant_scores(run)
            except InputError as error:
                missing.setdefault(str(error), []).append(run)
        if constant:
            cells = [
                score.text([found[score.column]]) if (found := constant.get(score.emotion)) else "–"
                for score in scores
            ]
            guess = "larger class" if CORPORA[runs[0].experiment.name].emotions else "median label"
            rows.append((f"Always predicting the {guess} of train", cells))
        for why, found in missing.items():
            names = [markdown(run.name) for run in found if run.emotion not in constant]
            if names:
                notes.append(
                    "The constant predictor's scores are left out for "
                    f"{', '.join(names)}: {markdown(why)}."
                )
    return rows, notes


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
    task = run.experiment.task(Data(*loaded.splits))
    train, *labels = (split.label for split in loaded.splits)
    median = torch.from_numpy(np.median(train.numpy(), axis=0))
    losses, arrays = [], []
    for label in labels:  # of valid and test
        output = median.expand_as(label)
        losses.append(float(task.loss(output, label).mean()) / task.loss_divisor)
        arrays += [output.numpy(), label.numpy()]
    found = task.scores(Scored(*losses, *arrays))
    if missing := {*run.columns.release, *run.columns.own} - found.keys():
        raise InputError(
            f"train_{name}.py: expected a score for each of its columns, got none for "
            f"{', '.join(sorted(missing))}"
        )
    return found
