"""Reads pickles of numpy arrays and plain containers, without importing or running anything.

A pickle is a program for a small stack machine, and Python's own machine can be told to call
anything, or to fill the memory. This one knows the instructions that data need and no others. It
looks no name up: arrays, dtypes and scalars are built here from checked parts. What it makes is
bounded by the file's size, and its steps are counted, so that every file ends within seconds.

Byte strings stay bytes, Python 2's among them. The file is mapped, not read: a long text goes from
the map into its array's bytes without a copy of its line, which is as fast as Python's machine.
"""

from __future__ import annotations

import codecs
import math
import mmap
import os
import pickle
import re
import struct
import warnings
from collections.abc import Callable
from itertools import islice
from typing import BinaryIO, NamedTuple

import numpy as np

MOST_STEPS = 3_000_000  # the largest data sets around, with lists of names, need 500,000
LONGEST_NUMBER = 100  # characters
LARGE = 2**16  # bytes
_DTYPE = re.compile(r"([biufcSUO])([0-9]{0,9})")


class PickleError(ValueError):
    """The file is no whole pickle, or holds more than numpy arrays and plain containers."""


class UnsafePickle(PickleError):
    """The file names something that could run code."""


def load_pickle(file: BinaryIO) -> object:
    """Returns what a pickle holds: dict, list, tuple, str, bytes, numbers, None, numpy arrays.

    Args:
        file: A file of the disk, open for reading.

    Raises:
        UnsafePickle: It names anything else.
        PickleError: The file is no whole pickle.
        OSError: The file can't be read.
    """
    if os.fstat(file.fileno()).st_size == 0:
        raise PickleError("it is empty")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # an unknown escape in a string is damage
        try:
            return _Machine(file).run()
        except (PickleError, MemoryError):
            raise
        except Exception as error:  # a damaged pickle can misuse the machine in any way
            raise PickleError(f"{type(error).__name__}: {error}") from None


class _Global(NamedTuple):
    module: str
    name: str


class _Dtype:
    """A dtype of numbers, texts or objects; its state sets the byte order."""

    def __init__(self, code: object, *_: object) -> None:
        text = _text(code)
        match = _DTYPE.fullmatch(text)
        if match is None:
            raise PickleError(f"it holds an array of dtype {text[:20]!r}, not of numbers or text")
        self.kind = match[1]
        self.dtype = np.dtype(object if self.kind == "O" else text)

    def build(self, state: object) -> _Dtype:
        if not isinstance(state, tuple) or len(state) < 8:
            raise PickleError("a dtype's state is damaged")
        order, size = _text(state[1]), state[5]
        if order not in ("<", ">", "|", "="):
            raise PickleError("a dtype's byte order is damaged")
        if self.kind in "SU" and size != self.dtype.itemsize:
            width = _size(size) // (4 if self.kind == "U" else 1)
            self.dtype = np.dtype(f"{self.kind}{width}")
        if order in "<>" and self.kind != "O":
            self.dtype = self.dtype.newbyteorder(order)
        return self


class _Array:
    """An array that has no contents yet; afterwards, the array by which to replace it."""

    array: np.ndarray | None = None


