"""Turns what a pickle holds into the arrays that training takes, or says why it can't."""

from __future__ import annotations

import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from data.checks import label_notes, refuse_token_numbers
from data.corpora import MODALITIES, ROLES, SPLITS, SYNTHETIC, Corpus
from data.files import InputError, printable
from data.kinds import refusal
from data.pickles import PickleError, UnsafePickle, load_pickle

Arrays = dict[str, dict[str, np.ndarray]]  # by split and modality
_ID_PARTS = (str, bytes, int, float, np.generic, type(None))
SYNTHETIC_NOTE = "synthetic data: made-up numbers, whose scores don't compare with the paper's"
_FEATURES: dict[str, str] = dict(zip(MODALITIES[:3], ROLES[:3], strict=True))


class Assembled(NamedTuple):
    """A data set's arrays, all in single precision."""

    arrays: Arrays
    notes: tuple[str, ...]  # what was set to 0 or dropped, and what is odd about the data
    ids: dict[str, list[str]]  # of the splits that have any

    @property
    def remarks(self) -> tuple[str, ...]:
        """The notes, and before them that the data are synthetic, if they are."""
        return (*[SYNTHETIC_NOTE] * is_synthetic(self.ids), *self.notes)

    @property
    def examples(self) -> tuple[int, ...]:
        """How many there are in train, valid and test."""
        return tuple(len(arrays["label"]) for arrays in self.arrays.values())

    @property
    def dims(self) -> tuple[int, int, int]:
        """Features of audio, video and text; 0 where one is left out."""
        audio, video, text = (self.arrays["train"][modality] for modality in MODALITIES[:3])
        return audio.shape[1], video.shape[1], text.shape[2]


def is_synthetic(ids: Mapping[str, Sequence[str]]) -> bool:
    """Returns whether data/prepare.py made the numbers up, by the examples' ids in each split."""
    return any(name.startswith(SYNTHETIC) for names in ids.values() for name in names)


