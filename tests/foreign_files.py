"""Writes small files of the layouts and kinds that people have in the place of a data set."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch

SIZES = {"train": 9, "valid": 4, "test": 5}
Splits = dict[str, dict[str, np.ndarray]]  # audio, video, text (N, T, D) and label by split
WORDS = ("good", "bad", "so", "film")


def renamed(
    splits: Splits, names: dict[str, str], form: str = "{split}/{role}"
) -> dict[str, np.ndarray]:
    """Returns all arrays in one dict, their splits and roles called by other names."""
    return {
        form.format(split=names.get(split, split), role=names.get(role, role)): array
        for split, parts in splits.items()
        for role, array in parts.items()
    }


def nested(flat: dict[str, np.ndarray], kind: Callable[[], dict] = dict) -> dict[str, dict]:
    """Returns arrays named a/b as dicts in a dict of a kind."""
    data = kind()
    for name, array in flat.items():
        split, role = name.split("/")
        data.setdefault(split, kind())[role] = array
    return data


def ragged(splits: Splits, container: Callable[[list], object]) -> dict[str, dict]:
    """Returns sequences without their padding, of each example its own."""
    data: dict[str, dict] = {}
    for split, parts in splits.items():
        words = np.any(parts["text"], axis=2)
        data[split] = {
            role: container([steps[kept] for steps, kept in zip(array, words, strict=True)])
            for role, array in parts.items()
            if role != "label"
        }
        data[split]["label"] = parts["label"]
    return data


def objects(arrays: list) -> np.ndarray:
    """Returns arrays of different lengths as numpy keeps them, in an array of objects."""
    made = np.empty(len(arrays), dtype=object)
    made[:] = arrays
    return made


def examples(splits: Splits, text: Callable[[np.ndarray], tuple]) -> dict[str, list]:
    """Returns what MISA and MAG-BERT have: ((words, visual, acoustic), label, segment)."""
    return {
        "dev" if split == "valid" else split: [
            (
                (text(words)[0], video, audio, *text(words)[1:]),
                label.reshape(1, 1),
                f"{split}[{i}]",
            )
            for i, (audio, video, words, label) in enumerate(zip(*parts.values(), strict=True))
        ]
        for split, parts in splits.items()
    }


def tokens(words: np.ndarray) -> list[str]:
    """Returns words, one for each vector."""
    return [WORDS[i % len(WORDS)] for i in range(len(words))]


def dumped(data: object) -> Callable[[Path], object]:
    """Returns what writes a pickle to a path."""
    return lambda path: path.write_bytes(pickle.dumps(data))


def pickles(files: Mapping[str, object]) -> Callable[[Path], object]:
    """Returns what makes a folder of pickles."""

    def write(path: Path) -> None:
        path.mkdir()
        for name, data in files.items():
            (path / f"{name}.pkl").write_bytes(pickle.dumps(data))

    return write


def tensors(flat: dict[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """Returns arrays as tensors."""
    return {name: torch.from_numpy(array) for name, array in flat.items()}


def layouts(splits: Splits) -> dict[str, Callable[[Path], object]]:
    """Returns writers of the same MOSI data set in many layouts, by file name."""
    mult = {"video": "vision", "label": "labels"}
    release = {"audio": "covarep", "video": "facet", "text": "glove"}
    named = renamed(splits, {}, "{split}_{role}")
    by_split = nested(renamed(splits, {}))
    return {
        "dev.pkl": dumped(nested(renamed(splits, {**mult, "valid": "dev"}))),
        "val.pkl": dumped(nested(renamed(splits, {**mult, "valid": "val", "video": "visual"}))),
        "validation.pkl": dumped(nested(renamed(splits, {"valid": "validation"}))),
        "ordered.pkl": dumped(nested(renamed(splits, mult), OrderedDict)),
        "default.pkl": dumped(nested(renamed(splits, mult), lambda: defaultdict(dict))),
        "release.pkl": dumped(nested(renamed(splits, release))),
        "turned.npz": lambda path: np.savez(
            path, allow_pickle=False, **renamed(splits, mult, "{role}_{split}")
        ),
        "named.pkl": dumped(named),
        "named.pt": lambda path: torch.save(tensors(named), path),
        "old.pt": lambda path: torch.save(
            tensors(named), path, _use_new_zipfile_serialization=False
        ),
        "arrays": pickles(named),
        "splits": pickles(by_split),
        "alone": pickles({"mosi_data": by_split}),
        "ragged.pkl": dumped(ragged(splits, list)),
        "objects.pkl": dumped(ragged(splits, objects)),
        "misa.pkl": dumped(examples(splits, lambda words: (words,))),
        "misa": pickles(examples(splits, lambda words: (words,))),
    }


def crlf(content: bytes) -> bytes:
    """Returns what a transfer in text mode makes of a file."""
    return content.replace(b"\n", b"\r\n")


def saved(save: Callable[..., object], *values: object, **named: object) -> bytes:
    """Returns the file that a function writes."""
    file = io.BytesIO()
    save(*values, file, **named) if save is torch.save else save(file, *values, **named)
    return file.getvalue()


def wrong_kinds() -> dict[str, tuple[bytes, str]]:
    """Returns files that are no data, with what is to be said of them, by name."""
    content = pickle.dumps({"train": {"audio": np.arange(2000.0)}}, protocol=0)
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("mosi/readme.txt", "text")
    rows = np.array([np.ones(2), np.ones(3)], dtype=object)
    npz = saved(np.savez, train_audio=np.arange(2000).reshape(20, 100))
    return {
        "lfs.pkl": (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:9640\nsize 368824398\n",
            "a Git LFS pointer in its place; fetch the file: git -C .* lfs pull --include lfs.pkl",
        ),
        "page.pkl": (b"<!DOCTYPE html><html>", "a web page"),
        "page.npz": (b"\n <html>", "a web page"),
        "a.pkl": (gzip.compress(content), r"compressed by gzip; unpack it: gzip -dc .*a\.pkl > "),
        "a.xz": (lzma.compress(content), "compressed by xz; unpack it: xz -dc"),
        "a.bz2": (bz2.compress(content), "compressed by bzip2; unpack it: bzip2 -dc"),
        "a.zip": (archive.getvalue(), "a zip archive; unpack it: unzip"),
        "empty.pkl": (b"", "an empty file; get it again"),
        "empty.h5": (b"", "an empty file; get it again"),
        "text.pkl": (crlf(content), "line ends became CR LF"),
        "text.npz": (crlf(npz), "line ends became CR LF"),
        "text.npy": (crlf(saved(np.save, np.arange(2600))), "line ends became CR LF"),
        "objects.npz": (
            saved(np.savez, allow_pickle=True, train_audio=rows),
            "train_audio is an array of object.*save its numbers: numpy.savez",
        ),
        "class.pkl": (
            pickle.dumps(Fraction(1, 2)),
            r"it names fractions\.Fraction.*save its arrays with numpy.savez, and convert",
        ),
        "pandas.pkl": (
            b"cpandas.core.frame\nDataFrame\n.",
            r"it names pandas\.core\.frame\.DataFrame",
        ),
        "class.pt": (saved(torch.save, {"a": Fraction(1, 2)}), "got other objects, .* numpy.savez"),
        "cut.pkl": (content[:-9], "a damaged or other file"),
        "cut.npz": (npz[:-40], "a damaged or other file"),
        "cut.pt": (saved(torch.save, {"a": torch.ones(99)})[:-9], "a damaged or other file"),
    }
