"""Loaders of the pickled data sets, and two or three functions that belong to no other file.

A file is data[split][modality] with splits train, valid, test and modalities covarep (audio),
facet (video), glove (text), label; iemocap.pkl has the emotion as one more, outer key. Keys may be
bytes (files written by Python 2, the official ones among them) or str. See data/README.md.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from sklearn.metrics import f1_score
from torch import Tensor
from torch.utils.data import Dataset

from data.assembly import assemble, emotions_in, is_synthetic, read_pickle
from data.corpora import CORPORA, SPLITS, UNKNOWN, Corpus
from data.files import InputError as InputError
from data.files import checksum, opened_unchanged
from data.files import printable as printable
from data.kinds import SUFFIXES, command, quoted

EMOTIONS = CORPORA["iemocap"].emotions


class Split(Dataset):
    """One split, its modalities whole in memory.

    An item is [audio, visual, text, label]: of one example for an integer index, of a batch for a
    tensor or slice.

    Shape:
        audio (N, D), visual (N, D), text (N, T, D), label (N, L), all float32.
    """

    def __init__(self, audio: Tensor, visual: Tensor, text: Tensor, label: Tensor) -> None:
        self.audio, self.visual, self.text, self.label = audio, visual, text, label

    def __len__(self) -> int:
        return len(self.label)

    def __getitem__(self, index: int | slice | Tensor) -> list[Tensor]:
        return [part[index] for part in (self.audio, self.visual, self.text, self.label)]

    def to(self, device: torch.device | str) -> Split:
        """Returns the same examples on a device."""
        return Split(*(part.to(device) for part in self[:]))


Splits = tuple[Split, Split, Split, tuple[int, int, int]]


class Loaded(NamedTuple):
    """A data set as it was loaded."""

    train: Split
    valid: Split
    test: Split
    input_dims: tuple[int, int, int]  # features of audio, video and text; 0: left out
    sha256: str  # of the bytes that were read, in hexadecimal
    notes: tuple[str, ...]  # what was set to 0 or dropped, and what is odd; to be printed
    ids: dict[str, list[str]]  # of the splits that have any, an id per example

    @property
    def synthetic(self) -> bool:
        """Whether data/prepare.py made the numbers up."""
        return is_synthetic(self.ids)

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Train, valid and test."""
        return self.train, self.valid, self.test


def load_corpus(
    data_path: str | PathLike[str],
    name: str,
    max_len: int | None = None,
    emotion: str | None = None,
    without: Collection[str] = (),
) -> Loaded:
    """Returns the data set of name.pkl, and the checksum of the very bytes it was read from.

    As `load` does, but nothing is printed: the notes say what there is to say. What
    data/corpora.py knows of the name is checked. What is in `without`, of audio, video and text,
    has no features, and may be missing in the file.

    Raises:
        InputError: The file is missing, damaged, unsafe, doesn't hold such data, or changes while
            it is read.
    """
    path = _in_folder(data_path, name)
    return _load(path, CORPORA.get(name, UNKNOWN), max_len, emotion, checksum, without)


def load(
    path: str | PathLike[str],
    max_len: int | None = None,
    emotion: str | None = None,
    corpus: Corpus = UNKNOWN,
) -> Splits:
    """Returns (train_set, valid_set, test_set, (audio_in, video_in, text_in)) of a pickle.

    NaN and infinite features become 0, and their number is printed.

    Args:
        path: The pickle.
        max_len: Cuts or pads the text to this many steps, keeping the words; None: as in the file.
        emotion: One of the corpus' emotions, if it has any.
        corpus: What is known of the data set, and so checked. By default nothing is: labels (N, L)
            may have any number of columns.

    Raises:
        InputError: The file is missing, damaged, unsafe, or doesn't hold such data.
    """
    loaded = _load(Path(path), corpus, max_len, emotion, lambda file: "")
    for note in loaded.notes:
        print(note)
    return loaded[:4]


def load_mosi(data_path: str | PathLike[str], max_len: int | None = None) -> Splits:
    """Returns (train_set, valid_set, test_set, (audio_in, video_in, text_in)) of mosi.pkl.

    As `load`, from the folder that holds it. Labels are (N, 1): sentiment from -3 to 3.
    """
    return load(_in_folder(data_path, "mosi"), max_len, corpus=CORPORA["mosi"])


