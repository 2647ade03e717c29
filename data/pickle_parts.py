"""Reads the parts of a pickle and makes its arrays, each part checked."""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from typing import BinaryIO

import numpy as np

LONGEST_NUMBER = 100  # characters
LARGE = 2**16  # bytes
_BLOCK = 2**20  # bytes that are read at once
_CODE = re.compile(r"([biufcSUO])([0-9]{0,9})")


class PickleError(ValueError):
    """The file is no whole pickle, or holds more than numpy arrays and plain containers."""


class UnsafePickle(PickleError):
    """The file names something that could run code."""


class Reader:
    """Takes bytes, numbers and lines from where it stands in a file."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at, self.loaded = file, 0, 0
        self.size = os.fstat(file.fileno()).st_size
        # memory of its own: where a mapped file is cut meanwhile, the process would crash
        self.data = mmap.mmap(-1, self.size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)

    def load(self, end: int) -> None:
        """Reads the file on, up to there or somewhat farther."""
        if end <= self.loaded:
            return
        end = min(max(end, self.loaded + _BLOCK), self.size)
        self.file.seek(self.loaded)
        with memoryview(self.data)[self.loaded : end] as part:
            if self.file.readinto(part) != len(part):  # pyright: ignore[reportAttributeAccessIssue]
                raise PickleError("it ends too early")
        self.loaded = end

    def take(self, size: int) -> bytes:
        """Returns the next bytes."""
        if size < 0 or size > self.size - self.at:
            raise PickleError(f"it ends too early, or byte {self.at:,} claims a wrong size")
        start, self.at = self.at, self.at + size
        if size < LARGE:
            self.load(self.at)
            return self.data[start : self.at]
        self.file.seek(start)  # reading what is large beats copying it again
        contents = self.file.read(size)
        if len(contents) != size:
            raise PickleError("it ends too early")
        self.loaded = max(self.loaded, self.at)
        return contents

    def sized(self, form: str) -> bytes:
        """Returns the next bytes, after their number in a form of struct's."""
        return self.take(self.number(form))

    def number(self, form: str) -> int:
        """Returns the next number, in a form of struct's."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self, longest: int | None = None) -> memoryview:
        """Returns the next line without its end."""
        limit = self.size if longest is None else min(self.size, self.at + longest)
        searched = self.at
        while (end := self.data.find(b"\n", searched, min(self.loaded, limit))) < 0:
            if self.loaded >= limit:
                raise PickleError(f"it ends too early, or the line at byte {self.at:,} is too long")
            searched = max(searched, self.loaded)
            self.load(self.loaded + 1)
        start, self.at = self.at, end + 1
        return memoryview(self.data)[start:end]

    def digits(self) -> bytes:
        """Returns the next line, of a number."""
        return bytes(self.line(LONGEST_NUMBER))


class Dtype:
    """A dtype of numbers, texts or objects; its state sets the byte order."""

    def __init__(self, code: object, *_: object) -> None:
        text = text_of(code)
        match = _CODE.fullmatch(text)
        if match is None:
            raise PickleError(f"it holds an array of dtype {text[:20]!r}, not of numbers or text")
        self.kind = match[1]
        self.dtype = np.dtype(object if self.kind == "O" else text)

    def build(self, state: object) -> Dtype:
        """Takes the byte order and size from a state."""
        if not isinstance(state, tuple) or len(state) < 8:
            raise PickleError("a dtype's state is damaged")
        order, size = text_of(state[1]), state[5]
        if order not in ("<", ">", "|", "="):
            raise PickleError("a dtype's byte order is damaged")
        if self.kind in "SU" and size != self.dtype.itemsize:
            width = _size(size) // (4 if self.kind == "U" else 1)
            self.dtype = np.dtype(f"{self.kind}{width}")
        if order in "<>" and self.kind != "O":
            self.dtype = self.dtype.newbyteorder(order)
        return self


class PendingArray:
    """An array that has no contents yet; afterwards, the array by which to replace it."""

    array: np.ndarray | None = None


def array_of(contents: object, dtype: object, shape: object, order: object) -> np.ndarray:
    """Returns an array of the parts that a pickle gives for one; an order is "C" or "F"."""
    if not isinstance(dtype, Dtype) or not isinstance(shape, tuple):
        raise PickleError("an array's state is damaged")
    count = math.prod(map(_size, shape))
    if dtype.kind == "O":
        if not isinstance(contents, list) or len(contents) != count:
            raise PickleError("an array's contents don't fit its shape")
        array = np.empty(count, dtype=object)
        for index, item in enumerate(contents):
            array[index] = item
    else:
        if not isinstance(contents, bytes) or len(contents) != count * dtype.dtype.itemsize:
            raise PickleError("an array's contents don't fit its shape")
        array = np.frombuffer(contents, dtype.dtype) if contents else np.empty(0, dtype.dtype)
    return array.reshape(shape, order="F" if text_of(order) == "F" else "C")


def text_of(value: object) -> str:
    """Returns a text that may stand in a pickle as ASCII bytes."""
    if isinstance(value, bytes):
        return value.decode("ascii")
    if not isinstance(value, str):
        raise PickleError(f"it has a {type(value).__name__} in the place of a text")
    return value


def _size(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**48:
        raise PickleError("an array's size is damaged")
    return value
