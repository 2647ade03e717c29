"""Opens torch's files without being hung, filled or made to run code by one."""

from __future__ import annotations

import os
import warnings
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import torch
from torch import Tensor


def read_checkpoint(file: BinaryIO, device: str | torch.device = "cpu") -> dict:
    """Returns what an open model_*.pt file holds. It makes no more than its size, and runs nothing.

    Raises:
        ValueError: It claims to hold more. Files that are no checkpoint raise anything.
    """
    size = os.fstat(file.fileno()).st_size
    if not size:
        raise ValueError("it is empty, a pipe or a device")
    with zipfile.ZipFile(file) as archive:
        if sum(entry.file_size for entry in archive.infolist()) > size:
            raise ValueError("it is compressed, which torch's files are not")
    file.seek(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of files that look like none of torch's
        return torch.load(file, map_location=device, weights_only=True)


def check_whole(state: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless each tensor holds all of its values: shapes can claim far more."""
    for name, value in state.items():
        size = value.numel() * value.element_size()
        if value.is_sparse or value.is_meta or value.untyped_storage().nbytes() < size:
            raise ValueError(f"{name} has fewer values than its shape says")


def without_waiting(path: str, flags: int) -> int:
    """Opens a file for `open`, and a pipe at once, which has nothing to be read then."""
    return os.open(path, flags | os.O_NONBLOCK)


def check_alike(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> None:
    """Raises ValueError unless two state_dicts have the same names, shapes and dtypes."""
    ours, theirs = (
        {name: (value.shape, value.dtype) for name, value in one.items()}
        for one in (expected, state)
    )
    if ours != theirs:
        raise ValueError("its weights are not of the sizes that it names")
