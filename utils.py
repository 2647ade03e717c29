"""Loaders of the pickled data sets, and two or three functions that belong to no other file.

A file is data[split][modality] with splits train, valid, test and modalities covarep (audio),
facet (video), glove (text), label; iemocap.pkl has the emotion as one more, outer key. Keys may be
bytes (files written by Python 2, the official ones among them) or str. See data/README.md.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.checks import label_notes, refuse_token_numbers
from data.corpora import CORPORA, MODALITIES, ROLES, SPLITS, Corpus
from data.files import InputError as InputError
from data.files import checksum as checksum_of
from data.files import open_regular, opened_unchanged
from data.files import printable as printable
from data.pickles import PickleError, UnsafePickle, load_pickle

EMOTIONS = CORPORA["iemocap"].emotions

Arrays = dict[str, dict[str, np.ndarray]]  # by split and modality


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
    """A data set as it was loaded.

    Attributes:
        train: The split to train on.
        valid: The split that chooses.
        test: The split that is reported.
        input_dims: Features of audio, video and text.
        sha256: Of the bytes that were read, in hexadecimal; empty where nobody asked for it.
        notes: What was set to 0 or dropped, and what is odd about the data; to be printed.
    """

    train: Split
    valid: Split
    test: Split
    input_dims: tuple[int, int, int]
    sha256: str
    notes: tuple[str, ...]

    @property
    def splits(self) -> tuple[Split, Split, Split]:
        """Train, valid and test."""
        return self.train, self.valid, self.test


def load_corpus(
    data_path: str | PathLike[str],
    name: str,
    max_len: int | None = None,
    emotion: str | None = None,
) -> Loaded:
    """Returns a data set of data/corpora.py, and the checksum of the very bytes it was read from.

    Args:
        data_path: The folder that holds its pickle.
        name: The data set's.
        max_len: Cuts or pads the text to this many steps, keeping the words; None: as in the file.
        emotion: Whose labels, in a file that has several.

    NaN and infinite features become 0. Nothing is printed: the notes say what there is to say.

    Raises:
        InputError: The file is missing, damaged, unsafe, doesn't hold such data, or changes while
            it is read.
    """
    path = _pickle_in(data_path, name)
    with opened_unchanged(path, _missing(name)) as file:
        data = read_pickle(path, file)
        sha256 = checksum_of(file)
    return assemble(path, data, CORPORA[name], max_len, emotion, sha256)


def load_mosi(data_path: str | PathLike[str], max_len: int | None = None) -> Splits:
    """Returns (train_set, valid_set, test_set, (audio_in, video_in, text_in)) of mosi.pkl.

    Args:
        data_path: The folder that holds the pickle.
        max_len: Cuts or pads the text to this many steps, keeping the words; None: as in the file.

    NaN and infinite features become 0, and their number is printed.

    Shape:
        Labels are (N, 1): sentiment from -3 to 3.

    Raises:
        InputError: The file is missing, damaged, unsafe, or doesn't hold such data.
    """
    return _load_and_print(data_path, "mosi", max_len)


def load_pom(data_path: str | PathLike[str], max_len: int | None = None) -> Splits:
    """Returns (train_set, valid_set, test_set, (audio_in, video_in, text_in)) of pom.pkl.

    As `load_mosi`, with labels (N, 16), one column per trait, from 1 to 7. A file with 17 columns
    has Sentiment at index 14, which is dropped.
    """
    return _load_and_print(data_path, "pom", max_len)


def load_iemocap(
    data_path: str | PathLike[str], emotion: str, max_len: int | None = None
) -> Splits:
    """Returns (train_set, valid_set, test_set, (audio_in, video_in, text_in)) of iemocap.pkl.

    As `load_mosi`, with one-hot labels (N, 2): the emotion (happy, sad, angry or neutral) is
    present or absent.
    """
    return _load_and_print(data_path, "iemocap", max_len, emotion)


def _load_and_print(
    data_path: str | PathLike[str], name: str, max_len: int | None, emotion: str | None = None
) -> Splits:
    path = _pickle_in(data_path, name)
    with opened_unchanged(path, _missing(name)) as file:
        data = read_pickle(path, file)
    loaded = assemble(path, data, CORPORA[name], max_len, emotion)
    for note in loaded.notes:
        print(note)
    return *loaded.splits, loaded.input_dims


def _pickle_in(data_path: str | PathLike[str], name: str) -> Path:
    if os.path.isfile(data_path):
        raise InputError(
            f"{data_path}: expected the folder that holds {name}.pkl, got a file; name its folder, "
            f"{Path(data_path).parent}"
        )
    return Path(data_path) / f"{name}.pkl"


def _missing(name: str) -> str:
    return (
        "no such file; put the pickle there, name its folder with --data_path, or make synthetic "
        f"data: python data/prepare.py synthetic {name}"
    )


def total(params: Mapping[str, Sequence[float]]) -> int:
    """Returns how many settings a grid of {hyperparameter: values} has."""
    return math.prod(len(values) for values in params.values())


def correlation(output: np.ndarray, label: np.ndarray) -> float:
    """Returns Pearson's correlation of two (N,), NaN if one of them is constant."""
    if np.ptp(output) == 0 or np.ptp(label) == 0:
        return math.nan
    return float(np.corrcoef(output, label)[0, 1])


