"""What training needs and what comes of it: data, task, limits, early stopping, result.

Shapes use: B batch, O outputs, L columns of the label.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from training.setting import Setting
from utils import Split


class Data(NamedTuple):
    """The three splits, each whole, on one device: no DataLoader stands between."""

    train: Split
    valid: Split
    test: Split

    @property
    def input_dims(self) -> tuple[int, int, int]:
        """Features of (audio, video, text); 0 where a modality is left out."""
        audio, visual, text, _ = self.train[:]
        return audio.shape[1], visual.shape[1], text.shape[2]

    def to(self, device: torch.device | str) -> Data:
        """Returns the same splits on a device."""
        return Data(*(split.to(device) for split in self))


class Scored(NamedTuple):
    """What scores are computed from: the best-validation weights' losses and outputs (B, O)."""

    valid_loss: float
    test_loss: float
    valid_output: np.ndarray
    valid_label: np.ndarray
    test_output: np.ndarray
    test_label: np.ndarray


class Task(NamedTuple):
    """What the training of one data set needs beside the data.

    Attributes:
        output_dim: Outputs of the model.
        loss: Losses (..., B) of the examples from outputs (..., B, O) and labels (..., B, L).
        loss_divisor: What reported losses are divided by, beside the number of examples.
        scores: The scores of the best-validation weights, by CSV column.
    """

    output_dim: int
    loss: Callable[[Tensor, Tensor], Tensor]
    loss_divisor: int
    scores: Callable[[Scored], dict[str, float]]


class Limits(NamedTuple):
    """When training stops: after `epochs`, or `patience` epochs without a better validation.

    Or, pruned, after an epoch of `stops` with a best validation loss so far above its bound.
    """

    epochs: int
    patience: int
    stops: tuple[tuple[int, float], ...] = ()  # epochs, from 1, and their bounds


class Result(NamedTuple):
    """What came of one (setting, seed).

    Attributes:
        status: "ok"; "diverged" if a loss was NaN or infinite; "pruned" if it was above a bound;
            "failed" if it could not be trained.
        valid_loss: The best validation loss; NaN unless ok or pruned.
        best_epoch: The epoch (from 1) of that loss; 0 unless ok or pruned.
        epochs: How many epochs were trained.
        seconds: How long that took; settings that train together share the time.
        scores: By CSV column; empty unless ok.
        history: Each epoch's training and validation loss.
        state_dict: The best-validation weights, on the CPU; None unless ok.
        reason: Why it failed.
    """

    setting: Setting
    seed: int
    status: str
    valid_loss: float
    best_epoch: int
    epochs: int
    seconds: float
    scores: dict[str, float]
    history: list[tuple[float, float]]
    state_dict: dict[str, Tensor] | None
    reason: str = ""


class EarlyStopping:
    """One setting's losses so far: which was best, and whether to go on.

    Source:
        As in the release: a new best validation loss restores full patience, an epoch without
        one costs 1.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.history: list[tuple[float, float]] = []
        self.best_loss = math.inf
        self.best_epoch = 0
        self.status = "ok"  # or diverged, or pruned

    def update(self, train_loss: float, valid_loss: float) -> bool:
        """Takes in an epoch's losses and returns whether the validation loss is a new best."""
        self.history.append((train_loss, valid_loss))
        if not (math.isfinite(train_loss) and math.isfinite(valid_loss)):
            self.status = "diverged"
            return False
        improved = valid_loss < self.best_loss
        epoch = len(self.history)
        if improved:
            self.best_loss, self.best_epoch = valid_loss, epoch
        if not self.done and self.best_loss > dict(self.limits.stops).get(epoch, math.inf):
            self.status = "pruned"
        return improved

    @property
    def done(self) -> bool:
        """Whether the setting has come to its end."""
        epochs = len(self.history)
        waited = epochs - self.best_epoch
        limits = self.limits
        return self.status != "ok" or epochs >= limits.epochs or waited >= limits.patience


def finished(
    setting: Setting,
    seed: int,
    stopping: EarlyStopping,
    scores: dict[str, float],
    state_dict: dict[str, Tensor] | None,
    seconds: float,
) -> Result:
    """Returns a setting's result once its training is over."""
    diverged = stopping.status == "diverged"
    return Result(
        setting,
        seed,
        status=stopping.status,
        valid_loss=math.nan if diverged else stopping.best_loss,
        best_epoch=0 if diverged else stopping.best_epoch,
        epochs=len(stopping.history),
        seconds=seconds,
        scores=scores,
        history=stopping.history,
        state_dict=state_dict and {name: value.cpu() for name, value in state_dict.items()},
    )


def failed(setting: Setting, seed: int, reason: str) -> Result:
    """Returns the result of a setting that could not be trained."""
    return Result(setting, seed, "failed", math.nan, 0, 0, 0.0, {}, [], None, reason)
