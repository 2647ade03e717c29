"""Reads data files of all formats: pickles, numpy's, HDF5, torch's; layouts.py says what is what.

Nothing in a file is ever run: pickles go through pickles.py, .npz and .npy without objects, torch's
without classes, and HDF5 through a process of its own (hdf5.py), since a damaged file can crash its
library.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, BinaryIO

import numpy as np
from numpy.lib import format as npy

from data import hdf5
from data.assembly import read_pickle
from data.files import InputError, opened_unchanged, printable
from data.hdf5 import MOST_ARRAYS, MOST_INFLATED
from data.kinds import SUFFIXES, TORCH, damage, refusal, zip_members
from data.layouts import Found, Values, find, split_examples

MOST_DEPTH = 4  # emotion, split, modality, and one to spare
SECONDS = 600  # the longest that reading an HDF5 file may take


def read(path: Path) -> Found:
    """Returns what a data file holds, or a folder of them with an array or a split each.

    Raises:
        InputError: It is missing, damaged, unsafe, or of no known format.
    """
    if path.is_dir():
        files = sorted(f for f in path.iterdir() if f.suffix in SUFFIXES and f.suffix != ".csd")
        if len(files) != 1:
            return find(path, None, dict(_folder(path, files)))
        (path,) = files
    with opened_unchanged(path) as file:
        return read_open(path, file)


def read_open(path: Path, file: BinaryIO) -> Found:
    """Returns what an open data file holds, as `read` does."""
    data = _contents(path, file)
    return find(path, data, dict(_flat(path, data)))


def _folder(path: Path, files: list[Path]) -> Iterator[tuple[str, Values]]:
    if not files:
        raise InputError(f"{path}: expected a folder of data files, found none in it")
    if len(files) > MOST_ARRAYS:
        raise InputError(f"{path}: expected at most {MOST_ARRAYS} files, found {len(files)}")
    for file in files:
        with opened_unchanged(file) as opened:
            for name, value in _flat(file, _contents(file, opened)):
                # An .h5 file of MFN holds one array, called "data" or "d1".
                yield (file.stem if name in ("data", "d1") else f"{file.stem}/{name}"), value


def _contents(path: Path, file: BinaryIO) -> object:
    """Returns what a file holds, whose format is told by its first bytes."""
    start = file.read(len(TORCH))
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if start.startswith(b"\x89HDF"):
        return _h5(path, file)
    names = zip_members(file) if start.startswith(b"PK") else []
    if any(name.endswith(".npy") for name in names):
        return dict(_npz(path, file, size))
    if start == TORCH or any(name.endswith("/data.pkl") for name in names):
        return _torch(path, file)
    if start.startswith(b"\x93NUMPY"):
        with _whole(path, file, "whole numpy arrays"):
            return _npy(path, file, size)
    if path.suffix in SUFFIXES and path.suffix not in (".pkl", ".pickle"):
        raise refusal(path, file, f"a {path.suffix} file", "its first bytes are not of one")
    return read_pickle(path, file)


def _flat(path: Path, data: object) -> Iterator[tuple[str, Values]]:
    """Yields the arrays and lists in nested dicts, with their paths."""
    pending = [((), data)]
    for count, (keys, value) in enumerate(pending):
        if count > 10 * MOST_ARRAYS or len(keys) > MOST_DEPTH:
            raise InputError(f"{path}: expected arrays in a few nested dicts, got far more")
        if isinstance(value, dict):
            pending += [((*keys, _name(key)), inner) for key, inner in value.items()]
        elif (parts := split_examples(value)) is not None:
            pending += [((*keys, name), column) for name, column in parts.items()]
        elif isinstance(value, (np.ndarray, list)):
            yield "/".join(keys) or "data", value


def _name(key: object) -> str:
    text = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
    return printable(text[:80]).encode("ascii", "backslashreplace").decode()[:80]


@contextlib.contextmanager
def _whole(path: Path, file: BinaryIO, expected: str) -> Iterator[None]:
    """Turns whatever a damaged file makes a reader raise into an InputError."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            yield
    except InputError:
        raise
    except Exception as error:
        raise damage(path, file, expected, f"{type(error).__name__}: {error}"[:200]) from None


def _npz(path: Path, file: BinaryIO, size: int) -> Iterator[tuple[str, Values]]:
    with _whole(path, file, "a whole .npz file"), zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        inflated = sum(entry.file_size for entry in entries)
        if len(entries) > MOST_ARRAYS or inflated > MOST_INFLATED * size:
            raise InputError(f"{path}: expected a few arrays, got far more than its size holds")
        for entry in entries:
            with archive.open(entry) as member:
                name = _name(entry.filename.removesuffix(".npy"))
                yield name, _npy(path, member, entry.file_size, name)


def _npy(path: Path, file: IO[bytes], size: int, name: str = "it") -> np.ndarray:
    """Reads an array without objects; its size is checked before anything is allocated."""
    version = npy.read_magic(file)
    reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    shape, fortran, dtype = reader(file)
    if dtype.kind not in "fiubSU":
        raise InputError(
            f"{path}: expected numbers or text, but {name} is an array of {dtype}, which could run "
            f"code; save its numbers: numpy.savez(..., {name}=numpy.stack(...))"
        )
    contents = file.read(size)
    return np.frombuffer(contents, dtype).reshape(shape, order="F" if fortran else "C")


def _torch(path: Path, file: BinaryIO) -> object:
    """Reads tensors that torch.save wrote, by torch's own reader of weights, which runs no code."""
    import torch  # not needed otherwise

    made: dict[int, object] = {}  # by id, since a list may lie in another many times

    def arrays(value: object) -> object:
        if isinstance(value, torch.Tensor):
            if value.nbytes > value.untyped_storage().nbytes():
                raise ValueError("a tensor claims more than the file holds")
            return value.detach().numpy()
        if id(value) not in made and isinstance(value, dict):
            made[id(value)] = {key: arrays(inner) for key, inner in value.items()}
        elif id(value) not in made and isinstance(value, list | tuple):
            made[id(value)] = list(map(arrays, value))
        return made.get(id(value), value)

    file.seek(0)
    with _whole(path, file, "a whole file of torch.save"):
        try:
            return arrays(torch.load(file, map_location="cpu", weights_only=True))
        except pickle.UnpicklingError as error:
            if "GLOBAL" not in str(error):
                raise
            raise InputError(
                f"{path}: expected tensors in dicts and lists alone, got other objects, which "
                "could run code; save its arrays with numpy.savez, and convert those"
            ) from None


def _h5(path: Path, file: BinaryIO) -> dict[str, Values]:
    if find_spec("h5py") is None:
        raise InputError(
            f"{path}: reading it needs h5py, which is not installed: pip install h5py==3.16.0"
        )
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "arrays.npz"
        command = [sys.executable, hdf5.__file__, str(copy)]
        try:
            run = subprocess.run(command, stdin=file, capture_output=True, timeout=SECONDS)
        except subprocess.TimeoutExpired:
            raise InputError(f"{path}: expected to be read within {SECONDS} s, gave up") from None
        if run.returncode != 0:
            lines = run.stderr.decode(errors="replace").strip().splitlines()
            why = lines or [f"its library crashed: {run.returncode}"]
            raise damage(path, file, "a whole HDF5 file", why[-1])
        with copy.open("rb") as copied:
            return dict(_npz(path, copied, copy.stat().st_size))