class _Machine:
    """The stack machine. `left` is how many more bytes it may copy out of what it has read."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.at = file, 0
        self.data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        self.stack: list[object] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, object] = {}
        self.left = max(len(self.data), 2**20)

    def run(self) -> object:
        for _ in range(MOST_STEPS):
            if self.at >= len(self.data):
                raise PickleError("it ends too early")
            code = self.data[self.at]
            self.at += 1
            if code == pickle.STOP[0]:
                return self.stack.pop()
            step = _BY_BYTE[code]
            if step is None:
                raise PickleError(f"byte {self.at - 1:,} is no instruction that data need")
            step(self)
        raise PickleError(f"it takes more than {MOST_STEPS:,} steps")

    # Reading.

    def take(self, size: int) -> bytes:
        if size < 0 or size > len(self.data) - self.at:
            raise PickleError(f"it ends too early, or byte {self.at:,} claims a wrong size")
        start, self.at = self.at, self.at + size
        if size < LARGE:
            return self.data[start : self.at]
        self.file.seek(start)  # reading what is large beats copying it out of the map
        contents = self.file.read(size)
        if len(contents) != size:
            raise PickleError("it ends too early")
        return contents

    def sized(self, form: str) -> bytes:
        """The next bytes, after their number in a form of struct's."""
        return self.take(self.number(form))

    def number(self, form: str) -> int:
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self, longest: int | None = None) -> memoryview:
        limit = len(self.data) if longest is None else self.at + longest
        end = self.data.find(b"\n", self.at, limit)
        if end < 0:
            raise PickleError(f"it ends too early, or the line at byte {self.at:,} is too long")
        start, self.at = self.at, end + 1
        return memoryview(self.data)[start:end]

    def digits(self) -> bytes:
        return bytes(self.line(LONGEST_NUMBER))

    def push(self, value: object) -> None:
        self.stack.append(value)

    def last(self, count: int) -> list[object]:
        if count > len(self.stack):
            raise PickleError("its stack is empty too early")
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def since_mark(self) -> list[object]:
        height = self.marks.pop()
        items = self.stack[height:]
        if len(items) != len(self.stack) - height:
            raise PickleError("its marks and items are out of order")
        del self.stack[height:]
        return items

    def charge(self, size: int) -> None:
        """Counts bytes that are made again from what was read, which a file could repeat."""
        self.left -= size
        if self.left < 0:
            raise PickleError("it would take far more memory than its size")

    # Instructions.

    def push_int(self) -> None:
        text = self.digits()
        self.push({b"00": False, b"01": True}.get(text, int(text)))

    def push_string(self) -> None:
        line = self.line()
        if len(line) < 2 or line[0] != line[-1] or line[0] not in b"'\"":
            raise PickleError("a string has no quotes")
        self.push(codecs.escape_decode(line[1:-1])[0])
        if len(line) > LARGE and hasattr(mmap, "MADV_DONTNEED"):
            done = self.at - self.at % mmap.PAGESIZE
            self.data.madvise(mmap.MADV_DONTNEED, 0, done)  # these pages aren't needed again

    def push_global(self) -> None:
        self.name_global(_text(bytes(self.line(1000))), _text(bytes(self.line(1000))))

    def push_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name_global(_text(module), _text(name))

    def name_global(self, module: str, name: str) -> None:
        found = _Global(module.replace("numpy._core", "numpy.core"), name)  # NumPy 2 moved it
        if found not in _CALLS and found != _NDARRAY:
            raise UnsafePickle(
                f"it names {module}.{name}, but only numpy arrays and plain containers are read, "
                "since anything else could run code"
            )
        self.stack.append(found)

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, _Global) or not isinstance(arguments, tuple):
            raise PickleError("it calls what is no function")
        if function not in _CALLS:
            raise PickleError(f"it calls {function.module}.{function.name}")
        self.stack.append(_CALLS[function](self, *arguments))

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack.pop()
        if isinstance(target, _Array) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, contents = state
            target.array = self.make_array(contents, dtype, shape, "F" if fortran else "C")
            self.stack.append(target.array)
        elif isinstance(target, _Dtype):
            self.stack.append(target.build(state))
        else:
            raise PickleError("it sets the state of what is neither an array nor a dtype")

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        value = self.memo[key]
        if isinstance(value, _Array) and value.array is not None:
            value = value.array
        self.stack.append(value)

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise PickleError("it appends to what is no list")
        target.extend(items)

    def fill(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, dict):
            raise PickleError("it sets an item of what is no dict")
        for key, value in zip(islice(items, 0, None, 2), islice(items, 1, None, 2), strict=True):
            # No tuples: nested ones can take Python for ever, or too deep, to hash.
            if not (type(key) in (str, bytes) or (type(key) is int and abs(key) < 2**32)):
                raise PickleError("a dict's key is neither text nor a small whole number")
            target[key] = value

    def make_dict(self, items: list[object]) -> None:
        self.push({})
        self.fill(items)

    # What a call makes.

    def make_array(
        self, contents: object, dtype: object, shape: object, order: object
    ) -> np.ndarray:
        if not isinstance(dtype, _Dtype) or not isinstance(shape, tuple):
            raise PickleError("an array's state is damaged")
        count = math.prod(map(_size, shape))
        if dtype.kind == "O":
            if not isinstance(contents, list) or len(contents) != count:
                raise PickleError("an array's contents don't fit its shape")
            self.charge(8 * count)
            array = np.empty(count, dtype=object)
            for index, item in enumerate(contents):
                array[index] = item
        else:
            if not isinstance(contents, bytes) or len(contents) != count * dtype.dtype.itemsize:
                raise PickleError("an array's contents don't fit its shape")
            array = np.frombuffer(contents, dtype.dtype) if contents else np.empty(0, dtype.dtype)
        return array.reshape(shape, order="F" if _text(order) == "F" else "C")

    def make_scalar(self, dtype: object, contents: object) -> object:
        self.charge(len(contents) if isinstance(contents, bytes) else 0)
        return self.make_array(contents, dtype, (1,), "C")[0]

    def encode(self, text: object, encoding: object) -> bytes:
        """How Python 3 writes bytes up to protocol 2."""
        if not isinstance(text, str) or _text(encoding) != "latin1":
            raise PickleError("bytes are damaged")
        self.charge(len(text))
        return text.encode("latin-1")


