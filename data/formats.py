"""Reads data files of the layouts in which the corpora circulate, and says which layout it is.

Nothing in a file is ever run: pickles go through pickles.py, .npz and .npy without objects, and
HDF5 through a process of its own (hdf5.py), since a damaged file can crash its library.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import warnings
import zipfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

import numpy as np
from numpy.lib import format as npy

from data import hdf5
from data.assembly import read_pickle
from data.corpora import CORPORA, MODALITIES, ROLES, SPLITS
from data.files import InputError, opened_unchanged, printable
from data.hdf5 import MOST_ARRAYS, MOST_INFLATED

MOST_DEPTH = 4  # emotion, split, modality, and one to spare
SUFFIXES = (".pkl", ".pickle", ".npz", ".npy", ".h5", ".hdf5", ".csd")
SECONDS = 600  # the longest that reading an HDF5 file may take
MULT_EMOTIONS = ("neutral", "happy", "sad", "angry")  # their order in MulT's labels (N, 4, 2)

Values = np.ndarray | list  # what a file holds: an array, or a list of names or sentences


class Layout(NamedTuple):
    """How a family of files names the four roles of an example's parts."""

    title: str
    keys: tuple[str, ...]  # of audio, video, text and label
    path: str = "{split}/{key}"


LAYOUTS = {
    "release": Layout("as the train scripts read it", MODALITIES),
    "mmsa": Layout("MMSA pickle", ("audio", "vision", "text", "regression_labels")),
    "mult": Layout("MulT / MultiBench pickle", ("audio", "vision", "text", "labels")),
    "mfn": Layout("MFN folder of .h5 files", ("audio", "video", "text", "y"), "{key}_{split}"),
    "arrays": Layout("named arrays", ("audio", "video", "text", "label"), "{split}_{key}"),
}


class Found(NamedTuple):
    """What a file or folder holds."""

    path: Path
    data: object  # everything, in nested dicts if a pickle has them
    values: dict[str, Values]  # the arrays and lists, by their paths, as "train/covarep"
    layout: str | None  # of LAYOUTS; "sequence": a computational sequence (.csd); None: unknown
    emotions: tuple[str, ...]  # the outer keys of a pickle that has any, else one empty name

    @property
    def title(self) -> str:
        """The layout's, for people."""
        if self.layout == "sequence":
            return "computational sequence of the CMU-MultimodalSDK"
        return LAYOUTS[self.layout].title if self.layout else "unknown"

    def part(self, split: str, role: str, emotion: str = "") -> np.ndarray:
        """Returns the array of a role (audio, video, text or label) in a split."""
        assert self.layout in LAYOUTS
        layout = LAYOUTS[self.layout]
        where = layout.path.format(split=split, key=layout.keys[ROLES.index(role)])
        value = self.values[f"{emotion}/{where}" if emotion else where]
        if not isinstance(value, np.ndarray) or value.dtype.kind not in "fiub":
            raise InputError(f"{self.path}: expected {where} to be a numeric array")
        return value


def read(path: Path) -> Found:
    """Returns what a data file, or a folder of .h5 or .npy files, holds.

    Raises:
        InputError: It is missing, damaged, unsafe, or of no known format.
    """
    if path.is_dir():
        return _found(path, dict(_folder(path)))
    with opened_unchanged(path) as file:
        return read_open(path, file)


def read_open(path: Path, file: BinaryIO) -> Found:
    """Returns what an open data file holds, as `read` does."""
    return _found(path, _contents(path, file))


def _found(path: Path, data: object) -> Found:
    values = dict(_flat(path, data))
    with_emotions = [corpus.emotions for corpus in CORPORA.values() if corpus.emotions]
    for name, layout in LAYOUTS.items():
        paths = [layout.path.format(split=s, key=key) for s in SPLITS for key in layout.keys]
        for emotions in [("",), *with_emotions] if name == "release" else [("",)]:
            if all(f"{outer}/{p}".lstrip("/") in values for outer in emotions for p in paths):
                return Found(path, data, values, name, emotions)
    features = [p for p in values if p.endswith("/features")]
    is_sequence = features and len(features) * 2 >= len(values)
    return Found(path, data, values, "sequence" if is_sequence else None, ("",))


