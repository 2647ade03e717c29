"""Reads pickles of numpy arrays and plain containers, without importing or running anything.

A pickle is a program for a small stack machine, and Python's own machine can be told to call
anything, or to fill the memory. This one knows the instructions that data need and no others. It
looks no name up: arrays, dtypes and scalars are built here from checked parts. What it makes is
bounded by the file's size, and its steps are counted, so that every file ends within seconds.

Byte strings stay bytes, Python 2's among them. A long text goes from where it was read to into its
array's bytes without a copy of its line, which is as fast as Python's machine.
"""

from __future__ import annotations

import codecs
import mmap
import os
import pickle
import warnings
from collections.abc import Callable, Sequence
from itertools import islice
from typing import BinaryIO, NamedTuple

import numpy as np

from data.pickle_parts import LARGE, Dtype, PendingArray, Reader, array_of, text_of
from data.pickle_parts import PickleError as PickleError
from data.pickle_parts import UnsafePickle as UnsafePickle

MOST_STEPS = 3_000_000  # the largest data sets around, with lists of names, need 500,000


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


class _Machine(Reader):
    """The stack machine. `left` is how many more bytes it may copy out of what it has read."""

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.stack: list[object] = []
        self.marks: list[int] = []  # heights of the stack
        self.memo: dict[int, object] = {}
        self.left = max(self.size, 2**20)

    def run(self) -> object:
        for _ in range(MOST_STEPS):
            if self.at >= self.size:
                raise PickleError("it ends too early")
            self.load(self.at + 1)
            code = self.data[self.at]
            self.at += 1
            if code == pickle.STOP[0]:
                return self.stack.pop()
            step = _BY_BYTE[code]
            if step is None:
                raise PickleError(f"byte {self.at - 1:,} is no instruction that data need")
            step(self)
        raise PickleError(f"it takes more than {MOST_STEPS:,} steps")

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
        if len(line) > LARGE:
            done = self.at - self.at % mmap.PAGESIZE
            self.data.madvise(mmap.MADV_DONTNEED, 0, done)  # these pages aren't needed again

    def push_global(self) -> None:
        self.name_global(text_of(bytes(self.line(1000))), text_of(bytes(self.line(1000))))

    def push_stack_global(self) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.name_global(text_of(module), text_of(name))

    def name_global(self, module: str, name: str) -> None:
        if name.endswith("\r"):
            raise PickleError("its lines end in CR LF")
        found = _Global(_MOVED.get(module, module), name)
        if found not in _CALLS and found not in _TYPES:
            raise UnsafePickle(
                f"it names {module}.{name}, but only numpy arrays and plain containers are read, "
                "since anything else could run code; save its arrays with numpy.savez, and convert "
                "those"
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
        if isinstance(target, PendingArray) and isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, contents = state
            target.array = self.make_array(contents, dtype, shape, "F" if fortran else "C")
            self.stack.append(target.array)
        elif isinstance(target, Dtype):
            self.stack.append(target.build(state))
        else:
            raise PickleError("it sets the state of what is neither an array nor a dtype")

    def put(self, key: int) -> None:
        self.memo[key] = self.stack[-1]

    def get(self, key: int) -> None:
        value = self.memo[key]
        if isinstance(value, PendingArray) and value.array is not None:
            value = value.array
        self.stack.append(value)

    def extend(self, items: list[object]) -> None:
        target = self.stack[-1]
        if not isinstance(target, list):
            raise PickleError("it appends to what is no list")
        target.extend(items)

    def fill(self, items: list[object]) -> None:
        self.fill_dict(self.stack[-1], items)

    def fill_dict(self, target: object, items: list[object]) -> None:
        if not isinstance(target, dict):
            raise PickleError("it sets an item of what is no dict")
        for key, value in zip(islice(items, 0, None, 2), islice(items, 1, None, 2), strict=True):
            # No tuples: nested ones can take Python for ever, or too deep, to hash.
            if not (type(key) in (str, bytes) or (type(key) is int and abs(key) < 2**32)):
                raise PickleError("a dict's key is neither text nor a small whole number")
            target[key] = value

    # What a call makes.

    def make_array(self, contents: object, *parts: object) -> np.ndarray:
        self.charge(8 * len(contents) if isinstance(contents, list) else 0)
        return array_of(contents, *parts)

    def make_scalar(self, dtype: object, contents: object) -> object:
        self.charge(len(contents) if isinstance(contents, bytes) else 0)
        return self.make_array(contents, dtype, (1,), "C")[0]

    def make_dict(self, pairs: Sequence[list[object]] = ()) -> dict[object, object]:
        """An OrderedDict, which Python 2 writes with lists of key and value, Python 3 empty."""
        made: dict[object, object] = {}
        self.charge(8 * len(pairs))
        for pair in pairs:
            self.fill_dict(made, pair)
        return made

    def encode(self, text: object, encoding: object) -> bytes:
        """How Python 3 writes bytes up to protocol 2."""
        if not isinstance(text, str) or text_of(encoding) != "latin1":
            raise PickleError("bytes are damaged")
        self.charge(len(text))
        return text.encode("latin-1")


_MOVED = {  # Python 3 and NumPy 2 did
    "__builtin__": "builtins",
    "numpy._core.multiarray": "numpy.core.multiarray",
    "numpy._core.numeric": "numpy.core.numeric",
}
_TYPES = {  # may be named, but not called
    _Global("numpy", "ndarray"),
    *(_Global("builtins", name) for name in ("dict", "list", "int", "float", "str")),
}
_CALLS: dict[_Global, Callable[..., object]] = {
    _Global("numpy", "dtype"): lambda machine, *arguments: Dtype(*arguments),
    _Global("numpy.core.multiarray", "_reconstruct"): lambda machine, *arguments: PendingArray(),
    _Global("numpy.core.multiarray", "scalar"): _Machine.make_scalar,
    _Global("numpy.core.numeric", "_frombuffer"): _Machine.make_array,
    _Global("_codecs", "encode"): _Machine.encode,
    _Global("builtins", "bytes"): lambda machine: b"",  # likewise, if there are none
    _Global("collections", "OrderedDict"): _Machine.make_dict,
    _Global("collections", "defaultdict"): lambda machine, *factory: {},
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
    pickle.DICT: lambda m: m.push(m.make_dict([m.since_mark()])),
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
