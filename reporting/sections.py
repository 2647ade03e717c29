"""The report's text: what each run was trained on, and what it says."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.corpora import CORPORA
from data.files import InputError
from reporting import figures
from reporting.ablation import ablation
from reporting.markdown import image, markdown, table
from reporting.runs import Run, read_history
from reporting.table2 import PUBLISHED, Score, span, table_2
from training.setting import Setting, describe

UNITS = {  # what a column holds, where its name does not say it well
    "Best Validation MAE": "best validation MAE",
    "Best Validation CrossEntropyLoss": "best validation cross-entropy (nats)",
    "Test MAE": "test MAE",
    "Mean MAE": "test MAE, mean over traits",
    "Test F1-score": "test F1, weighted (0 to 1)",
}


class Places(NamedTuple):
    """Where a report finds models, and puts figures."""

    models: Path
    folder: Path
    kind: str

    def figure(self, name: str) -> Path:
        """Returns a figure's path."""
        return self.folder / f"{name}.{self.kind}"


def best_grid(run: Run) -> str:
    """Returns a run's best setting by validation, as --grid takes it."""
    if not run.candidates:
        raise InputError(f"{run.path}: expected a row with a validation loss, got none")
    return describe(run.ranking()[0])


def report(
    runs: Sequence[Run],
    left_out: Sequence[str],
    models: Path,
    folder: Path,
    kind: str = figures.FORMATS[0],
) -> str:
    """Returns the report in Markdown, having drawn its figures.

    Args:
        runs: What there is, of one data set or several.
        left_out: Why other runs are not in it.
        models: Folder of the trained models, for the learning curves.
        folder: Where the figures go.
        kind: One of figures.FORMATS.
    """
    places = Places(models, folder, kind)
    parts = [
        "# Results beside the paper's",
        "Liu et al., Efficient Low-rank Multimodal Fusion with Modality-Specific Factors, ACL "
        "2018. ± is the standard deviation over seeds; – is undefined (the correlation of a "
        "constant) or not printed. The best setting is chosen by validation, never by test.",
    ]
    if left_out:
        parts.append("\n".join(["Left out:\n", *(f"- {markdown(why)}" for why in left_out)]))
    for name, corpus in CORPORA.items():
        found = [run for run in runs if run.experiment.name == name]
        if not found:
            continue
        parts += [f"## {corpus.title}", _data_lines(found)]
        for synthetic in (False, True):  # never in one table
            alike = [run for run in found if run.synthetic is synthetic]
            try:
                parts += [*table_2([run for run in alike if not run.without]), *ablation(alike)]
            except InputError as error:
                parts.append(f"No table 2: {markdown(str(error))}.")
        for run in found:
            parts += _run_section(run, places)
    if (folder / "efficiency.md").exists():
        parts.append("Efficiency, the paper's table 3: [efficiency.md](efficiency.md).")
    return "\n\n".join(parts) + "\n"


def _data_lines(runs: Iterable[Run]) -> str:
    """Returns what each run was trained on, and how."""
    lines = []
    said: dict[str, str] = {}  # by the data's checksum, which run had them first
    for run in runs:
        text = f"- **{markdown(run.name)}**"
        if f"results_{run.name}" != run.path.stem:
            text += f" ({markdown(str(run.path))})"
        if run.without:
            text += f", without {' and '.join(run.without)}"
        text += f": settings {len(run.rows):,}, trainings {run.trainings:,}"
        if run.diverged:
            text += f", {run.diverged:,} of them without result (diverged)"
        if run.pruned:
            text += f", {len(run.pruned):,} of the settings stopped early (pruned)"
        if run.origin:
            text += f"; at most {run.origin.epochs} epochs, patience {run.origin.patience}"
        known, note = run.sha256 or str(run.path), data_note(run)
        lines.append(f"{text}. Data: {f'as of {said[known]}' if known in said else note}.")
        said.setdefault(known, markdown(run.name))
    return "\n".join(lines)


def data_note(run: Run) -> str:
    """Returns which data a run was trained on, and what that means for the comparison."""
    if not run.origin:
        return (
            "unknown (no .json beside the CSV): **the comparison may not be one of like with like**"
        )
    name, sha256 = markdown(run.origin.data_file.name), markdown(run.origin.sha256[:12])
    if run.sha256 == CORPORA[run.experiment.name].sha256:
        return f"the official {name} (by its checksum)"
    if run.synthetic:
        made_up = "made-up numbers, which don't compare with the paper's"
        return f"{name}, **synthetic** (sha256 {sha256}…): {made_up}"
    if run.experiment.name not in PUBLISHED:
        return f"{name} (sha256 {sha256}…)"
    return (
        f"another {name} than the official one (sha256 {sha256}…): **the "
        "comparison with the paper is not one of like with like**"
    )


