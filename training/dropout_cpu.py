"""Dropout masks of the fast path on a CPU: those of `keep_mask`, compiled.

Shapes use: K members, B batch, D features.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.compiler import compiled, njit
from training.randomness import mix

_mix = njit(inline="always")(mix)


def masks_on_cpu(keys: Tensor, rows: Tensor, width: int, p: Tensor) -> Tensor:
    """Returns what dropout multiplies units with: 0, or 1 / (1 - p).

    Shape:
        keys (K,) and rows (K, B), int64; p (K,). Returns (K, B, width).
    """
    masks = np.empty((*rows.shape, width), np.float32)
    _draw(keys.numpy().view(np.uint64), rows.numpy().view(np.uint64), p.numpy(), masks)
    return torch.from_numpy(masks)


@compiled
def _draw(keys: np.ndarray, rows: np.ndarray, p: np.ndarray, masks: np.ndarray) -> None:
    odd = np.uint64(0x9E3779B97F4A7C15)
    for k in range(masks.shape[0]):
        threshold = np.uint64(np.ceil(p[k] * np.float32(2**24)))
        kept, dropped = np.float32(1) / (np.float32(1) - p[k]), np.float32(0)
        for b in range(masks.shape[1]):
            row, mask = rows[k, b] << np.uint64(20), masks[k, b]
            for column in range(len(mask)):
                x = _mix((row + np.uint64(column)) * odd + keys[k])
                mask[column] = kept if (x & np.uint64(0xFFFFFF)) >= threshold else dropped
