"""A setting in training, and what it comes to.

Shapes use: N examples.
"""

from __future__ import annotations

import time
from typing import NamedTuple

from torch import Tensor

from model import MODALITIES
from training.randomness import dropout_key, epoch_order
from training.result import EarlyStopping, Result, Scored, Task, finished
from training.setting import Setting


class Member(NamedTuple):
    """A setting in training."""

    setting: Setting
    seed: int
    stopping: EarlyStopping
    seconds: list[float]  # its share of each epoch's time

    def draws(self, examples: int) -> tuple[Tensor, list[int]]:
        """Returns the coming epoch's order (N,), and the keys of its masks by modality."""
        setting, seed, epoch = self.setting, self.seed, len(self.seconds) + 1
        keys = [dropout_key(setting, seed, modality, epoch) for modality in MODALITIES]
        return epoch_order(setting, seed, epoch, examples), keys


class Ended(NamedTuple):
    """A member at its end: its best weights, and what they give; None if it diverged."""

    member: Member
    scored: Scored | None
    state_dict: dict[str, Tensor] | None

    def result(self, task: Task) -> Result:
        """Computes the scores, which takes no GPU."""
        started = time.perf_counter()
        setting, seed, stopping, seconds = self.member
        scores = task.scores(self.scored) if self.scored else {}
        elapsed = sum(seconds) + time.perf_counter() - started
        return finished(setting, seed, stopping, scores, self.state_dict, elapsed)
