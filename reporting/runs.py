"""What the train scripts wrote, read back: results_*.csv, the .json beside it, model_*.pt."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain, count
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.checkpoints import read_checkpoint
from data.corpora import CORPORA
from data.files import InputError, MissingFile, open_regular
from model import MODALITIES
from search.columns import MOST_EPOCHS, Columns, printed
from search.experiment import Experiment
from search.provenance import read_provenance
from search.run_files import RunFiles
from search.table import LARGEST, first_line, read_header, read_table
from training.setting import Setting

Experiments = Mapping[str, Experiment]  # by the data set's name
LONGEST_NAME = 140  # bytes; in the names of figures a word and a folder stand before it


class Origin(NamedTuple):
    """What the .json beside a CSV says of how its rows came about, as far as reports need it."""

    data_set: str
    emotion: str | None
    data_file: Path
    sha256: str
    epochs: int
    patience: int
    without: tuple[str, ...]  # modalities
    synthetic: bool  # whether the data are made up


@dataclass(frozen=True)
class Run:
    """The rows of one results_*.csv. Settings are ranked by validation, never by test.

    Attributes:
        path: The CSV.
        name: What it is called in the report: the file's name without what all of them share.
        experiment: The data set's.
        emotion: IEMOCAP's.
        origin: What the .json says; None if there is no such file.
        rows: By setting and seed, the scores in the order of `Columns.scores`.
        pruned: The settings of which a seed was stopped early, as others were better.
    """

    path: Path
    name: str
    experiment: Experiment
    emotion: str | None
    origin: Origin | None
    rows: dict[Setting, dict[int, tuple[float, ...]]]
    pruned: frozenset[Setting] = frozenset()

    @property
    def columns(self) -> Columns:
        """The data set's columns."""
        return self.experiment.columns

    @property
    def sha256(self) -> str | None:
        """The checksum of the data that it was trained on, if known."""
        return self.origin.sha256 if self.origin else None

    @property
    def synthetic(self) -> bool:
        """Whether it was trained on made-up data, as far as is known."""
        return self.origin is not None and self.origin.synthetic

    @property
    def without(self) -> tuple[str, ...]:
        """Which modalities are left out, as far as is known."""
        return self.origin.without if self.origin else ()

    @property
    def trainings(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.rows.values()))

    @property
    def diverged(self) -> int:
        """How many rows have no validation loss, those of pruned settings left out."""
        settings = self.rows.keys() - self.pruned
        return sum(int(np.isnan(self.losses(setting)).sum()) for setting in settings)

    def losses(self, setting: Setting) -> np.ndarray:
        """Returns the validation losses of a setting, in the order of its seeds: (n,)."""
        return self.values(setting, self.columns.valid_loss)

    def values(self, setting: Setting, column: str) -> np.ndarray:
        """Returns one score of a setting, in the order of its seeds: (n,).

        Raises:
            InputError: The data set has no such column.
        """
        columns = self.columns.scores()
        if column not in columns:
            raise InputError(
                f"train_{self.experiment.name}.py: expected the column {column!r} among its "
                "scores, since the report shows it, got none; name it there"
            )
        place = columns.index(column)
        return np.array([scores[place] for _, scores in sorted(self.rows[setting].items())])

    @cached_property
    def candidates(self) -> list[Setting]:
        """The settings that can be the best: no seed diverged or was pruned, none is to come.

        Seeds are to come where other settings have more of them.
        """
        whole = [setting for setting in self.rows if np.isfinite(self.losses(setting)).all()]
        most = max((len(self.rows[setting]) for setting in whole), default=0)
        return [setting for setting in whole if len(self.rows[setting]) == most]

    def ranking(self, valid_column: str = "") -> list[Setting]:
        """Returns the candidates, the best first, by the mean over seeds of a validation score.

        Without a column of one, lower being better, that is the validation loss.
        """
        column = valid_column or self.columns.valid_loss
        return sorted(self.candidates, key=lambda setting: self.values(setting, column).mean())


def read_runs(places: Iterable[Path], experiments: Experiments) -> tuple[list[Run], list[str]]:
    """Returns the runs in some CSV files or folders, each once, and why others are left out.

    Raises:
        InputError: A place does not exist.
    """
    paths: dict[str, Path] = {}
    for place in places:
        try:
            is_folder = place.stat() and place.is_dir()
        except OSError as error:
            raise InputError(
                f"{place}: expected a results_*.csv or a folder of them, got: {error.strerror}"
            ) from None
        found = sorted(place.glob("results_*.csv")) if is_folder else [place]
        paths.update((os.path.realpath(path), path) for path in found)
    runs, left_out = [], []
    for path in paths.values():
        try:
            runs.append(read_run(path, experiments))
        except InputError as error:
            left_out.append(str(error))
    return _distinct(runs), left_out


def _distinct(runs: Sequence[Run]) -> list[Run]:
    """Returns the runs, each with a name of its own.

    Those that share one have their folder's before it, and a number after it if that is shared too.
    """
    counts = Counter(run.name for run in runs)
    named: dict[str, Run] = {}
    for run in runs:
        shared = counts[run.name] > 1
        name = f"{run.path.resolve().parent.name[:20]}_{run.name}" if shared else run.name
        numbered = chain([name], (f"{name}_{number}" for number in count(2)))
        free = next(name for name in numbered if name not in named)
        named[free] = replace(run, name=free)
    return list(named.values())