def _run_section(run: Run, places: Places) -> Iterator[str]:
    """Yields what one run says: best settings, hyperparameters, rank, learning curves."""
    if not run.candidates:
        return
    yield f"### {markdown(_title(run))}"
    yield _best_settings(run)
    losses = losses_by_value(run)
    if losses and len(run.candidates) <= len(losses):  # too few to tell whose effect is whose
        yield f"No figure by value: {len(run.candidates)} settings differ in {len(losses)} ways."
    elif losses.keys() - {"rank"}:  # rank alone has a figure of its own
        path = places.figure(f"hyperparameters_{run.name}")
        count = f"{len(run.candidates):,} settings"
        title = f"{_where(run)}: {count} by value of each hyperparameter (bar: median)"
        figures.hyperparameter_sheet(path, losses, _label(run, run.columns.valid_loss), title)
        yield image("Validation loss by value of each hyperparameter", path)
    yield from _rank_section(run, places)
    yield _curves(run, places)


def _curves(run: Run, places: Places) -> str:
    try:
        history = read_history(run, places.models)
    except InputError as error:
        return f"No learning curves: {markdown(str(error))}."
    path = places.figure(f"curves_{run.name}")
    label = _label(run, run.columns.valid_loss).replace("best validation", "loss:")
    figures.learning_curves(
        path, *history, label, f"{_where(run)}: learning curves of the best model"
    )
    return image("Learning curves of the best model", path)


def _where(run: Run) -> str:
    return f"{CORPORA[run.experiment.name].title}, run {_title(run)}"


def _title(run: Run) -> str:
    return f"{run.name} (synthetic data)" if run.synthetic else run.name


def _label(run: Run, column: str) -> str:
    low, high = CORPORA[run.experiment.name].label_range
    scale = f" (points; labels from {low:g} to {high:g})" if column.endswith("MAE") else ""
    return UNITS.get(column, column) + scale.replace("-", "−")


def _best_settings(run: Run) -> str:
    columns = run.columns.valid_loss, run.columns.headline
    rows = []
    for place, setting in enumerate(run.ranking()[:5], 1):
        cells = [Score("", column).text(run.values(setting, column)) for column in columns]
        rows.append((f"{place}. `{describe(setting)}`", [*cells, str(len(run.rows[setting]))]))
    return table(["Best settings", columns[0], _of_test(columns[1]), "n"], rows)


def _of_test(column: str) -> str:
    """Returns a score's column as a table's title, which says that it is of the test split."""
    return column if "Test" in column else f"Test {column}"


def losses_by_value(run: Run) -> dict[str, dict[float, list[float]]]:
    """Returns the mean validation loss of each setting, by hyperparameter and value.

    Hyperparameters that are the same in all settings are left out.
    """
    losses: dict[str, dict[float, list[float]]] = {name: {} for name in Setting._fields}
    for setting in run.candidates:
        loss = float(run.losses(setting).mean())
        for name, value in zip(Setting._fields, setting, strict=True):
            losses[name].setdefault(value, []).append(loss)
    varied = {name: by_value for name, by_value in losses.items() if len(by_value) > 1}
    return {name: dict(sorted(by_value.items())) for name, by_value in varied.items()}


def rank_study(run: Run) -> list[Setting]:
    """Returns the largest set of settings that differ in nothing but rank, by rank.

    Empty if no two settings do. Among equally large ones, that of the best validation loss.
    """
    alike: dict[Setting, list[Setting]] = {}
    for setting in run.rows:
        if setting not in run.pruned and np.isfinite(run.losses(setting)).any():
            alike.setdefault(setting._replace(rank=0), []).append(setting)

    def worth(group: list[Setting]) -> tuple[int, int, float]:
        losses = [run.losses(setting) for setting in group]
        return len(group), sum(map(len, losses)), -min(np.nanmean(loss) for loss in losses)

    most = max(alike.values(), key=worth, default=[])
    return sorted(most, key=lambda setting: setting.rank) if len(most) > 1 else []


def _rank_section(run: Run, places: Places) -> Iterator[str]:
    study = rank_study(run)
    if not study:
        return
    headline = run.columns.headline
    score = Score("", headline)
    rows, scores = [], {}
    for setting in study:
        losses = run.losses(setting)
        ok = np.isfinite(losses)
        values = run.values(setting, headline)[ok]
        scores[setting.rank] = np.where(np.isfinite(values), values, np.nan)
        cells = [score.text(values), score.text(losses[ok])]
        rows.append((f"{setting.rank:g}", [*cells, str(ok.sum()), str((~ok).sum())]))
    path = places.figure(f"rank_{run.name}")
    seeds = span([len(values) for values in scores.values()])
    title = f"{_where(run)}: test score by rank, n = {seeds} seeds, all else equal"
    figures.rank_study(path, scores, _label(run, headline), title)
    yield f"The paper's figure 4. All else is equal: `{_without_rank(study[0])}`."
    yield table(["Rank", _of_test(headline), run.columns.valid_loss, "n", "diverged"], rows)
    yield image("Test score against rank", path)


def _without_rank(setting: Setting) -> str:
    return " ".join(word for word in describe(setting).split() if not word.startswith("rank="))