def checksum(path: Path) -> str:
    """Returns the SHA-256 of a file, in hexadecimal."""
    with open_regular(path) as file:
        return checksum_of(file)


def read_pickle(path: Path, file: BinaryIO) -> object:
    """Returns what a pickle holds, without ever running code from it.

    Args:
        path: What errors call it.
        file: It, open for reading.

    Raises:
        InputError: It is no whole pickle, or names a class beside numpy arrays.
    """
    try:
        return load_pickle(file)
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
    except UnsafePickle as error:
        raise InputError(f"{path}: {printable(str(error))}") from None
    except PickleError as error:
        raise InputError(
            f"{path}: expected a whole pickle, got a damaged or other file "
            f"({printable(str(error))}); compare its size and checksum with data/README.md"
        ) from None


def assemble(
    path: Path,
    data: object,
    corpus: Corpus,
    max_len: int | None = None,
    emotion: str | None = None,
    sha256: str = "",
) -> Loaded:
    """Returns the data set that a pickle's contents are, as the train scripts take it.

    Args:
        path: What errors and notes call the file.
        data: Its contents.
        corpus: Which data set it is to be.
        max_len: As for `load_corpus`.
        emotion: As for `load_corpus`.
        sha256: Of the file.

    Raises:
        InputError: The contents are no such data.
    """
    if corpus.emotions:
        if emotion not in corpus.emotions:
            names = ", ".join(corpus.emotions)
            raise InputError(f"emotion: expected one of {names}, got {emotion!r}")
        data = _member(data, emotion, path, "the file")
    raw: Arrays = {
        split: {
            modality: _array(path, data, split, modality, ndim)
            for modality, ndim in zip(MODALITIES, (2, 2, 3, 2), strict=True)
        }
        for split in SPLITS
    }
    _check(path, raw, corpus)
    name = f"{path}: {emotion}" if emotion else str(path)
    notes = [*_clean(raw, corpus), *_empty(raw)]
    notes += label_notes(corpus, {split: arrays["label"] for split, arrays in raw.items()})
    if max_len is not None:
        _set_length(raw, max_len, corpus)
    train, valid, test = (
        Split(*(torch.from_numpy(array) for array in raw[split].values())) for split in SPLITS
    )
    dims = (train.audio.shape[1], train.visual.shape[1], train.text.shape[2])
    said = tuple(f"{name}: {note}" for note in notes)
    return Loaded(train, valid, test, dims, sha256, said)


def _member(data: object, key: str, path: Path, where: str) -> object:
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: expected {where} to be a dict with the key {key!r}, got {_kind(data)}"
        )
    for candidate in (key, key.encode()):
        if candidate in data:
            return data[candidate]
    names = (k.decode(errors="replace") if isinstance(k, bytes) else str(k) for k in data)
    found = ", ".join(printable(name[:80]) for name in islice(names, 10))
    raise InputError(f"{path}: expected the key {key!r} in {where}, got {found or 'no keys'}")


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    return f"a {type(value).__name__}"


