"""How a run's best model was trained, read back from model_*.pt."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from data.files import InputError, open_regular
from reporting.runs import LARGEST, Run
from search.columns import printed
from search.run_files import RunFiles
from training.setting import Setting


class History(NamedTuple):
    """How a run's best model was trained: losses of training and validation, (epochs, 2)."""

    losses: np.ndarray
    best_epoch: int


def read_history(run: Run, folder: Path) -> History:
    """Returns how a run's best model was trained.

    Args:
        run: Whose model.
        folder: Where the trained models lie.

    Raises:
        InputError: There is no such model, or it is not that of the run's best row.
    """
    path = RunFiles.of(run.path, folder).model
    with open_regular(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that look like none of torch's
        try:
            checkpoint = torch.load(file, map_location="cpu", weights_only=True)
            kept = checkpoint["valid_loss"], checkpoint["setting"], checkpoint["seed"]
            history = _history(checkpoint["history"], checkpoint["best_epoch"])
        except Exception as error:  # other files make torch.load raise anything
            raise InputError(
                f"{path}: expected a model that a train script wrote, got something else "
                f"({type(error).__name__})"
            ) from None
    best = run.best_row
    if not best:
        raise InputError(f"{path}: expected a row that it is of, got none with a validation loss")
    if not _is_of(kept, history.losses[history.best_epoch - 1, 1], best):
        raise InputError(
            f"{path}: expected the model of the best row ({run.columns.valid_loss} "
            f"{printed(best[0])}, seed {best[2]}), got that of another; bring the right one back"
        )
    return history


def _history(losses: list[tuple[float, float]], best_epoch: int) -> History:
    """Returns a model's history; raises ValueError or TypeError if it is none."""
    array = np.array(losses, dtype=float)
    if array.ndim != 2 or array.shape[1] != 2 or not (np.abs(array) <= LARGEST).all():
        raise ValueError("history")
    if type(best_epoch) is not int or not 1 <= best_epoch <= len(array):
        raise ValueError("best epoch")
    return History(array, best_epoch)


def _is_of(
    kept: tuple[object, object, object], valid_loss: float, row: tuple[float, Setting, int]
) -> bool:
    """Returns whether a model's loss, setting and seed, and the loss in its history, are a row's.

    Types count: a tensor, say, is compared to nothing.
    """
    loss, setting, seed = kept
    if not isinstance(loss, float) or not isinstance(setting, dict) or type(seed) is not int:
        return False
    if not all(type(value) in (int, float) for value in setting.values()):
        return False
    losses = {float(printed(loss)), float(printed(float(valid_loss)))}
    return losses == {row[0]} and (setting, seed) == (row[1]._asdict(), row[2])
