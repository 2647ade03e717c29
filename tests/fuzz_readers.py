"""Damages data files in many ways, and sees that each is read, or refused in one line.

python tests/fuzz_readers.py --count 10000     (about an hour on one core, most of it for HDF5)

Each reader (pickle, npz, npy, pt, h5) gets --count damaged files. It must end each in SECONDS and
MEMORY, with what the file holds or with InputError; it must never run anything but hdf5.py. The
first one that does something else ends this script, and stays where it says.
"""

from __future__ import annotations

import argparse
import io
import json
import pickle
import resource
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this is also run as a script

from data import hdf5
from data.formats import read
from data.inspection import as_json, inspect, table
from tests.python2 import Python2Pickler
from utils import InputError

SECONDS = 10
MEMORY = 2**30  # bytes beyond what the process takes without any file
FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "socket")

Rng = np.random.Generator
Damage = Callable[[Rng, bytearray], bytearray]


class Harmful:
    """Its pickle would run a command."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        import os

        return os.system, ("true",)


# Whole files, to be damaged.


def arrays(rng: Rng) -> dict[str, dict[str, np.ndarray]]:
    """Returns a tiny data set; rng sets its numbers."""
    return {
        split: {
            "covarep": rng.normal(size=(3, 2)),
            "facet": rng.normal(size=(3, 2)).astype(">f8"),
            "glove": rng.normal(size=(3, 2, 2)).astype(np.float32),
            "label": rng.integers(-3, 3, (3, 1)),
        }
        for split in ("train", "valid", "test")
    }


def pickles(rng: Rng) -> list[bytes]:
    """Returns pickles of every protocol, of foreign layouts, and harmful ones."""
    data = arrays(rng)
    native = {split: {**parts, "facet": parts["covarep"]} for split, parts in data.items()}
    names = {"id": np.array([["a", b"b", None]], dtype=object), "raw": ["one", "two"] * 3}
    other = {split: {**parts, **names} for split, parts in data.items()}
    whole = [pickle.dumps(data, protocol) for protocol in range(6)]
    whole += [pickle.dumps(other, protocol) for protocol in (0, 2, 4)]
    bad = [pickle.dumps({"train": Harmful(), **data}, protocol) for protocol in (0, 2, 4)]
    return [*whole, *bad, Python2Pickler().dumps(native)]


def archives(rng: Rng) -> list[bytes]:
    """Returns .npz files, stored and compressed, one of each with an array of objects."""
    named = {f"train_{key}": value for key, value in arrays(rng)["train"].items()}
    return [
        written(save, allow_pickle=True, **named, ids=ids)
        for save in (np.savez, np.savez_compressed)
        for ids in (np.array([1]), np.array(["a", "bc"]), np.array([{}, None]))
    ]


def single(rng: Rng) -> list[bytes]:
    """Returns .npy files of several dtypes and both orders."""
    more = np.array(["a"]), np.ones((2, 3), order="F")
    return [written(np.save, array) for array in (*arrays(rng)["train"].values(), *more)]


def written(save: Callable[..., None], *arguments: object, **more: object) -> bytes:
    """Returns the file that one of numpy's functions writes."""
    file = io.BytesIO()
    save(file, *arguments, **more)
    return file.getvalue()


def tensors(rng: Rng) -> list[bytes]:
    """Returns files of torch.save, of both its forms, and harmful ones."""
    import torch

    named = {
        f"{split}_{key}": torch.tensor(value.astype(float))
        for split, parts in arrays(rng).items()
        for key, value in parts.items()
    }
    return [
        written(partial(torch.save, data), _use_new_zipfile_serialization=new)
        for data in (named, [named, {"a": list(named.values())}], {"a": Harmful()})
        for new in (True, False)
    ]


def hdf5s(rng: Rng) -> list[bytes]:
    """Returns .h5 files, plain, compressed and in groups."""
    import h5py

    files = []
    for options in ({}, {"compression": "gzip", "chunks": (2, 2)}):
        for name in ("data", "train/audio"):
            file = io.BytesIO()
            with h5py.File(file, "w") as h5:
                h5.create_dataset(name, data=rng.normal(size=(8, 3)), **options)
                h5["x/features"] = np.arange(6.0).reshape(3, 2)
            files.append(file.getvalue())
    return files


# Kinds of damage.


def truncate(rng: Rng, data: bytearray) -> bytearray:
    return data[: rng.integers(len(data))]


def flip_bits(rng: Rng, data: bytearray) -> bytearray:
    for _ in range(rng.integers(1, 9)):
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
    return data


def splice(rng: Rng, data: bytearray) -> bytearray:
    start, at = rng.integers(len(data), size=2)
    piece = data[start : start + rng.integers(1, 60)]
    end = at + rng.integers(0, 2) * len(piece)
    return data[:at] + piece + data[end:]


def claim_sizes(rng: Rng, data: bytearray) -> bytearray:
    at, width = int(rng.integers(len(data))), int(rng.choice((1, 2, 4, 8)))
    value = int(rng.choice((0, 1, 127, 255, 2**16, 2**31 - 1, 2**40, 2**62)))
    data[at : at + width] = (value % 256**width).to_bytes(width, "little")
    return data


def insert_instructions(rng: Rng, data: bytearray) -> bytearray:
    codes = b"().012FIJKLMNPQRSTUVX]abcdeghijlopqrstu}\x80\x81\x82\x85\x86\x87\x88\x8a\x8c\x8d\x8e"
    codes += b"\x8f\x90\x91\x92\x93\x94\x95\x96\x97\x98"
    at = int(rng.integers(len(data)))
    new = bytes(rng.choice(list(codes), size=int(rng.integers(1, 6))).tolist())
    return data[:at] + new + data[at:]


