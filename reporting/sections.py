"""The report's text: what each run was trained on, and what it says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from data.official import OFFICIAL
from reporting import figures
from reporting.figures import table
from reporting.runs import EXPERIMENTS, Run, read_history
from reporting.table2 import TITLES, Score, span, table_2
from training.setting import Setting, describe
from utils import InputError

UNITS = {
    "Best Validation MAE": "best validation MAE",
    "Best Validation CrossEntropyLoss": "best validation cross-entropy (nats)",
    "Test MAE": "test MAE",
    "Mean MAE": "test MAE, mean over traits",
    "Test F1-score": "test F1, weighted (0 to 1)",
}


SCALES = {"mosi": " (points; labels from −3 to 3)", "pom": " (points; labels from 1 to 7)"}


def distinct(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs, those that share a name with their folder's before it."""
    counts = Counter(run.name for run in runs)
    return [
        replace(run, name=f"{run.path.parent.name}_{run.name}") if counts[run.name] > 1 else run
        for run in runs
    ]


def best_grid(run: Run) -> str:
    """Returns a run's best setting by validation, all but its rank, as --grid takes it."""
    if not run.candidates:
        raise InputError(f"{run.path}: expected a row with a validation loss, got none")
    return _without_rank(run.ranking()[0])


def report(runs: Sequence[Run], models: Path, folder: Path) -> str:
    """Returns the report in Markdown, having drawn its figures.

    Args:
        runs: What there is, of one data set or several.
        models: Folder of the trained models, for the learning curves.
        folder: Where the figures go.
    """
    parts = [
        "# Results beside the paper's",
        "Liu et al., Efficient Low-rank Multimodal Fusion with Modality-Specific Factors, ACL "
        "2018. ± is the standard deviation over seeds; – is undefined (the correlation of a "
        "constant) or not printed. The best setting is chosen by validation, never by test.",
    ]
    for name, experiment in EXPERIMENTS.items():
        found = [run for run in runs if run.experiment is experiment]
        if found:
            parts += [f"## {TITLES[name]}", *_data_lines(found), table_2(name, found)]
        for run in found:
            parts += _run_section(run, models, folder)
    return "\n\n".join(parts) + "\n"


def _data_lines(runs: Iterable[Run]) -> Iterator[str]:
    """Yields what each run was trained on, and how."""
    lines = []
    for run in runs:
        text = f"- **{run.name}**: settings {len(run.rows):,}, trainings {run.trainings:,}"
        if run.diverged:
            text += f", {run.diverged:,} of them without result (diverged)"
        if run.provenance:
            fixed = run.provenance["fixed"]
            text += f"; at most {fixed['epochs']} epochs, patience {fixed['patience']}"
        lines.append(f"{text}. Data: {data_note(run)}.")
    yield "\n".join(lines)


def data_note(run: Run) -> str:
    """Returns which data a run was trained on, and what that means for the comparison."""
    if not run.provenance:
        return (
            "unknown (no .json beside the CSV): **the comparison may not be one of like with like**"
        )
    name = Path(run.provenance["data_file"]).name
    if run.sha256 == OFFICIAL[run.experiment.name].sha256:
        return f"the official {name} (by its checksum)"
    return (
        f"another {name} than the official one (sha256 {(run.sha256 or '')[:12]}…): **the "
        "comparison with the paper is not one of like with like**"
    )


def _run_section(run: Run, models: Path, folder: Path) -> Iterator[str]:
    """Yields what one run says: best settings, hyperparameters, rank, learning curves."""
    if not run.candidates:
        return
    yield f"### {run.name}"
    yield _best_settings(run)
    losses = losses_by_value(run)
    if losses.keys() - {"rank"}:  # rank alone has a figure of its own
        path = folder / f"hyperparameters_{run.name}.png"
        title = f"{run.name}: {len(run.candidates):,} settings by value (bar: median)"
        figures.hyperparameter_sheet(path, losses, _label(run, run.columns.valid_loss), title)
        yield f"![Validation loss by value of each hyperparameter]({path.name})"
    yield from _rank_section(run, folder)
    found = read_history(run, models)
    if isinstance(found, str):
        yield f"No learning curves: {found}."
    else:
        path = folder / f"curves_{run.name}.png"
        label = _label(run, run.columns.valid_loss).replace("best validation", "loss:")
        figures.learning_curves(path, *found, label, f"{run.name}: the best model")
        yield f"![Learning curves of the best model]({path.name})"


def _label(run: Run, column: str) -> str:
    return UNITS[column] + SCALES.get(run.experiment.name, "")


def _best_settings(run: Run) -> str:
    columns = run.columns
    rows = []
    for place, setting in enumerate(run.ranking()[:5], 1):
        cells = [
            Score("", column).text(run.values(setting, column))
            for column in (columns.valid_loss, columns.headline)
        ]
        label = f"{place}. `{describe(setting)}`"
        rows.append((label, [*cells, str(len(run.rows[setting]))]))
    return table(["Best settings", columns.valid_loss, columns.headline, "n"], rows)


def losses_by_value(run: Run) -> dict[str, dict[float, list[float]]]:
    """Returns the mean validation loss of each setting, by hyperparameter and value.

    Hyperparameters that are the same in all settings are left out.
    """
    losses: dict[str, dict[float, list[float]]] = {name: {} for name in Setting._fields}
    for setting in run.candidates:
        loss = float(run.values(setting, run.columns.valid_loss).mean())
        for name, value in zip(Setting._fields, setting, strict=True):
            losses[name].setdefault(value, []).append(loss)
    return {
        name: dict(sorted(by_value.items()))
        for name, by_value in losses.items()
        if len(by_value) > 1
    }


def rank_study(run: Run) -> list[Setting]:
    """Returns the largest set of settings that differ in nothing but rank, by rank.

    Empty if no two settings do. Among equally large ones, that of the best validation loss.
    """
    alike: dict[Setting, list[Setting]] = {}
    for setting in run.rows:
        if np.isfinite(run.values(setting, run.columns.valid_loss)).any():
            alike.setdefault(setting._replace(rank=0), []).append(setting)

    def worth(group: list[Setting]) -> tuple[int, int, float]:
        losses = [run.values(setting, run.columns.valid_loss) for setting in group]
        return len(group), sum(map(len, losses)), -min(np.nanmean(loss) for loss in losses)

    most = max(alike.values(), key=worth, default=[])
    return sorted(most, key=lambda setting: setting.rank) if len(most) > 1 else []


def _rank_section(run: Run, folder: Path) -> Iterator[str]:
    study = rank_study(run)
    if not study:
        return
    headline = run.columns.headline
    score = Score("", headline)
    rows, scores = [], {}
    for setting in study:
        losses = run.values(setting, run.columns.valid_loss)
        ok = np.isfinite(losses)
        scores[setting.rank] = run.values(setting, headline)[ok]
        cells = [score.text(scores[setting.rank]), score.text(losses[ok])]
        rows.append((f"{setting.rank:g}", [*cells, str(ok.sum()), str((~ok).sum())]))
    path = folder / f"rank_{run.name}.png"
    seeds = span(len(values) for values in scores.values())
    title = f"{run.name}: rank study, n = {seeds} seeds, all else equal"
    figures.rank_study(path, scores, _label(run, headline), title)
    yield f"The paper's figure 4. All else is equal: `{_without_rank(study[0])}`."
    yield table(["Rank", headline, run.columns.valid_loss, "n", "diverged"], rows)
    yield f"![Test score against rank]({path.name})"


def _without_rank(setting: Setting) -> str:
    return " ".join(word for word in describe(setting).split() if not word.startswith("rank="))