def load_pom(data_path: str | PathLike[str], max_len: int | None = None) -> Splits:
    """Returns (train_set, valid_set, test_set, (audio_in, video_in, text_in)) of pom.pkl.

    As `load_mosi`, with labels (N, 16), one column per trait, from 1 to 7. A file with 17 columns
    has Sentiment at index 14, which is dropped.
    """
    return load(_in_folder(data_path, "pom"), max_len, corpus=CORPORA["pom"])


def load_iemocap(
    data_path: str | PathLike[str], emotion: str, max_len: int | None = None
) -> Splits:
    """Returns (train_set, valid_set, test_set, (audio_in, video_in, text_in)) of iemocap.pkl.

    As `load_mosi`, with one-hot labels (N, 2): the emotion (happy, sad, angry or neutral) is
    present or absent.
    """
    return load(_in_folder(data_path, "iemocap"), max_len, emotion, CORPORA["iemocap"])


def require_emotions(data_path: str | PathLike[str]) -> None:
    """Raises InputError unless iemocap.pkl has all emotions."""
    path = _in_folder(data_path, "iemocap")
    data, _ = _read(path, lambda file: "")
    present = emotions_in(data, CORPORA["iemocap"])
    if 0 < len(present) < len(EMOTIONS):
        raise InputError(
            f"{path}: expected {', '.join(EMOTIONS)} for --emotion all, got {', '.join(present)} "
            f"alone; train them one by one: --emotion {present[0]}"
        )


def _load(
    path: Path,
    corpus: Corpus,
    max_len: int | None,
    emotion: str | None,
    digest: Callable[[BinaryIO], str],  # takes as long as reading does: for whoever needs it
    without: Collection[str] = (),
) -> Loaded:
    data, sha256 = _read(path, digest)
    assembled = assemble(path, data, corpus, max_len, emotion, without)
    train, valid, test = (
        Split(*map(torch.from_numpy, assembled.arrays[split].values())) for split in SPLITS
    )
    return Loaded(train, valid, test, assembled.dims, sha256, assembled.notes, assembled.ids)


def _in_folder(data_path: str | PathLike[str], name: str) -> Path:
    if os.path.isfile(data_path):
        raise InputError(
            f"{data_path}: expected the folder that holds {name}.pkl, got a file; name its folder: "
            f"--data_path {quoted(Path(data_path).parent)}"
        )
    return Path(data_path) / f"{name}.pkl"


def _read(path: Path, digest: Callable[[BinaryIO], str]) -> tuple[object, str]:
    """Returns what a pickle holds, and its digest."""
    with opened_unchanged(path, f"no such file; {_how_to_get(path)}") as file:
        return read_pickle(path, file), digest(file)


def _how_to_get(path: Path) -> str:
    if path.stem not in CORPORA:
        return "save the arrays there (docs/own-data.md), or name its folder with --data_path"
    prepare, folder = command("data/prepare.py"), path.parent
    others = [f for f in sorted(folder.glob("*")) if f.suffix in SUFFIXES]
    others = [f for f in others if path.stem in f.name and f.name != path.name]
    if others:
        return (
            f"if the data set is in a file beside it, convert that: {prepare} convert "
            f"{quoted(others[0])} --to {path.stem} -o {quoted(folder)}"
        )
    where = "" if folder == Path("data") else f" --output_path {quoted(folder)}"
    return (
        "put the pickle there, name its folder with --data_path, or make synthetic data: "
        f"{prepare} synthetic {path.stem}{where}"
    )


def total(params: Mapping[str, Sequence[float]]) -> int:
    """Returns how many settings a grid of {hyperparameter: values} has."""
    return math.prod(len(values) for values in params.values())


def correlation(output: np.ndarray, label: np.ndarray) -> float:
    """Returns Pearson's correlation of two (N,), NaN if one of them is constant."""
    if np.ptp(output) == 0 or np.ptp(label) == 0:
        return math.nan
    return float(np.corrcoef(output, label)[0, 1])


def accuracy(output: np.ndarray, label: np.ndarray) -> float:
    """Returns how often two (N,) agree, NaN where the labels are all of one class."""
    return float((output == label).mean()) if _several(label) else math.nan


def weighted_f1(output: np.ndarray, label: np.ndarray) -> float:
    """Returns the F1 of each class, weighted by its share; NaN where there is one class only."""
    return float(f1_score(label, output, average="weighted")) if _several(label) else math.nan


def binary_f1(output: np.ndarray, label: np.ndarray) -> float:
    """Returns the F1 of what is true in two boolean (N,); NaN where there is one class only."""
    return float(f1_score(label, output)) if _several(label) else math.nan


def _several(label: np.ndarray) -> bool:
    return len(np.unique(label)) > 1