def nest(rng: Rng, data: bytearray) -> bytearray:
    """Lists, tuples or dicts in each other, a hundred thousand deep, some of them as a key."""
    depth = int(rng.choice((100, 10_000, 100_000)))
    inside = (b"]" * depth + b"a" * (depth - 1), b")" + b"\x85" * depth, b"(" * depth)
    doubling = b")" + b"2\x86" * 60  # a tuple of 2 ** 60 leaves
    core = (*inside, doubling)[int(rng.integers(4))]
    return bytearray((core + b".", b"}" + core + b"Ns.", core + bytes(data))[int(rng.integers(3))])


def bomb_memo(rng: Rng, data: bytearray) -> bytearray:
    """Memo indices and repetitions that would fill the memory."""
    index = int(rng.choice((2**20, 2**31, 2**32 - 1))).to_bytes(4, "little")
    text = b"X" + (10_000).to_bytes(4, "little") + b"x" * 10_000
    encode = b"c_codecs\nencode\n"
    calls = b"h\x00h\x01\x8c\x06latin1\x86R" * 20_000
    bombs = (
        b"]r" + index + b"j" + index + b"a.",
        b"(p99999999999999999999\n" + bytes(data),
        encode + b"q\x00" + text + b"q\x01" + calls + b".",
        b"]q\x00" + b"(h\x00h\x00e" * 50 + b".",
        b"L" + b"9" * int(rng.choice((50, 100_000))) + b"L\n.",
    )
    return bytearray(bombs[int(rng.integers(len(bombs)))])


def bomb_archive(rng: Rng, data: bytearray) -> bytearray:
    """An .npz whose array inflates a thousandfold, or claims to be far larger than it is."""
    header = io.BytesIO()
    count = int(rng.choice((10**5, 10**9, 10**15)))
    claim = {"descr": "<f8", "fortran_order": False, "shape": (count,)}
    np.lib.format.write_array_header_1_0(header, claim)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("train_audio.npy", header.getvalue() + bytes(8 * 10**5))
    return bytearray(file.getvalue() if rng.random() < 0.5 else header.getvalue())


GENERAL = (truncate, flip_bits, splice, claim_sizes)
READERS: dict[str, tuple[Callable[[Rng], list[bytes]], tuple[Damage, ...]]] = {
    "pickle": (pickles, (*GENERAL, flip_bits, splice, insert_instructions, nest, bomb_memo)),
    "npz": (archives, (*GENERAL, bomb_archive)),
    "npy": (single, (*GENERAL, bomb_archive)),
    "pt": (tensors, (*GENERAL, flip_bits, insert_instructions)),
    "h5": (hdf5s, GENERAL),
}


def damaged(reader: str, case: int) -> bytes:
    """Returns one damaged file; the same case is always the same file."""
    rng = np.random.default_rng([case, *reader.encode()])
    make, damages = READERS[reader]
    files = make(rng)
    data = bytearray(files[case % len(files)])
    for _ in range(int(rng.integers(1, 3))):
        data = damages[int(rng.integers(len(damages)))](rng, data) or bytearray(b"\n")
    return bytes(data)


def outcome(path: Path) -> str:
    """Inspects a file; returns "read" or "refused"; anything else is a bug and raises."""
    try:
        report = inspect(read(path))
    except InputError:
        return "refused"
    assert table(report)
    json.dumps(as_json(report), allow_nan=False)
    return "read"


def forbid(event: str, arguments: object) -> None:
    """Ends the process if a reader tries to run something; for sys.addaudithook."""
    if event.startswith(FORBIDDEN) and hdf5.__file__ not in str(arguments):
        raise SystemExit(f"a reader ran {event}: {arguments}")


def run_cases(reader: str, cases: range, folder: Path) -> tuple[Counter[str], float]:
    """Returns how often each outcome came, and the longest that one took, in seconds."""
    outcomes: Counter[str] = Counter()
    longest = 0.0
    for case in cases:
        path = folder / f"case.{reader}"
        path.write_bytes(damaged(reader, case))
        start = time.perf_counter()
        signal.alarm(SECONDS)  # a reader that hangs ends the process
        outcomes[outcome(path)] += 1
        signal.alarm(0)
        longest = max(longest, time.perf_counter() - start)
    return outcomes, longest


def peak_memory() -> int:
    """Returns the most bytes that this process has taken."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Fuzzes the readers; exit status 1 if any of them failed."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--first", type=int, default=0, help="number of the first file")
    flags.add_argument("--count", type=int, default=10_000, help="files per reader")
    flags.add_argument("--readers", nargs="+", default=list(READERS), choices=list(READERS))
    options = flags.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="fuzz_"))
    print(f"the file that is being read: {folder}/case.*")
    for reader in options.readers:
        damaged(reader, 0)  # imports what is imported late
    sys.addaudithook(forbid)
    before = peak_memory()
    for reader in options.readers:
        cases = range(options.first, options.first + options.count)
        outcomes, longest = run_cases(reader, cases, folder)
        memory = peak_memory() - before
        print(f"{reader}: {dict(outcomes)}, longest {longest:.2f} s, {memory / 2**20:.0f} MiB")
        if memory > MEMORY:
            sys.exit(f"{reader} took more than {MEMORY / 2**20:.0f} MiB")
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
