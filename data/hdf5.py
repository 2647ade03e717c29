"""Copies the arrays of an HDF5 file to an .npz: python data/hdf5.py OUT.npz < FILE.h5.

formats.py runs it as a process of its own: a damaged file can crash or hang the HDF5 library, and
then takes this process with it, not its caller.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

if TYPE_CHECKING:
    import h5py

MOST_ARRAYS = 100_000  # in one file; a computational sequence has two per video
MOST_INFLATED = 1100  # bytes that one byte of a compressed file can give
MOST_DEPTH = 5  # of groups in each other


def arrays(file: BinaryIO) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the arrays of numbers in an open file, each with its path inside the file.

    A group that has several names is gone through once. Links to other files, and data that lie
    in other files, are left alone.

    Raises:
        ValueError: It claims more than a file of its size can hold.
    """
    import h5py  # the only module that needs it; whoever reads no HDF5 can do without

    left = MOST_INFLATED * file.seek(0, 2)
    with h5py.File(file, "r") as whole:
        pending: list[tuple[str, h5py.Group]] = [("", whole)]
        seen = {whole.id}  # equal for all names of one group
        for name, group in pending:
            for key in group:
                if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                    continue
                item, where = group[key], f"{name}/{key}".lstrip("/")
                if isinstance(item, h5py.Group) and item.id not in seen:
                    seen.add(item.id)
                    pending.append((where, item))
                    if len(pending) > MOST_ARRAYS or where.count("/") > MOST_DEPTH:
                        raise ValueError("expected arrays in a few nested groups, got far more")
                elif isinstance(item, h5py.Dataset) and _is_plain(item):
                    left -= item.nbytes
                    if left < 0:
                        raise ValueError(f"{where} claims the shape {item.shape}, too large")
                    yield where, item[()]


def _is_plain(item: h5py.Dataset) -> bool:
    return (
        item.dtype.kind in "fiub"
        and item.shape is not None
        and not item.external
        and not item.is_virtual
    )


def main(target: str) -> None:
    """Copies the file that is the standard input; a failure ends with one line on stderr."""
    try:
        with zipfile.ZipFile(target, "w") as archive:
            for name, array in arrays(sys.stdin.buffer):
                with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                    np.lib.format.write_array(entry, np.asarray(array), allow_pickle=False)
    except Exception as error:  # a damaged file can make the library raise anything
        sys.exit(f"{type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