def _text(value: object) -> str:
    if isinstance(value, bytes):
        return value.decode("ascii")
    if not isinstance(value, str):
        raise PickleError(f"it has a {type(value).__name__} in the place of a text")
    return value


def _size(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value < 2**48:
        raise PickleError("an array's size is damaged")
    return value


_NDARRAY = _Global("numpy", "ndarray")
_CALLS: dict[_Global, Callable[..., object]] = {
    _Global("numpy", "dtype"): lambda machine, *arguments: _Dtype(*arguments),
    _Global("numpy.core.multiarray", "_reconstruct"): lambda machine, *arguments: _Array(),
    _Global("numpy.core.multiarray", "scalar"): _Machine.make_scalar,
    _Global("numpy.core.numeric", "_frombuffer"): _Machine.make_array,
    _Global("_codecs", "encode"): _Machine.encode,
    _Global("__builtin__", "bytes"): lambda machine: b"",  # likewise, if there are none
}


_STEPS: dict[bytes, Callable[[_Machine], object]] = {
    # frames and protocols
    pickle.PROTO: lambda m: m.take(1),
    pickle.FRAME: lambda m: m.take(8),
    # numbers and constants
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.INT: _Machine.push_int,
    pickle.LONG: lambda m: m.push(int(m.digits().rstrip(b"L"))),
    pickle.FLOAT: lambda m: m.push(float(m.digits())),
    pickle.BININT: lambda m: m.push(m.number("<i")),
    pickle.BININT1: lambda m: m.push(m.number("<B")),
    pickle.BININT2: lambda m: m.push(m.number("<H")),
    pickle.BINFLOAT: lambda m: m.push(m.number(">d")),
    pickle.LONG1: lambda m: m.push(int.from_bytes(m.sized("<B"), "little", signed=True)),
    # texts
    pickle.STRING: _Machine.push_string,
    pickle.UNICODE: lambda m: m.push(codecs.raw_unicode_escape_decode(m.line())[0]),
    pickle.BINSTRING: lambda m: m.push(m.sized("<i")),
    pickle.SHORT_BINSTRING: lambda m: m.push(m.sized("<B")),
    pickle.BINBYTES: lambda m: m.push(m.sized("<I")),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.sized("<B")),
    pickle.BINBYTES8: lambda m: m.push(m.sized("<Q")),
    pickle.BYTEARRAY8: lambda m: m.push(m.sized("<Q")),
    pickle.BINUNICODE: lambda m: m.push(m.sized("<I").decode()),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.sized("<B").decode()),
    pickle.BINUNICODE8: lambda m: m.push(m.sized("<Q").decode()),
    # containers
    pickle.MARK: lambda m: m.marks.append(len(m.stack)),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.LIST: lambda m: m.push(m.since_mark()),
    pickle.DICT: lambda m: m.make_dict(m.since_mark()),
    pickle.TUPLE: lambda m: m.push(tuple(m.since_mark())),
    pickle.TUPLE1: lambda m: m.push(tuple(m.last(1))),
    pickle.TUPLE2: lambda m: m.push(tuple(m.last(2))),
    pickle.TUPLE3: lambda m: m.push(tuple(m.last(3))),
    pickle.APPEND: lambda m: m.extend(m.last(1)),
    pickle.APPENDS: lambda m: m.extend(m.since_mark()),
    pickle.SETITEM: lambda m: m.fill(m.last(2)),
    pickle.SETITEMS: lambda m: m.fill(m.since_mark()),
    # the stack and the memo
    pickle.POP: lambda m: m.stack.pop(),
    pickle.DUP: lambda m: m.push(m.stack[-1]),
    pickle.PUT: lambda m: m.put(int(m.digits())),
    pickle.BINPUT: lambda m: m.put(m.number("<B")),
    pickle.LONG_BINPUT: lambda m: m.put(m.number("<I")),
    pickle.MEMOIZE: lambda m: m.put(len(m.memo)),
    pickle.GET: lambda m: m.get(int(m.digits())),
    pickle.BINGET: lambda m: m.get(m.number("<B")),
    pickle.LONG_BINGET: lambda m: m.get(m.number("<I")),
    # arrays
    pickle.GLOBAL: _Machine.push_global,
    pickle.STACK_GLOBAL: _Machine.push_stack_global,
    pickle.REDUCE: _Machine.reduce,
    pickle.BUILD: _Machine.build,
}
_BY_BYTE = [_STEPS.get(bytes([code])) for code in range(256)]
