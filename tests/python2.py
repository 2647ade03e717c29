"""Writes pickles in the byte form of the official files, which Python 2 made at protocol 0."""

from __future__ import annotations

import numpy as np


class Python2Pickler:
    """Writes nested dicts of numpy arrays as cPickle of Python 2.7 did, byte for byte."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.puts = 0
        self.arrays: dict[int, int] = {}  # id of an array: where it stands in the memo

    def dumps(self, data: object) -> bytes:
        """Returns the pickle."""
        self._save(data)
        return ("".join(self.parts) + ".").encode("ascii")

    def _save(self, data: object) -> None:
        if isinstance(data, dict):
            self._put("(d")
            for key, value in data.items():
                self._put(_text(key.encode()))
                self._save(value)
                self.parts.append("s")
        elif isinstance(data, np.ndarray):
            self._array(data)
        else:
            raise TypeError(type(data))

    def _put(self, *parts: str) -> int:
        self.parts += [*parts, f"p{self.puts}\n"]
        self.puts += 1
        return self.puts - 1

    def _array(self, array: np.ndarray) -> None:
        if id(array) in self.arrays:
            self.parts.append(f"g{self.arrays[id(array)]}\n")
            return
        self._put("cnumpy.core.multiarray\n_reconstruct\n")
        self._put("(cnumpy\nndarray\n")
        self._put("(I0\nt")
        self._put("S'b'\n")
        self._put("t")
        self.arrays[id(array)] = self._put("R")
        self._put("(I1\n(", *(f"I{size}\n" for size in array.shape), "t")
        self._put("cnumpy\ndtype\n")
        self._put(f"(S'{array.dtype.str[1:]}'\n")
        self._put("I0\nI1\nt")
        self._put("R")
        self._put("(I3\nS'<'\n")
        self._put("NNNI-1\nI-1\nI0\nt")
        self._put("bI00\n", _text(array.tobytes()))
        self._put("t")
        self.parts.append("b")


def _text(value: bytes) -> str:
    return f"S{repr(value)[1:]}\n"  # Python 3 escapes bytes as Python 2 escaped its strings
