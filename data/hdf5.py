"""Copies the arrays of an HDF5 file to an .npz: python data/hdf5.py FILE.h5 OUT.npz.

layouts.py runs it as a process of its own: a damaged file can crash or hang the HDF5 library, and
then takes this process with it, not its caller.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np

MOST_ARRAYS = 100_000
MOST_DEPTH = 5
MOST_INFLATED = 1100  # bytes that one byte of a compressed file can give


def arrays(path: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the arrays of numbers in a file, each with its path inside the file.

    Links to other files, and data that lie in other files, are left alone.

    Raises:
        ValueError: It claims more than a file of its size can hold.
    """
    left = MOST_INFLATED * path.stat().st_size
    with h5py.File(path, "r") as file:
        pending: list[tuple[str, h5py.Group]] = [("", file)]
        for count, (name, group) in enumerate(pending):
            if count > MOST_ARRAYS or name.count("/") > MOST_DEPTH:
                raise ValueError("expected arrays in a few nested groups, got far more")
            for key in group:
                if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                    continue
                item, where = group[key], f"{name}/{key}".lstrip("/")
                if isinstance(item, h5py.Group):
                    pending.append((where, item))
                elif isinstance(item, h5py.Dataset) and _plain(item):
                    left -= item.nbytes
                    if left < 0:
                        raise ValueError(f"{where} claims the shape {item.shape}, too large")
                    yield where, item[()]


def _plain(item: h5py.Dataset) -> bool:
    return (
        item.dtype.kind in "fiub"
        and item.shape is not None
        and not item.external
        and not item.is_virtual
    )


def main(source: str, target: str) -> None:
    """Copies one file; a failure ends with one line on stderr."""
    try:
        with zipfile.ZipFile(target, "w") as archive:
            for name, array in arrays(Path(source)):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
    except Exception as error:  # a damaged file can make the library raise anything
        sys.exit(f"expected a whole HDF5 file, got a damaged one ({type(error).__name__}: {error})")


if __name__ == "__main__":
    main(*sys.argv[1:])
