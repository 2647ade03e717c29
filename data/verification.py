"""Compares the files of a folder with the official pickles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tqdm import tqdm

from data.formats import LAYOUTS, SUFFIXES, read
from data.inspection import try_loader, usability
from data.official import OFFICIAL, Official
from utils import InputError, checksum


class Verdict(NamedTuple):
    """What was found out about a file, and whether it is as it should be."""

    path: Path
    right: bool
    text: str


def verify(folder: Path) -> Iterator[Verdict]:
    """Yields a verdict on each data file of a folder.

    Raises:
        InputError: There are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of data files, found none there")
    files = sorted(f for f in folder.iterdir() if f.suffix in SUFFIXES and f.is_file())
    if not files:
        raise InputError(
            f"{folder}: expected data files, found none; see data/README.md for how to get them, "
            "or run: python data/prepare.py synthetic"
        )
    for path in files:
        try:
            yield _verdict(path)
        except InputError as error:
            yield Verdict(path, False, str(error).removeprefix(f"{path}: "))


def _verdict(path: Path) -> Verdict:
    name = path.stem
    if path.suffix != ".pkl" or name not in OFFICIAL:
        return _foreign(path)
    official = OFFICIAL[name]
    if path.stat().st_size == official.size:
        if _checksum(path) == official.sha256:
            return Verdict(path, True, "the official file")
        return Verdict(
            path,
            False,
            "the official file's size, but not its checksum: it is damaged; get it anew",
        )
    examples, dims = try_loader(path, name)
    text = f"not the official file, but train_{name}.py can use it: {_sizes(examples, dims)}"
    return Verdict(path, True, text + _difference(official, examples, dims))


def _checksum(path: Path) -> str:
    size = path.stat().st_size
    with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, leave=False) as bar:
        return checksum(path, bar.update)


def _sizes(examples: tuple[int, ...], dims: tuple[int, ...]) -> str:
    return f"{' / '.join(map(str, examples))} examples, {' / '.join(map(str, dims))} features"


def _difference(official: Official, examples: tuple[int, ...], dims: tuple[int, int, int]) -> str:
    if (examples, dims) == (official.examples, official.dims):
        return ", as in the official data"
    return f" (official: {_sizes(official.examples, official.dims)})"


def _foreign(path: Path) -> Verdict:
    found = read(path)
    known = found.layout is not None
    title = LAYOUTS[found.layout].title if found.layout in LAYOUTS else "another layout"
    return Verdict(path, known, f"{title}; {usability(found)[1]}")
