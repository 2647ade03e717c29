"""How many settings train together: as many as is fastest, and as a GPU's memory holds."""

from __future__ import annotations

import gc
import sys

import torch

from training.parameters import Parameters, Sizes
from training.result import Data

VALID_CHUNK = 64  # examples of the valid split that go through a GPU's members at once


def default_slots(size: Sizes, device_type: str) -> int:
    """Returns how many settings of a size train together fastest, memory permitting."""
    if device_type != "cpu":
        return 256
    return max(8, min(32, 8192 // (size.text * size.batch_size)))  # torch's share of a step falls


def members_that_fit(size: Sizes, data: Data, output_dim: int) -> int:
    """Returns how many members the free memory of the data's GPU holds, at least 1.

    On a CPU that is no question.
    """
    device = data.train.label.device
    if device.type != "cuda":
        return sys.maxsize
    gc.collect()
    torch.cuda.empty_cache()  # what nobody uses any more is free too
    free, _ = torch.cuda.mem_get_info(device)
    return max(1, free // bytes_per_member(size, data, output_dim))


def bytes_per_member(size: Sizes, data: Data, output_dim: int) -> int:
    """Returns how much of a GPU's memory a member is given.

    Of that it needs four fifths at most: its rows, a captured step and a chunk of the valid split.
    The rest is for what the allocator wastes, and for CUDA's libraries.
    """
    steps, features = data.train.text.shape[1:]
    floats = 8 * Parameters(size, data.input_dims, output_dim).width
    floats += steps * size.batch_size * (features + 18 * size.text)
    floats += steps * VALID_CHUNK * (features + 12 * size.text)
    return 4 * floats * 10 // 9
