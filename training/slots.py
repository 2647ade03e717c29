"""What the fast path keeps for each of the settings that train together.

Shapes use: K members, N examples, D features, P parameters.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import NamedTuple

import torch
from torch import Tensor

from model import MODALITIES
from training.parameters import Parameters
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

    def result(
        self, task: Task, scored: Scored | None, state_dict: dict[str, Tensor] | None
    ) -> Result:
        """Returns what it came to, by its best weights and what they give; None if it diverged.

        The scores are computed here, which takes no GPU.
        """
        started = time.perf_counter()
        scores = task.scores(scored) if scored else {}
        elapsed = sum(self.seconds) + time.perf_counter() - started
        return finished(self.setting, self.seed, self.stopping, scores, state_dict, elapsed)


@dataclass
class Slots:
    """Everything that belongs to a member, along dimension 0.

    Shape:
        weights, grads, first and second moments, best weights (K, P); running and best_running
        statistics of BatchNorm (K, D) each; dropouts and the keys of their masks (K, 3);
        factor_learning_rate, learning_rate, weight_decay, steps of Adam, loss (K,); order (K, N).
    """

    weights: Tensor
    grads: Tensor
    first: Tensor
    second: Tensor
    best: Tensor
    running: dict[str, Tensor]
    best_running: dict[str, Tensor]
    dropouts: Tensor
    keys: Tensor
    factor_learning_rate: Tensor
    learning_rate: Tensor
    weight_decay: Tensor
    steps: Tensor
    loss: Tensor
    order: Tensor

    @classmethod
    def empty(
        cls, count: int, parameters: Parameters, examples: int, device: torch.device
    ) -> Slots:
        """Returns slots that are all zero."""

        def zeros(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(count, *shape, dtype=dtype, device=device)

        def statistics() -> dict[str, Tensor]:
            return {name: zeros(size) for name, size in parameters.statistics.items()}

        rows = ("weights", "grads", "first", "second", "best")
        numbers = ("factor_learning_rate", "learning_rate", "weight_decay", "steps", "loss")
        return cls(
            **{name: zeros(parameters.width) for name in rows},
            **{name: zeros() for name in numbers},
            running=statistics(),
            best_running=statistics(),
            dropouts=zeros(len(MODALITIES)),
            keys=zeros(len(MODALITIES), dtype=torch.long),
            order=zeros(examples, dtype=torch.long),
        )

    def start(self, places: Tensor, rows: Tensor, settings: Sequence[Setting]) -> None:
        """Makes these slots (n,) those of settings that begin with weights (n, P).

        Raises:
            OverflowError: A setting has a number that float32 can't hold.
        """
        device = places.device
        for value in self.tensors():
            value[places] = 0
        self.weights[places] = rows.to(device)
        for name, statistic in self.running.items():
            statistic[places] = float(name.endswith("var"))
        for name in ("factor_learning_rate", "learning_rate", "weight_decay", "dropouts"):
            values = getattr(self, name)
            new = [getattr(setting, name) for setting in settings]
            numbers = torch.tensor(new, dtype=values.dtype)
            if not numbers.isfinite().all():
                raise OverflowError(f"{name}: overflow in {values.dtype}")
            values[places] = numbers.to(device)

    def keep_best(self, places: Tensor) -> None:
        """Keeps what these slots (n,) have now as their best."""
        self.best[places] = self.weights[places]
        for name, value in self.running.items():
            self.best_running[name][places] = value[places]

    def unpack_best_running(self, slot: int, state: Mapping[str, Tensor], batches: int) -> None:
        """Writes a slot's best statistics of BatchNorm, after so many batches, into LMF's state."""
        for name, value in self.best_running.items():
            state[name].copy_(value[slot, : len(state[name])])
            state[f"{name.rpartition('.')[0]}.num_batches_tracked"].fill_(batches)

    def head(self, count: int) -> Slots:
        """Returns the first slots: views of them."""
        parts = {}
        for field in fields(self):
            value = getattr(self, field.name)
            by_name = isinstance(value, dict)
            parts[field.name] = (
                {name: part[:count] for name, part in value.items()} if by_name else value[:count]
            )
        return Slots(**parts)

    def tensors(self) -> Iterator[Tensor]:
        """Yields all of them."""
        for field in fields(self):
            value = getattr(self, field.name)
            yield from value.values() if isinstance(value, dict) else [value]
