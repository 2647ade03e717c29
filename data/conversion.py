"""Converts the layouts in which the corpora circulate to the one that the train scripts read."""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Sequence
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.assembly import Arrays, Assembled, assemble_all, ids_of, padded_in_front
from data.checks import refuse_token_numbers
from data.corpora import MODALITIES, OWN, ROLES, SPLITS, Corpus
from data.embedding import with_vectors, words_of
from data.files import InputError, make_folder, write_atomically
from data.kinds import quoted
from data.labels import labels_of
from data.layouts import (
    LAYOUTS,
    Found,
    checked_part,
    is_native,
    lacking,
    padded,
    shape_of,
)

Notes = list[str]


class Choices(NamedTuple):
    """How a data set is to be converted."""

    average: str = "all"  # steps, padding included as in the release; or "words" alone
    scale: str = "none"  # "max": each audio and video feature by its largest magnitude in train
    embedding: Path | None = None  # word vectors for texts that are words
    without: tuple[str, ...] = ()  # modalities that are left out


@np.errstate(all="ignore")  # NaN and infinite values are counted and set to 0
def convert(found: Found, corpus: Corpus, choices: Choices) -> tuple[object, Notes]:
    """Returns a data set as the train scripts read it, and what was done to get there.

    Raises:
        InputError: The file's layout is unknown, its labels belong to another corpus, or a train
            script would refuse what came of it.
    """
    if found.layout not in LAYOUTS:
        raise InputError(f"{found.path}: {lacking(found)}")
    if as_it_is(found, corpus) and not set(choices.without) - set(found.without):
        raise InputError(
            f"{found.path}: expected another layout, got one that train_{corpus.name}.py takes"
        )
    if not set(found.without) <= set(choices.without):
        both = [role for role in ROLES if role in (*found.without, *choices.without)]
        raise InputError(f"{found.path}: {lacking(found, f', or {without_flags(both)}')}")
    found = found._replace(without=choices.without)
    notes: Notes = [f"layout: {found.title}"]
    if choices.embedding:
        found = with_vectors(found, choices.embedding, notes)
    features = _features(found, corpus, choices, notes)
    if choices.scale == "max":
        _scale(features, notes)
    ids = {split: _ids(found, split) for split in SPLITS}
    notes += [f"{split}: ids kept, as {names[0]!r}" for split, names in ids.items() if names]
    sets = {
        emotion.encode(): {
            split.encode(): {
                **{key.encode(): array for key, array in parts.items()},
                b"label": label[split],
                **({b"id": ids[split]} if ids[split] else {}),
            }
            for split, parts in features.items()
        }
        for emotion, label in labels_of(found, corpus, notes).items()
    }
    data = sets if corpus.emotions else sets[b""]
    try:
        assembled = assemble_all(found.path, data, corpus, found.without)
    except InputError as error:
        raise InputError(_in_names_of(found, str(error))) from None
    notes += [*assembled.notes, *_differences(corpus, assembled, found.without)]
    return data, notes


def _features(found: Found, corpus: Corpus, choices: Choices, notes: Notes) -> Arrays:
    """Returns the modalities that the file has, by split."""
    features: Arrays = {}
    for split in SPLITS:
        features[split] = {
            key: text_of(found, split, corpus.padded_in_front)
            if role == "text"
            else _utterance(found, split, role, choices.average, notes)
            for role, key in zip(ROLES[:3], MODALITIES[:3], strict=True)
            if role not in found.without
        }
    return features


def as_it_is(found: Found, corpus: Corpus) -> Assembled | None:
    """Returns what a train script makes of a file's contents as they are, None if nothing."""
    if not is_native(found):
        return None
    try:
        return assemble_all(found.path, found.data, corpus, found.without)
    except InputError:
        return None


def train_command(corpus: Corpus, folder: Path, without: tuple[str, ...]) -> str:
    """Returns the command that trains a data set in a folder that lacks these modalities."""
    script = f"{'examples/' * (corpus == OWN)}train_{corpus.name}.py"
    train = f"python {script} --data_path {quoted(folder)}"
    return f"{train} {without_flags(without)}".strip()


def without_flags(roles: Sequence[str]) -> str:
    """Returns the flags by which modalities are left out."""
    return " ".join(f"--without {role}" for role in roles)


def _in_names_of(found: Found, error: str) -> str:
    for split, (role, key) in product(SPLITS, zip(ROLES, MODALITIES, strict=True)):
        if role not in found.without:
            error = error.replace(f"{split}/{key}", found.where(split, role))
    return error


def _ids(found: Found, split: str) -> list[str] | None:
    where = found.places.get((found.emotions[0], split, "id"))
    return ids_of(found.values[where], len(found.label(split))) if where else None


