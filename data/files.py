"""Opens, replaces and names files without being hung, tricked or left with half of one.

The lowest module of the project: it imports nothing of it.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import hashlib
import io
import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

_UNPRINTABLE = re.compile(
    "[\0-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]"
)  # controls, line and paragraph ends, changes of direction, lone surrogates


class InputError(ValueError):
    """Bad input: what was expected, what came, and what to do, in one line."""


class MissingFile(InputError):
    """There is no file of that name."""


def printable(text: str) -> str:
    r"""Returns a text with what could steer a terminal escaped: an escape character as \x1b.

    Line ends are escaped, too: lines are to be joined after this.
    """
    return _UNPRINTABLE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def open_regular(path: Path, missing: str = "no such file") -> BinaryIO:
    """Returns an existing regular file, or what a link to one leads to, open for reading.

    Raises:
        MissingFile: There is no such file; the error says `missing`.
        InputError: It is a folder, a pipe or a device, or can't be read. Nothing is waited for.
    """
    try:
        _require_regular(path, os.stat(path))  # first: even to open a device can have effects
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            _require_regular(path, os.fstat(descriptor))
            return open(descriptor, "rb")
        except BaseException:
            os.close(descriptor)
            raise
    except FileNotFoundError:
        raise MissingFile(f"{path}: {missing}") from None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
    except UnicodeEncodeError:
        raise InputError(f"{path}: expected a file name that this system can encode") from None


def _require_regular(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        kind = "folder" if stat.S_ISDIR(found.st_mode) else "pipe, a socket or a device"
        raise InputError(f"{path}: expected a file, got a {kind}")


@contextlib.contextmanager
def opened_unchanged(path: Path, missing: str = "no such file") -> Iterator[BinaryIO]:
    """Opens a file as `open_regular` does, for as long as it stays as it is.

    Raises:
        InputError: It was written to or replaced before the end, whatever that led to.
    """
    with open_regular(path, missing) as file:
        before = os.fstat(file.fileno())
        try:
            yield file
        finally:
            if not _is_unchanged(path, before, os.fstat(file.fileno())):
                raise InputError(f"{path}: changed while it was read; run the command again")


def _is_unchanged(path: Path, before: os.stat_result, after: os.stat_result) -> bool:
    times = before.st_mtime_ns == after.st_mtime_ns and before.st_ctime_ns == after.st_ctime_ns
    with contextlib.suppress(OSError):
        in_place = os.path.samestat(before, os.stat(path))
        return in_place and times and before.st_size == after.st_size
    return False


def checksum(file: BinaryIO) -> str:
    """Returns the SHA-256 of an open file, in hexadecimal."""
    digest = hashlib.sha256()
    file.seek(0)
    while block := file.read(2**20):
        digest.update(block)
    return digest.hexdigest()


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces a file by what `write` puts at the path it is given, wholly or not at all.

    That path is an empty file made for it. A file or link that had its name is removed, and never
    written through.

    Raises:
        InputError: It can't be written.
    """
    part = part_of(path)
    try:
        remove(part)
        descriptor = os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o666)
        try:
            write(part)
            if not os.path.samestat(os.fstat(descriptor), os.lstat(part)):
                raise InputError(f"{path}: another process is writing it; let only one do so")
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        part.replace(path)
        sync_folder(path.parent)
    except FileExistsError:
        raise InputError(f"{part}: is in the way of {path.name}; move it away") from None
    except OSError as error:
        raise InputError(
            f"{path}: can't be written: {error.strerror or error}; free space there, or name "
            "another folder"
        ) from None
    finally:
        remove(part)


def write_csv(path: Path, rows: Iterable[Iterable[object]]) -> None:
    """Writes a table, its header first, as `write_atomically` does."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, lambda part: part.write_text(text.getvalue(), encoding="utf-8"))


def part_of(path: Path) -> Path:
    """Returns where `write_atomically` makes a file before it replaces the one at a path."""
    return path.with_name(path.name + ".part")


def remove(path: Path) -> None:
    """Removes a file or link, if it is there and its folder allows that."""
    with contextlib.suppress(OSError):  # missing, or in a folder that has become read-only
        path.unlink()


def sync_folder(folder: Path) -> None:
    """Makes sure that names in a folder outlast a power cut, as the files' content does."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # from some network file systems, which need no fsync here
            raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Makes a folder if it is missing.

    Raises:
        InputError: It can't be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder to write to, got: {error.strerror}"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: expected a folder to write to, but it is not writable")