def read_run(path: Path, experiments: Experiments) -> Run:
    """Returns a run's rows; a last line that was not finished is left out.

    Raises:
        InputError: The file, or the .json beside it, is none that a train script wrote.
    """
    name = path.stem.removeprefix("results_")
    if len(os.fsencode(name)) > LONGEST_NAME:
        raise InputError(f"{path}: expected a shorter name, of {LONGEST_NAME} bytes at most")
    first = first_line(path)
    origin = _read_origin(path.with_suffix(".json"), experiments)
    experiment = experiments[origin.data_set] if origin else _by_columns(first, experiments)
    header = read_header(path, experiment.columns)
    emotion = origin.emotion if origin else _emotion(path, experiment)
    table = read_table(path, header, experiment.columns)
    rows: dict[Setting, dict[int, tuple[float, ...]]] = {}
    for setting, seed, scores in table.rows():
        rows.setdefault(setting, {})[seed] = scores
    if not rows:
        raise InputError(f"{path}: expected rows, got none; train first")
    pruned = frozenset(setting for setting, *_ in table.where(table.pruned).rows())
    return Run(path, name, experiment, emotion, origin, rows, pruned)


def _read_origin(path: Path, experiments: Experiments) -> Origin | None:
    try:
        found = read_provenance(path)
    except MissingFile:
        return None
    name, emotion, fixed = found["data_set"], found["emotion"], found["fixed"]
    if name not in experiments:
        raise InputError(
            f"{path}: expected a run of {', '.join(experiments)}, got one of {name!r}; for a "
            "report, a data set takes a row in data/corpora.py (docs/contributing.md)"
        )
    without = value if isinstance(value := fixed.get("without", []), list) else [""]
    sha256 = value if isinstance(value := fixed.get("data sha256"), str) else ""
    epochs, patience = (
        value if type(value := fixed.get(key)) is int else 0 for key in ("epochs", "patience")
    )
    fits = {
        "emotion": emotion in (CORPORA[name].emotions or (None,)),
        "data_file": "\0" not in found["data_file"],
        "data sha256": sha256 != "",
        "epochs": 0 < epochs <= MOST_EPOCHS,
        "patience": 0 < patience <= MOST_EPOCHS,
        "without": all(one in MODALITIES for one in without) and len(without) < len(MODALITIES),
    }
    if odd := [field for field, fit in fits.items() if not fit]:
        raise InputError(
            f"{path}: expected what a train script writes beside its CSV, got another "
            f"{', '.join(odd)}, or none; remove the file if it is none of theirs"
        )
    data_file, synthetic = Path(found["data_file"]), fixed.get("synthetic") is True
    modalities = tuple(map(str, without))
    return Origin(name, emotion, data_file, sha256, epochs, patience, modalities, synthetic)


def _by_columns(header: Sequence[str], experiments: Experiments) -> Experiment:
    found = set(header)
    return max(experiments.values(), key=lambda one: len(found.intersection(one.columns.all())))


def _emotion(path: Path, experiment: Experiment) -> str | None:
    emotions = CORPORA[experiment.name].emotions
    emotion = next((word for word in path.stem.split("_") if word in emotions), None)
    if emotions and not emotion:
        raise InputError(
            f"{path}: expected the emotion, {', '.join(emotions)}, in the file's name or in the "
            f".json beside it, got neither; name the file results_{experiment.name}_EMOTION_1.csv"
        )
    return emotion


class History(NamedTuple):
    """How a run's best model was trained: losses of training and validation, (epochs, 2)."""

    losses: np.ndarray
    best_epoch: int


def read_history(run: Run, folder: Path) -> History:
    """Returns how the best model of a run, which has candidates, was trained.

    Raises:
        InputError: There is no such model, or it is not that of the run's best row.
    """
    path = RunFiles.of(run.path, folder).model
    loss, setting, seed = min(
        (scores[0], setting, seed)
        for setting, by_seed in run.rows.items()
        for seed, scores in by_seed.items()
        if np.isfinite(scores[0])
    )
    with open_regular(path) as file:
        try:
            checkpoint = read_checkpoint(file)
            history = _history(checkpoint["history"], checkpoint["best_epoch"])
            kept_loss = history.losses[history.best_epoch - 1, 1]
            is_of_row = (
                float(printed(kept_loss)) == float(printed(checkpoint["valid_loss"])) == loss
                and Setting(**checkpoint["setting"]) == setting
                and (type(checkpoint["seed"]), checkpoint["seed"]) == (int, seed)
            )
        except Exception as error:  # other files make torch.load raise anything
            raise InputError(
                f"{path}: expected a model that a train script wrote, got something else "
                f"({type(error).__name__})"
            ) from None
    if not is_of_row:
        raise InputError(
            f"{path}: expected the model of the best row ({run.columns.valid_loss} "
            f"{printed(loss)}, seed {seed}), got that of another; bring the right one back"
        )
    return history


def _history(losses: Sequence[tuple[float, float]], best_epoch: int) -> History:
    """Returns a model's history; raises ValueError or TypeError if it is none."""
    array = np.array(losses, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2 or not (np.abs(array) <= LARGEST).all():
        raise ValueError("history")
    if type(best_epoch) is not int or not 1 <= best_epoch <= len(array):
        raise ValueError("best epoch")
    return History(array, best_epoch)