def read_pickle(path: Path, file: BinaryIO) -> object:
    """Returns what an open pickle holds, without ever running code from it.

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
        raise refusal(path, file, "a whole pickle", str(error)) from None


def assemble(
    path: Path,
    data: object,
    corpus: Corpus,
    max_len: int | None = None,
    emotion: str | None = None,
    without: Collection[str] = (),
    only: str | None = None,
) -> Assembled:
    """Returns the data set that a pickle's contents are, as the train scripts take it.

    Errors and notes call the file by its path. max_len cuts or pads the text to so many steps.
    What is in `without`, of audio, video and text, is not looked at, and has no features.
    One split alone, if `only` names it, may lack the label.

    Raises:
        InputError: The contents are no such data.
    """
    if corpus.emotions:
        if emotion not in corpus.emotions:
            names = ", ".join(corpus.emotions)
            raise InputError(f"emotion: expected one of {names}, got {emotion!r}")
        data = _member(data, emotion, path)
    splits = (only,) if only else SPLITS
    parts = {split: _member(data, split, path) for split in splits}
    labelled = not only or "label" in cast(dict, parts[only])
    raw: Arrays = {split: _split(path, data, split, without, labelled) for split in splits}
    _check(path, raw)
    name = f"{path}: {emotion}" if emotion else str(path)
    notes = list(_clean(raw))
    if labelled:
        _check_labels(path, raw, corpus)
        labels = {split: arrays["label"] for split, arrays in raw.items()}
        for split, label in corpus.without_extra(labels, notes).items():
            raw[split]["label"] = label
    if not only:
        notes += label_notes(corpus, {split: arrays["label"] for split, arrays in raw.items()})
    ids = {split: _ids(parts[split], len(raw[split]["glove"])) for split in splits}
    notes += [f"{split}/id: not one per example: left out" for split in splits if ids[split] == []]
    if max_len is not None and "text" not in without:
        _set_length(raw, max_len, corpus)
    found = {split: names for split, names in ids.items() if names}
    return Assembled(raw, tuple(f"{name}: {note}" for note in notes), found)


def assemble_all(
    path: Path, data: object, corpus: Corpus, without: Collection[str] = ()
) -> Assembled:
    """Returns what `assemble` does of the last emotion, if there are any, with the notes on all.

    Raises:
        InputError: The contents are no such data, for one of the emotions.
    """
    present = emotions_in(data, corpus)
    absent = set(corpus.emotions) - set(present)
    *others, last = present or corpus.emotions or (None,)
    notes = [
        note
        for name in others
        for note in assemble(path, data, corpus, emotion=name, without=without).notes
    ]
    if absent and present:
        notes.append(f"{path}: only for --emotion {' or '.join(present)}: it has no others")
    notes += [f"{path}: it has no {role}: only for --without {role}" for role in without]
    assembled = assemble(path, data, corpus, emotion=last, without=without)
    return assembled._replace(notes=(*notes, *assembled.notes))


def emotions_in(data: object, corpus: Corpus) -> list[str]:
    """Returns which of a data set's emotions a pickle's contents have."""
    keys = data if isinstance(data, dict) else ()
    return [name for name in corpus.emotions if name in keys or name.encode() in keys]


def _member(data: object, key: str, path: Path, where: str = "the file", hint: str = "") -> object:
    if not isinstance(data, dict):
        raise InputError(
            f"{path}: expected {where} to be a dict with the key {key!r}, got {_kind(data)}"
        )
    for candidate in (key, key.encode()):
        if candidate in data:
            return data[candidate]
    found = ", ".join(printable(_name(key)[:80]) for key in islice(data, 10))
    raise InputError(f"{path}: expected the key {key!r} in {where}, got {found or 'no keys'}{hint}")


def _ids(parts: object, count: int) -> list[str] | None:
    """Returns a split's ids, none if they don't fit, None if there are none."""
    assert isinstance(parts, dict)
    value = parts.get("id", parts.get(b"id"))
    return None if value is None else ids_of(value, count) or []


def ids_of(value: object, count: int) -> list[str] | None:
    """Returns a printable id per example, None if that is not what a file's value is.

    An example's id may have parts, as video, start and end, which are joined.
    """
    if isinstance(value, np.ndarray):
        value = list(value) if value.ndim else []
    if not isinstance(value, list) or len(value) != count:
        return None
    rows = [row if isinstance(row, list | tuple | np.ndarray) else [row] for row in value]
    if not all(isinstance(part, _ID_PARTS) for row in rows for part in row):
        return None
    return ["_".join(printable(_name(part)) for part in row) for row in rows]


def _name(part: object) -> str:
    return part.decode(errors="replace") if isinstance(part, bytes) else str(part)


def _kind(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} {value.shape}"
    return f"a {type(value).__name__}"


def _split(
    path: Path, data: object, split: str, without: Collection[str], labelled: bool
) -> dict[str, np.ndarray]:
    wanted = MODALITIES if labelled else MODALITIES[:3]
    kept = [modality for modality in wanted if _FEATURES.get(modality) not in without]
    arrays = {modality: _array(path, data, split, modality) for modality in kept}
    count = len(arrays[kept[-1]])
    for modality in set(wanted) - set(kept):
        arrays[modality] = np.zeros((count, 0, 0)[: _ndim(modality)], np.float32)
    return {modality: arrays[modality] for modality in wanted}


def _ndim(modality: str) -> int:
    return 3 if modality == "glove" else 2


def _array(path: Path, data: object, split: str, modality: str) -> np.ndarray:
    where, ndim = f"{split}/{modality}", _ndim(modality)
    role = _FEATURES.get(modality)
    hint = f"; --without {role} trains without it" if role else ""
    array = _member(_member(data, split, path), modality, path, split, hint)
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiub" or array.ndim != ndim:
        shape = "(N, T, D)" if ndim == 3 else "(N, D)"
        raise InputError(
            f"{path}: expected {where} to be a numeric array {shape}, got {_kind(array)}"
        )
    if 0 in array.shape:
        raise InputError(f"{path}: expected examples in {where}, got shape {array.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        return array.astype(np.float32)  # what is too large for that is infinite from here on


def _check(path: Path, raw: Arrays) -> None:
    first = next(iter(raw.values()))
    for split, arrays in raw.items():
        counts = {f"{split}/{modality}": len(array) for modality, array in arrays.items()}
        if len(set(counts.values())) > 1:
            raise InputError(f"{path}: expected equally many examples in {split}, got {counts}")
        for modality, array in arrays.items():
            expected = first[modality].shape[1:]
            if array.shape[1:] != expected:
                raise InputError(
                    f"{path}: expected {split}/{modality} to be {('N', *expected)} as in train, "
                    f"got {array.shape}"
                )
        refuse_token_numbers(f"{path}: {split}/glove", arrays["glove"])
    if len(raw) > 1 and len(first["glove"]) < 2:
        raise InputError(f"{path}: expected at least 2 training examples, got 1")


def _check_labels(path: Path, raw: Arrays, corpus: Corpus) -> None:
    columns = next(iter(raw.values()))["label"].shape[1]
    if corpus.label_columns and columns not in corpus.columns_in_files:
        raise InputError(
            f"{path}: expected labels with {corpus.label_columns} columns, got {columns}"
        )
    for split, arrays in raw.items():
        label = arrays["label"]
        if bad := int((~np.isfinite(label)).any(axis=1).sum()):
            raise InputError(
                f"{path}: expected finite labels in single precision, got NaN or inf in {bad} of "
                f"{split}/label; remove those examples"
            )
        if corpus.emotions and not (np.isin(label, (0, 1)).all() and (label.sum(1) == 1).all()):
            raise InputError(f"{path}: expected one-hot labels in {split}/label, got others")


def _clean(raw: Arrays) -> Iterator[str]:
    """Sets NaN and inf features to 0, and yields what is to be said."""
    for modality, role in _FEATURES.items():
        found = []
        for split, arrays in raw.items():
            array = arrays[modality]
            nan, inf = int(np.isnan(array).sum()), int(np.isinf(array).sum())
            if nan or inf:
                np.nan_to_num(array, copy=False, nan=0.0, posinf=0.0, neginf=0.0)
                found.append(f"{split} {nan} NaN, {inf} inf")
        if found:
            yield f"{role}: values set to 0: {'; '.join(found)}"
        parts = {split: arrays[modality] for split, arrays in raw.items()}
        if splits := [split for split, part in parts.items() if part.size and not part.any()]:
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
            text = arrays["glove"]
            missing = max(0, length - text.shape[1])
            padding = (missing, 0) if in_front else (0, missing)
            text = np.pad(text, ((0, 0), padding, (0, 0)))
            cut = text[:, -length:] if in_front else text[:, :length]
            arrays["glove"] = np.ascontiguousarray(cut)
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
