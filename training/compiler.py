"""How the fast path for a CPU is compiled: by numba, which keeps the result on the disk."""

from __future__ import annotations

import contextlib
import functools
import hashlib
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from utils import InputError

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")

if TYPE_CHECKING or find_spec("numba"):
    from numba import njit
    from numba.core.caching import FunctionCache
else:  # a GPU's path does without: nothing is compiled, nor called
    FunctionCache = object

    def njit(**_: object) -> Callable[[object], object]:
        """Stands in numba's place."""
        return lambda function: function


def check_numba() -> None:
    """Checks that the fast path for a CPU can be compiled.

    Raises:
        InputError: It can't.
    """
    if not find_spec("numba"):
        raise InputError(
            "the fast path on a CPU needs numba, which is not installed: install requirements.txt, "
            "or give --stack 1, or --cuda"
        )


class Cache(FunctionCache):
    """What numba keeps on the disk; without it where it is damaged, or can't be read or written."""

    def __init__(self, function: Callable[..., object]) -> None:
        super().__init__(function)
        # numba looks at the function's own file, but what it calls is compiled into it, too.
        self._cache_file._source_stamp = _sources()

    @contextlib.contextmanager
    def _guard_against_spurious_io_errors(self) -> Iterator[None]:
        try:
            yield
        except Exception:  # a damaged file can make numba raise anything
            with contextlib.suppress(OSError):
                self.flush()  # to be written anew


@functools.cache
def _sources() -> str:
    """Returns a checksum of this package's source: where it is another, all is compiled anew."""
    files = sorted(Path(__file__).parent.glob("*.py"))
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def compiled(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
    """Has numba compile a function, and keep the result on the disk if it finds a place there.

    "contract" makes x * y + z one instruction. NaN and infinity stay what they are.
    """
    dispatcher = njit(nogil=True, error_model="numpy", fastmath={"contract"})(function)
    if dispatcher is function:  # without numba
        return function
    with contextlib.suppress(RuntimeError):  # no folder can be written to
        dispatcher._cache = Cache(function)  # pyright: ignore[reportAttributeAccessIssue]
    return dispatcher
