"""How the fast path for a CPU is compiled: by numba, which keeps the result on the disk."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Iterator
from typing import ParamSpec, TypeVar

from numba import njit
from numba.core.caching import FunctionCache

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


class Cache(FunctionCache):
    """What numba keeps on the disk; without it where it is damaged, or can't be read or written."""

    @contextlib.contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # a damaged file can make numba raise anything
            with contextlib.suppress(OSError):
                self.flush()  # to be written anew


def compiled(
    function: Callable[Parameters, Returned], fastmath: Collection[str] = ("contract",)
) -> Callable[Parameters, Returned]:
    """Has numba compile a function, and keep the result on the disk if it finds a place there.

    "contract" makes x * y + z one instruction. NaN and infinity stay what they are.
    """
    dispatcher = njit(nogil=True, error_model="numpy", fastmath=set(fastmath))(function)
    with contextlib.suppress(RuntimeError):  # no folder can be written to
        dispatcher._cache = Cache(function)  # pyright: ignore[reportAttributeAccessIssue]
    return dispatcher