def _folder(path: Path) -> Iterator[tuple[str, Values]]:
    files = sorted(f for f in path.iterdir() if f.suffix in (".h5", ".hdf5", ".npy"))
    if not files:
        raise InputError(f"{path}: expected a folder of .h5 or .npy files, found none in it")
    if len(files) > MOST_ARRAYS:
        raise InputError(f"{path}: expected at most {MOST_ARRAYS} files, found {len(files)}")
    for file in files:
        with opened_unchanged(file) as opened:
            for name, value in _flat(file, _contents(file, opened)):
                # An .h5 file of MFN holds one array, called "data" or "d1".
                yield (file.stem if name in ("data", "d1") else f"{file.stem}/{name}"), value


def _contents(path: Path, file: BinaryIO) -> object:
    """Returns what a file holds, whose format is told by its first bytes."""
    start = file.read(8)
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    if start.startswith(b"\x89HDF"):
        return _h5(path, file)
    if start.startswith(b"PK"):
        return dict(_npz(path, file, size))
    if start.startswith(b"\x93NUMPY"):
        return _npy(path, file, size)
    if path.suffix in (".h5", ".hdf5", ".csd", ".npz", ".npy"):
        raise InputError(f"{path}: expected a {path.suffix} file, got a damaged or other file")
    return read_pickle(path, file)


def _flat(path: Path, data: object) -> Iterator[tuple[str, Values]]:
    """Yields the arrays and lists in nested dicts, with their paths."""
    pending = [((), data)]
    for count, (keys, value) in enumerate(pending):
        if count > 10 * MOST_ARRAYS or len(keys) > MOST_DEPTH:
            raise InputError(f"{path}: expected arrays in a few nested dicts, got far more")
        if isinstance(value, dict):
            pending += [((*keys, _name(key)), inner) for key, inner in value.items()]
        elif isinstance(value, (np.ndarray, list)):
            yield "/".join(keys) or "data", value


def _name(key: object) -> str:
    text = key.decode(errors="replace") if isinstance(key, bytes) else str(key)
    return printable(text[:80]).encode("ascii", "backslashreplace").decode()[:80]


def _npz(path: Path, file: BinaryIO, size: int) -> Iterator[tuple[str, Values]]:
    try:
        with zipfile.ZipFile(file) as archive:
            entries = archive.infolist()
            inflated = sum(entry.file_size for entry in entries)
            if len(entries) > MOST_ARRAYS or inflated > MOST_INFLATED * size:
                raise InputError(f"{path}: expected a few arrays, got far more than its size holds")
            for entry in entries:
                with archive.open(entry) as member:
                    name = _name(entry.filename.removesuffix(".npy"))
                    yield name, _npy(path, member, entry.file_size)
    except InputError:
        raise
    except Exception as error:  # a damaged archive can make the reader raise anything
        raise InputError(
            f"{path}: expected a whole .npz file, got a damaged one "
            f"({type(error).__name__}: {printable(str(error))})"
        ) from None


def _npy(path: Path, file: IO[bytes], size: int) -> np.ndarray:
    """Reads an array without objects; its size is checked before anything is allocated."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            version = npy.read_magic(file)
            reader = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
            shape, fortran, dtype = reader(file)
            if dtype.kind not in "fiubSU":
                raise ValueError(f"an array of {dtype}, not of numbers or text")
            contents = file.read(size)
            return np.frombuffer(contents, dtype).reshape(shape, order="F" if fortran else "C")
        except Exception as error:  # a damaged file can make the reader raise anything
            raise InputError(
                f"{path}: expected whole numpy arrays, got a damaged one "
                f"({type(error).__name__}: {printable(str(error))})"
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
            raise InputError(f"{path}: {printable(why[-1])}")
        with copy.open("rb") as copied:
            return dict(_npz(path, copied, copy.stat().st_size))