def _array(path: Path, data: object, split: str, modality: str, ndim: int) -> np.ndarray:
    where = f"{split}/{modality}"
    array = _member(_member(data, split, path, "the file"), modality, path, split)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or array.ndim != ndim:
        shape = {2: "(N, D)", 3: "(N, T, D)"}[ndim]
        raise InputError(
            f"{path}: expected {where} to be a numeric array {shape}, got {_kind(array)}"
        )
    if 0 in array.shape:
        raise InputError(f"{path}: expected examples in {where}, got shape {array.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)  # what is too large for that is infinite from here on


def _check(path: Path, raw: Arrays, corpus: Corpus) -> None:
    for split, arrays in raw.items():
        counts = {modality: len(array) for modality, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"{path}: expected equally many examples in {split}, got {counts}")
        for modality, array in arrays.items():
            expected = raw["train"][modality].shape[1:]
            if array.shape[1:] != expected:
                raise InputError(
                    f"{path}: expected {split}/{modality} to be {('N', *expected)} as in train, "
                    f"got {array.shape}"
                )
        refuse_token_numbers(f"{path}: {split}/glove", arrays["glove"])
    if len(raw["train"]["label"]) < 2:
        raise InputError(f"{path}: expected at least 2 training examples, got 1")
    _check_labels(path, raw, corpus)


def _check_labels(path: Path, raw: Arrays, corpus: Corpus) -> None:
    columns = raw["train"]["label"].shape[1]
    if columns not in corpus.columns_in_files:
        raise InputError(
            f"{path}: expected labels with {corpus.label_columns} columns, got {columns}"
        )
    for split, arrays in raw.items():
        label = arrays["label"]
        if bad := int((~np.isfinite(label)).any(axis=1).sum()):
            raise InputError(
                f"{path}: expected finite labels in single precision, got NaN or inf in {bad} of "
                f"{split}'s; remove those examples"
            )
        if corpus.emotions and not (np.isin(label, (0, 1)).all() and (label.sum(1) == 1).all()):
            raise InputError(f"{path}: expected one-hot labels in {split}, got other values")


def _clean(raw: Arrays, corpus: Corpus) -> Iterator[str]:
    """Sets NaN and inf features to 0, drops a column too many, and yields what it did."""
    for modality, role in zip(MODALITIES[:3], ROLES[:3], strict=True):
        found = []
        for split, arrays in raw.items():
            array = arrays[modality]
            nan, inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
            if nan or inf:
                np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
                found.append(f"{split} {nan} NaN, {inf} inf")
        if found:
            yield f"{role}: values set to 0: {'; '.join(found)}"
    if raw["train"]["label"].shape[1] > corpus.label_columns:
        for arrays in raw.values():
            arrays["label"] = corpus.without_extra(arrays["label"])
        yield corpus.extra_note


def _empty(raw: Arrays) -> Iterator[str]:
    for modality, role in zip(MODALITIES[:3], ROLES[:3], strict=True):
        if splits := [split for split, arrays in raw.items() if not arrays[modality].any()]:
            yield f"{role}: every value is 0 in {', '.join(splits)}"


def _set_length(raw: Arrays, length: int, corpus: Corpus) -> None:
    """Cuts or pads the texts to this many steps."""
    in_front = padded_in_front([arrays["glove"] for arrays in raw.values()])
    in_front = corpus.padded_in_front if in_front is None else in_front
    size = sum(length * arrays["glove"][:, 0].nbytes for arrays in raw.values())
    try:
        if size > sys.maxsize:
            raise MemoryError  # numpy's own errors differ
        for arrays in raw.values():
            arrays["glove"] = _with_length(arrays["glove"], length, in_front)
    except MemoryError:
        raise InputError(
            f"max_len: expected a length whose texts fit into the memory, got {length:,}, which "
            f"takes {size // 2**30:,} GiB"
        ) from None


def padded_in_front(texts: Sequence[np.ndarray]) -> bool | None:
    """Returns whether sequences (N, T, D) are padded with zeros in front, None if not at all."""
    front = sum(int((~text[:, 0].any(axis=1)).sum()) for text in texts)
    end = sum(int((~text[:, -1].any(axis=1)).sum()) for text in texts)
    return None if front == end else front > end


def _with_length(text: np.ndarray, length: int, in_front: bool) -> np.ndarray:
    """Cuts (N, T, D) to length steps, or pads it with zeros, on the side of its padding."""
    steps = text.shape[1]
    if length <= steps:
        return np.ascontiguousarray(text[:, steps - length :] if in_front else text[:, :length])
    missing = length - steps
    return np.pad(text, ((0, 0), (missing, 0) if in_front else (0, missing), (0, 0)))
