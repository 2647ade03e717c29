"""Loaders of the pickled data sets, and two or three functions that belong to no other file.

A file is data[split][modality] with splits train, valid, test and modalities covarep (audio),
facet (video), glove (text), label; iemocap.pkl has the emotion as one more, outer key. Keys may be
bytes (files written by Python 2, the official ones among them) or str. See data/README.md.
"""

from __future__ import annotations

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from data.files import InputError as InputError
from data.files import printable as printable
from data.pickles import PickleError, UnsafePickle, load_pickle

EMOTIONS = ("happy", "sad", "angry", "neutral")
SPLITS = ("train", "valid", "test")
POM_SENTIMENT = 14  # column of the trait that 17-column copies of POM have and the paper doesn't


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


class _Corpus(NamedTuple):
    name: str
    label_columns: int
    padded_in_front: bool  # where a file without any padding would have it


_MOSI = _Corpus("mosi", 1, True)
_IEMOCAP = _Corpus("iemocap", 2, False)
_POM = _Corpus("pom", 16, True)


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
    path = Path(data_path) / "mosi.pkl"
    return _load(path, read_pickle(path), _MOSI, max_len)


def load_pom(data_path: str | PathLike[str], max_len: int | None = None) -> Splits:
    """Returns (train_set, valid_set, test_set, (audio_in, video_in, text_in)) of pom.pkl.

    As `load_mosi`, with labels (N, 16), one column per trait, from 1 to 7. A file with 17 columns
    has Sentiment at index 14, which is dropped.
    """
    path = Path(data_path) / "pom.pkl"
    return _load(path, read_pickle(path), _POM, max_len)


def load_iemocap(
    data_path: str | PathLike[str], emotion: str, max_len: int | None = None
) -> Splits:
    """Returns (train_set, valid_set, test_set, (audio_in, video_in, text_in)) of iemocap.pkl.

    As `load_mosi`, with one-hot labels (N, 2): the emotion (happy, sad, angry or neutral) is
    present or absent.
    """
    if emotion not in EMOTIONS:
        raise InputError(f"emotion: expected one of {', '.join(EMOTIONS)}, got {emotion!r}")
    path = Path(data_path) / "iemocap.pkl"
    return _load(path, _member(read_pickle(path), emotion, path, "the file"), _IEMOCAP, max_len)


def total(params: Mapping[str, Sequence[float]]) -> int:
    """Returns how many settings a grid of {hyperparameter: values} has."""
    return math.prod(len(values) for values in params.values())


def correlation(output: np.ndarray, label: np.ndarray) -> float:
    """Returns Pearson's correlation of two (N,), NaN if one of them is constant."""
    if np.ptp(output) == 0 or np.ptp(label) == 0:
        return math.nan
    return float(np.corrcoef(output, label)[0, 1])


def checksum(path: Path, progress: Callable[[int], object] | None = None) -> str:
    """Returns the SHA-256 of a file, in hexadecimal; progress is told of bytes as they are read."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
            if progress is not None:
                progress(len(block))
    return digest.hexdigest()


def read_pickle(path: Path) -> object:
    """Returns what a pickle holds, without ever running code from it.

    Raises:
        InputError: The file is missing, is no whole pickle, or names a class beside numpy arrays.
    """
    try:
        return load_pickle(path)
    except FileNotFoundError:
        raise InputError(
            f"{path}: no such file; put the pickle there, name its folder with --data_path, or "
            f"make synthetic data: python data/prepare.py synthetic {path.stem}"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None
    except UnsafePickle as error:
        raise InputError(f"{path}: {error}") from None
    except PickleError as error:
        raise InputError(
            f"{path}: expected a whole pickle, got a damaged or other file ({error}); "
            "compare its size and checksum with data/README.md"
        ) from None


def _member(data: object, key: str, path: Path, where: str) -> object:
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: expected {where} to be a dict with the key {key!r}, got {_kind(data)}"
        )
    for candidate in (key, key.encode()):
        if candidate in data:
            return data[candidate]
    names = (k.decode(errors="replace") if isinstance(k, bytes) else str(k) for k in data)
    found = ", ".join(islice(names, 10))
    raise InputError(f"{path}: expected the key {key!r} in {where}, got {found or 'no keys'}")


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    return f"a {type(value).__name__}"


def _load(path: Path, data: object, corpus: _Corpus, max_len: int | None) -> Splits:
    raw = {
        split: {
            modality: _array(path, data, split, modality, ndim)
            for modality, ndim in (("covarep", 2), ("facet", 2), ("glove", 3), ("label", 2))
        }
        for split in SPLITS
    }
    _check(path, raw, corpus)
    for note in _clean(path, raw, corpus):
        _print_once(note)
    if max_len is not None:
        in_front = padded_in_front([raw[split]["glove"] for split in SPLITS])
        in_front = corpus.padded_in_front if in_front is None else in_front
        for arrays in raw.values():
            arrays["glove"] = _with_length(arrays["glove"], max_len, in_front)
    train, valid, test = (
        Split(*(torch.from_numpy(array) for array in raw[split].values())) for split in SPLITS
    )
    dims = (train.audio.shape[1], train.visual.shape[1], train.text.shape[2])
    return train, valid, test, dims


@functools.cache
def _print_once(note: str) -> None:
    print(note)  # the four emotions share their features


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
    with np.errstate(
        over="ignore", invalid="ignore"
    ):  # too large for float32: infinite from here on
        return array.astype(np.float32)


def _check(path: Path, raw: dict[str, dict[str, np.ndarray]], corpus: _Corpus) -> None:
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
        if not np.isfinite(arrays["label"]).all():
            bad = int((~np.isfinite(arrays["label"])).any(axis=1).sum())
            raise InputError(
                f"{path}: expected finite labels, got NaN or inf in {bad} of {split}'s; "
                "remove those examples"
            )
    if len(raw["train"]["label"]) < 2:
        raise InputError(f"{path}: expected at least 2 training examples, got 1")
    columns = raw["train"]["label"].shape[1]
    if columns != corpus.label_columns and (corpus.name, columns) != ("pom", 17):
        raise InputError(
            f"{path}: expected labels with {corpus.label_columns} columns, got {columns}"
        )
    if corpus is _IEMOCAP:
        for split, arrays in raw.items():
            if not np.isin(arrays["label"], (0, 1)).all() or (arrays["label"].sum(1) != 1).any():
                raise InputError(f"{path}: expected one-hot labels in {split}, got other values")


def _clean(path: Path, raw: dict[str, dict[str, np.ndarray]], corpus: _Corpus) -> Iterator[str]:
    """Sets NaN and inf features to 0, drops POM's 17th column, and yields what it did."""
    for modality, name in (("covarep", "audio"), ("facet", "video"), ("glove", "text")):
        found = []
        for split in SPLITS:
            array = raw[split][modality]
            nan, inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
            if nan or inf:
                np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
                found.append(f"{split} {nan} NaN, {inf} inf")
        if found:
            yield f"{path}: {name}: values set to 0: {'; '.join(found)}"
    if corpus is _POM and raw["train"]["label"].shape[1] == 17:
        for arrays in raw.values():
            arrays["label"] = np.delete(arrays["label"], POM_SENTIMENT, axis=1)
        yield f"{path}: labels have 17 columns: Sentiment (index {POM_SENTIMENT}) is dropped"


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
