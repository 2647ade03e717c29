"""Runs without a modality, or two, beside those of all three: what each of them is worth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data.corpora import CORPORA
from model import MODALITIES
from reporting.markdown import table
from reporting.runs import Run
from reporting.table2 import PUBLISHED, Score, our_rows, together


def ablation(runs: Sequence[Run]) -> Iterator[str]:
    """Yields a table of one data set's runs by modality, if any of them is without one.

    Of the runs with all three, those of the same data and settings stand in it; if there are none,
    all do.
    """
    smaller = [run for run in runs if run.without]
    if not smaller:
        return
    name, columns = runs[0].experiment.name, runs[0].columns
    whole = [run for run in runs if not run.without]
    compared = {(run.sha256, *sorted(run.rows)) for run in smaller}
    alike = [run for run in whole if (run.sha256, *sorted(run.rows)) in compared]
    only = (Score(columns.headline, columns.headline),)
    scores = PUBLISHED[name].scores if name in PUBLISHED else only
    groups = together([*(alike or whole), *smaller])
    rows = []
    for group in sorted(groups, key=lambda group: len(group[0].without)):
        kept = [modality for modality in MODALITIES if modality not in group[0].without]
        rows.append(next(our_rows(group, scores, ", ".join(kept))))
    title = f"{CORPORA[name].title} by modality{', **synthetic** data' * runs[0].synthetic}"
    yield table([title, *(score.title for score in scores)], rows)
