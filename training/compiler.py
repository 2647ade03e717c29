"""How the fast path for a CPU is compiled: by numba, which keeps the result on the disk."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import ParamSpec, TypeVar

from numba import njit

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


def compiled(
    function: Callable[Parameters, Returned], fastmath: Collection[str] = ("contract",)
) -> Callable[Parameters, Returned]:
    """Has numba compile a function, and keep the result on the disk if it finds a place there.

    "contract" makes x * y + z one instruction. NaN and infinity stay what they are.
    """
    options = {"nogil": True, "error_model": "numpy", "fastmath": set(fastmath)}
    try:
        return njit(cache=True, **options)(function)
    except RuntimeError:  # no folder can be written to
        return njit(**options)(function)