def text_of(found: Found, split: str, in_front: bool) -> np.ndarray:
    """Returns a split's text (N, T, D), padded with zeros where its sequences are short.

    Raises:
        InputError: It is of another shape, or holds words or token numbers.
    """
    where = found.where(split, "text")
    if words_of(found.values[where]):
        raise InputError(
            f"{found.path}: expected word vectors (N, T, D) in {where}, got words; give their "
            "vectors, as convert's --embedding glove.840B.300d.txt"
        )
    lengths = [size for each in SPLITS for size in shape_of(found.part(each, "text"))[1:2]]
    text = padded(checked_part(found, split, "text"), max(lengths, default=0), in_front)
    if text is None:
        raise InputError(
            f"{found.path}: expected sequences of similar lengths in {where}, got one of "
            f"{max(lengths):,} steps"
        )
    refuse_token_numbers(f"{found.path}: {where}", text)
    if text.ndim != 3:
        raise InputError(
            f"{found.path}: expected {where} to be word vectors (N, T, D), got {text.shape}"
        )
    return text


def _utterance(found: Found, split: str, role: str, average: str, notes: Notes) -> np.ndarray:
    """Returns features (N, D): those of the file, or the means of its (N, T, D)."""
    steps, where = checked_part(found, split, role), found.where(split, role)
    shape = shape_of(steps)
    if len(shape) == 2 and isinstance(steps, np.ndarray):
        notes.append(f"{where}: {shape} kept: one vector per example already")
        return steps
    if len(shape) != 3:
        raise InputError(f"{found.path}: expected {where} to be (N, T, D) or (N, D), got {shape}")
    kept, over = [np.ones(len(example), bool) for example in steps], "all steps, padding included"
    if not isinstance(steps, np.ndarray):
        over = "each one's own steps"
    elif average == "words":
        kept, over = _words(found, split, role, steps), "the words"
    means, bad = np.empty((shape[0], shape[2])), 0
    for i, example in enumerate(steps):
        values = example.astype(np.float64)
        bad += int((~np.isfinite(values)).sum())
        np.nan_to_num(values, copy=False, nan=0, posinf=0, neginf=0)
        means[i] = values[kept[i]].sum(axis=0) / max(1, kept[i].sum())
    notes.append(f"{where}: {shape} averaged over {over}")
    if bad:
        notes.append(f"{where}: {bad} NaN or infinite values set to 0 before")
    return means


def _words(found: Found, split: str, role: str, steps: np.ndarray) -> np.ndarray:
    """Returns which steps are no padding, (N, T): by the text if it is aligned, else by itself."""
    where = f"{found.where(split, role)}_lengths"
    if where in found.values:
        try:
            lengths = np.asarray(found.values[where], dtype=np.float64)
        except (TypeError, ValueError):
            lengths = np.empty(0)
        if lengths.shape != (len(steps),) or not np.isfinite(lengths).all():
            raise InputError(f"{found.path}: expected a number per example in {where}")
        return np.arange(steps.shape[1]) < lengths[:, None]
    text = steps if "text" in found.without else found.part(split, "text")
    aligned = isinstance(text, np.ndarray) and text.shape[:2] == steps.shape[:2]
    return np.any(text if aligned else steps, axis=2)


def _scale(features: Arrays, notes: Notes) -> None:
    for key in features["train"].keys() & {"covarep", "facet"}:
        magnitude = np.abs(np.nan_to_num(features["train"][key], posinf=0, neginf=0)).max(axis=0)
        magnitude[magnitude == 0] = 1
        for arrays in features.values():
            arrays[key] = arrays[key] / magnitude
    notes.append("audio and video: each feature divided by its largest magnitude in train")


def _differences(corpus: Corpus, data: Assembled, without: tuple[str, ...]) -> Iterator[str]:
    """Yields what remains different from the official data, if there are any."""
    if corpus == OWN:
        return
    what = "differs from the official data:"
    if data.examples != corpus.examples:
        yield f"{what} {data.examples} examples, not {corpus.examples}"
    for role, width, expected in zip(ROLES[:3], data.dims, corpus.dims, strict=True):
        if width != expected:
            yield f"{what} {width} {role} features, not {expected}"
    texts = [] if "text" in without else [parts["glove"] for parts in data.arrays.values()]
    if texts and (steps := texts[0].shape[1]) != corpus.steps:
        yield f"{what} texts of {steps} steps, not {corpus.steps}"
    front = padded_in_front(texts)
    if front is not None and front != corpus.padded_in_front:
        yield f"{what} texts are padded {'in front' if front else 'at the end'}"
    yield f"{what} the values: other versions of the feature extractors made them"


def write_pickle(path: Path, data: object) -> None:
    """Writes a pickle, wholly or not at all.

    Raises:
        InputError: It can't be written.
    """

    def write(part: Path) -> None:
        with part.open("wb") as file:
            pickle.dump(data, file, protocol=4)

    make_folder(path.parent)
    write_atomically(path, write)
