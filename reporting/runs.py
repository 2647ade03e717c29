"""What the train scripts wrote, read back: results_*.csv, the .json beside it, model_*.pt."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

import train_iemocap
import train_mosi
import train_pom
from search.columns import Columns
from search.experiment import Experiment
from search.records import Provenance
from search.table import first_line, read_header, read_table
from training.setting import Setting
from utils import EMOTIONS, InputError

EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (train_mosi.EXPERIMENT, train_pom.EXPERIMENT, train_iemocap.EXPERIMENT)
}


@dataclass(frozen=True)
class Run:
    """The rows of one results_*.csv. Settings are ranked by validation, never by test.

    Attributes:
        path: The CSV.
        name: What it is called in the report: the file's name without what all of them share.
        experiment: The data set's.
        emotion: IEMOCAP's.
        provenance: What the .json says; None if there is no such file.
        rows: By setting and seed, the scores in the order of `score_columns`.
    """

    path: Path
    name: str
    experiment: Experiment
    emotion: str | None
    provenance: Provenance | None
    rows: dict[Setting, dict[int, tuple[float, ...]]]

    @property
    def columns(self) -> Columns:
        """The data set's columns."""
        return self.experiment.columns

    @property
    def sha256(self) -> str | None:
        """The checksum of the data that it was trained on, if known."""
        return str(self.provenance["fixed"]["data sha256"]) if self.provenance else None

    @property
    def trainings(self) -> int:
        """How many rows there are."""
        return sum(map(len, self.rows.values()))

    @property
    def diverged(self) -> int:
        """How many rows have no validation loss."""
        losses = (self.values(setting, self.columns.valid_loss) for setting in self.rows)
        return sum(int(np.isnan(loss).sum()) for loss in losses)

    def values(self, setting: Setting, column: str) -> np.ndarray:
        """Returns one score of a setting, in the order of its seeds: (n,)."""
        place = score_columns(self.columns).index(column)
        seeds = self.rows[setting]
        return np.array([seeds[seed][place] for seed in sorted(seeds)])

    @cached_property
    def candidates(self) -> list[Setting]:
        """The settings that can be the best: none of their seeds diverged, none is to come.

        Seeds are to come where other settings have more of them.
        """
        losses = {setting: self.values(setting, self.columns.valid_loss) for setting in self.rows}
        whole = [setting for setting, loss in losses.items() if np.isfinite(loss).all()]
        most = max((len(losses[setting]) for setting in whole), default=0)
        return [setting for setting in whole if len(losses[setting]) == most]

    def ranking(self, valid_column: str = "") -> list[Setting]:
        """Returns the candidates, the best first, by the mean over seeds of a validation score.

        Args:
            valid_column: By which score, lower being better; the validation loss if empty.
        """
        column = valid_column or self.columns.valid_loss
        return sorted(self.candidates, key=lambda setting: self.values(setting, column).mean())


def score_columns(columns: Columns) -> list[str]:
    """Returns the columns that hold scores, the validation loss first."""
    return [columns.valid_loss, *columns.release, *columns.own]


def find_results(places: Iterable[Path]) -> Iterator[Path]:
    """Yields the CSV files that are named, and those in the folders that are named.

    Raises:
        InputError: A place does not exist.
    """
    for place in places:
        if place.is_dir():
            yield from sorted(place.glob("results_*.csv"))
        elif place.exists():
            yield place
        else:
            raise InputError(f"{place}: expected a results_*.csv or a folder of them, got nothing")


def read_run(path: Path) -> Run:
    """Returns a run's rows; a last line that was not finished is left out.

    Raises:
        InputError: The file, or the .json beside it, is none that a train script wrote.
    """
    provenance = _read_provenance(path.with_suffix(".json"))
    experiment = _experiment(path, provenance)
    header = read_header(path, experiment.columns)
    emotion = provenance["emotion"] if provenance else _emotion(path, experiment)
    rows: dict[Setting, dict[int, tuple[float, ...]]] = {}
    table = read_table(path, header, score_columns(experiment.columns))
    for setting, seed, scores in table.rows():
        rows.setdefault(setting, {})[seed] = scores
    return Run(path, _name(path), experiment, emotion, provenance, rows)


def _name(path: Path) -> str:
    return path.stem.removeprefix("results_")


def _read_provenance(path: Path) -> Provenance | None:
    try:
        provenance = json.loads(path.read_text(encoding="utf-8"))
        if provenance["data_set"] in EXPERIMENTS and provenance["fixed"]["data sha256"]:
            return Provenance(**provenance)
        raise ValueError(f"data_set {provenance['data_set']!r}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: expected what a train script writes beside its CSV, got something else "
            f"({type(error).__name__}: {error}); remove the file if it is none of theirs"
        ) from None


def _experiment(path: Path, provenance: Provenance | None) -> Experiment:
    if provenance:
        return EXPERIMENTS[provenance["data_set"]]
    found = set(first_line(path))
    return max(EXPERIMENTS.values(), key=lambda one: len(found.intersection(one.columns.all())))


def _emotion(path: Path, experiment: Experiment) -> str | None:
    if experiment is not train_iemocap.EXPERIMENT:
        return None
    emotion = next((word for word in path.stem.split("_") if word in EMOTIONS), None)
    if emotion is None:
        raise InputError(
            f"{path}: expected the emotion, {', '.join(EMOTIONS)}, in the file's name or in the "
            ".json beside it, got neither; name the file results_iemocap_EMOTION_1.csv"
        )
    return emotion


def read_history(run: Run, folder: Path) -> tuple[np.ndarray, int] | str:
    """Returns the losses and the best epoch of a run's best model, or why there are none.

    Args:
        run: Whose model.
        folder: Where the trained models lie.

    Shape:
        The losses, of training and validation, are (epochs, 2).
    """
    path = folder / f"model_{_name(run.path)}.pt"
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        setting = Setting(**checkpoint["setting"])
        history = np.array(checkpoint["history"], dtype=float).reshape(-1, 2)
        seed, best_epoch = checkpoint["seed"], checkpoint["best_epoch"]
    except FileNotFoundError:
        return f"{path} is not there"
    except (pickle.UnpicklingError, EOFError, KeyError, TypeError, ValueError, RuntimeError):
        return f"{path} is no model that a train script wrote"
    if seed not in run.rows.get(setting, ()):
        return f"{path} belongs to another run"
    return history, best_epoch
