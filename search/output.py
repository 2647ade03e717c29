"""Where the scripts print: what a terminal, a pipe or a disk can't take ends no training."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from typing import TextIO


class OutputError(OSError):
    """What was printed could not be written."""


class _Stream:
    """A text stream that escapes what its encoding lacks, and may drop what can't be written."""

    def __init__(self, stream: TextIO | _Stream, drops: bool) -> None:
        self.stream = stream.stream if isinstance(stream, _Stream) else stream
        self.drops = drops
        self.lost: OutputError | None = None  # argparse passes over errors of printing

    def write(self, text: str) -> int:
        self._try(lambda: self._write(text))
        return len(text)

    def flush(self) -> None:
        self._try(self.stream.flush)

    def __getattr__(self, name: str) -> object:
        return getattr(self.stream, name)

    def _write(self, text: str) -> None:
        try:
            self.stream.write(text)
        except UnicodeEncodeError:
            encoding = self.stream.encoding
            self.stream.write(text.encode(encoding, "backslashreplace").decode(encoding))

    def _try(self, action: Callable[[], object]) -> None:
        try:
            action()
        except OSError as error:
            self.lost = self.lost or OutputError(*error.args)
        if self.lost and not self.drops:
            raise self.lost


@contextlib.contextmanager
def checked_output(drops: bool) -> Iterator[None]:
    """Has all that is printed within it written, or escaped, or dropped.

    Args:
        drops: Whether to drop what can't be written to the output; else it is an OutputError.
    """
    before = sys.stdout, sys.stderr
    with open(os.devnull, "w") as nowhere:  # in the place of streams that were closed
        output, errors = (stream if _is_open(stream) else nowhere for stream in before)
        sys.stdout, sys.stderr = _Stream(output, drops), _Stream(errors, drops=True)
        try:
            yield
        finally:
            sys.stdout, sys.stderr = before
            for stream in filter(_is_open, before):
                _empty(stream)


def _is_open(stream: TextIO | None) -> bool:
    return stream is not None and not stream.closed


def _empty(stream: TextIO) -> None:
    """Flushes a stream; what can't be written is forgotten, or else it would fail again later."""
    try:
        stream.flush()
    except OSError:
        with contextlib.suppress(OSError), open(os.devnull, "w") as nowhere:
            number = stream.fileno()
            kept = os.dup(number)
            os.dup2(nowhere.fileno(), number)
            stream.flush()
            os.dup2(kept, number)
            os.close(kept)


def open_standard_streams() -> None:
    """Puts the null device in place of standard streams that a script was started without.

    Else the next file that is opened would have their numbers, and get what is printed to them.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number: this one
