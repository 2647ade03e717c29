"""What a file is that is no pickle, by its first bytes, and what to do with it."""

from __future__ import annotations

import os
import shlex
import zipfile
from pathlib import Path
from typing import BinaryIO

from data.files import InputError, printable

_ROOT = Path(__file__).resolve().parent.parent
SUFFIXES = (".pkl", ".pickle", ".npz", ".npy", ".h5", ".hdf5", ".csd", ".pt", ".pth")
TORCH = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # how torch.save began before it wrote zips
_INSPECT = "look into it: python data/prepare.py inspect {path}"
_COMPRESSED = "a file compressed by {0}; unpack it: {0} -dc {{path}} > {{unpacked}}".format
_STARTS = {
    b"version https://git-lfs": "a Git LFS pointer in its place; fetch the file: "
    "git -C {folder} lfs pull --include {name}",
    b"<": "a web page (HTML) in its place; open its address in a browser, and save the file itself",
    b"\x1f\x8b": _COMPRESSED("gzip"),
    b"\xfd7zXZ": _COMPRESSED("xz"),
    b"BZh": _COMPRESSED("bzip2"),
    b"\x28\xb5\x2f\xfd": _COMPRESSED("zstd"),
    TORCH: f"a file of torch.save; {_INSPECT}",
    b"\x89HDF\r\n": f"an HDF5 file; {_INSPECT}",
    b"\x93NUMPY": f"a numpy array; {_INSPECT}",
}
_MEMBERS = {  # of a zip archive
    ".npy": f"an .npz file; {_INSPECT}",
    "data.pkl": f"a file of torch.save; {_INSPECT}",
    "": "a zip archive; unpack it: unzip {path} -d {unpacked}",
}


def refusal(path: Path, file: BinaryIO, expected: str, why: str) -> InputError:
    """Returns the error for a file that is no pickle: what else it is, or that it is damaged."""
    what = _kind(path, file)
    return (
        InputError(f"{path}: expected {expected}, got {what}")
        if what
        else damage(path, file, expected, why)
    )


def damage(path: Path, file: BinaryIO, expected: str, why: str) -> InputError:
    """Returns the error for a file whose reading ended early; `why` says how."""
    file.seek(0)
    start = file.read(2**16)
    what = (
        "a file whose line ends became CR LF, as a transfer in text mode does; get it again in "
        "binary mode"
        if 1 < start.count(b"\n") == start.count(b"\r\n")
        else f"a damaged or other file ({printable(why)}); get it again, and compare its size and "
        "checksum with data/README.md"
    )
    return InputError(f"{path}: expected {expected}, got {what}")


def _kind(path: Path, file: BinaryIO) -> str | None:
    file.seek(0)
    start = file.read(64)
    if not start:
        return "an empty file; get it again"
    kinds = [kind for beginning, kind in _STARTS.items() if start.lstrip().startswith(beginning)]
    names = zip_members(file) if start.startswith(b"PK") else []
    kinds += [kind for end, kind in _MEMBERS.items() if any(name.endswith(end) for name in names)]
    words = {"path": path, "folder": path.parent, "name": path.name, "unpacked": f"{path}.unpacked"}
    return (
        kinds[0].format(**{name: quoted(word) for name, word in words.items()}) if kinds else None
    )


def zip_members(file: BinaryIO) -> list[str]:
    """Returns the names in a zip archive, none if it is damaged."""
    try:
        with zipfile.ZipFile(file) as archive:
            return archive.namelist()
    except Exception:  # a damaged archive can make the reader raise anything
        return []


def quoted(word: Path | str) -> str:
    """Returns a word as a shell takes it."""
    return printable(shlex.quote(str(word)))


def script(name: str) -> str:
    """Returns a script of this project as a shell finds it from the working directory."""
    is_here = os.path.exists(".") and os.path.samefile(".", _ROOT)
    return quoted(name if is_here else _ROOT / name)


def command(name: str) -> str:
    """Returns the command that runs a script of this project from the working directory."""
    return f"python {script(name)}"
