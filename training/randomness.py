"""The random streams of a (setting, seed): initial weights, orders of epochs, dropout masks.

Everything random follows from the two alone, so that a result depends on nothing that trains beside
it or before it, nor on the device.

Shapes use: B batch.
"""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import Tensor, nn

from model import LMF
from training.setting import Setting


def stream(setting: Setting, seed: int, purpose: str, epoch: int = 0) -> int:
    """Returns the key, in [0, 2**63), of a random stream that belongs to this use alone."""
    name = " ".join([*setting.texts(), str(seed), purpose, str(epoch)])
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1


def epoch_order(setting: Setting, seed: int, epoch: int, examples: int) -> Tensor:
    """Returns the order (examples,) in which an epoch, counted from 1, takes the train split."""
    generator = torch.Generator().manual_seed(stream(setting, seed, "order", epoch))
    return torch.randperm(examples, generator=generator)


def dropout_key(setting: Setting, seed: int, modality: str, epoch: int) -> int:
    """Returns the key of a modality's dropout masks in an epoch, counted from 1."""
    return stream(setting, seed, f"{modality} dropout", epoch)


def batches(order: Tensor, batch_size: int) -> list[Tensor]:
    """Returns the order cut into batches; a last one of a single example is left out.

    BatchNorm can't train on one example: the release crashed there.
    """
    return [batch for batch in order.split(batch_size) if len(batch) > 1]


def mix(x: np.ndarray) -> np.ndarray:
    """Returns 64 random-looking bits for each number, uint64; for numpy and, compiled, for numba.

    Source:
        SplitMix64: Steele, Lea, Flood, "Fast splittable pseudorandom number generators", OOPSLA
        2014.
    """
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def keep_mask(keys: Tensor, rows: Tensor, width: int, p: Tensor | float) -> Tensor:
    """Returns which units dropout keeps: the same on every device, whatever else is drawn.

    A unit's random bits are a hash of its key, row and column, so that any part of an epoch's
    mask, for any number of settings at once, can be had without the rest.

    Shape:
        keys (...) and rows (..., B), int64; p broadcasts. Returns (..., B, width), bool.

    The hash is `mix` of multiples of an odd number: SplitMix64, in torch's signed integers.
    """
    columns = torch.arange(width, device=keys.device)
    x = (rows[..., None] << 20) + columns
    x = x * -0x61C8864680B583EB + keys[..., None, None]  # wraps around, as it should
    x = (x ^ (x >> 30 & 0x3FFFFFFFF)) * -0x40A7B892E31B1A47
    x = (x ^ (x >> 27 & 0x1FFFFFFFFF)) * -0x6B2FB644ECCEEE15
    x = x ^ (x >> 31 & 0x1FFFFFFFF)
    return (x & 0xFFFFFF) >= p * 2**24


class SeededDropout(nn.Module):
    """Dropout whose masks are those of a key, in the order in which rows pass through an epoch."""

    def __init__(self, p: float) -> None:
        super().__init__()
        self.p = p

    def start_epoch(self, key: int) -> None:
        """Sets the key of the epoch that begins."""
        self.key, self.row = torch.tensor(key), 0

    def forward(self, x: Tensor) -> Tensor:
        """Returns x (B, D), in training mode with units dropped and the rest scaled up."""
        if not self.training or self.p == 0:
            return x
        rows = torch.arange(self.row, self.row + len(x), device=x.device)
        keep = keep_mask(self.key.to(x.device), rows, x.shape[1], self.p)
        self.row += len(x)
        return x * (keep * (1 / (1 - self.p)))


def replace_dropouts(model: LMF) -> dict[str, SeededDropout]:
    """Puts seeded dropouts in place of the model's and returns them by modality."""
    subnets = {modality: getattr(model, f"{modality}_subnet") for modality in model.modalities}
    for subnet in subnets.values():
        subnet.drop = SeededDropout(subnet.drop.p)
    return {modality: subnet.drop for modality, subnet in subnets.items()}


def start_epoch(
    dropouts: dict[str, SeededDropout], setting: Setting, seed: int, epoch: int
) -> None:
    """Gives each modality's dropout its masks of an epoch, counted from 1."""
    for modality, dropout in dropouts.items():
        dropout.start_epoch(dropout_key(setting, seed, modality, epoch))
