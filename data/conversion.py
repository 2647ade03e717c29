"""Converts the layouts in which the corpora circulate to the one that the train scripts read."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.assembly import Arrays, assemble_all, padded_in_front
from data.checks import refuse_token_numbers
from data.corpora import MODALITIES, ROLES, SPLITS, Corpus
from data.files import InputError, make_folder, write_atomically
from data.formats import LAYOUTS, MULT_EMOTIONS, Found

Notes = list[str]


@np.errstate(all="ignore")  # NaN and infinite values are counted and set to 0
def convert(found: Found, corpus: Corpus, average: str, scale: str) -> tuple[object, Notes]:
    """Returns a data set as the train scripts read it, and what was done to get there.

    Audio and video become their averages over "all" steps, padding included as in the release, or
    over the "words" alone. scale "max" divides each of their features by its largest magnitude in
    train.

    Raises:
        InputError: The file's layout is unknown, its labels belong to another corpus, or a train
            script would refuse what came of it.
    """
    if found.layout not in LAYOUTS:
        raise InputError(
            f"{found.path}: expected a known layout, got {', '.join(list(found.values)[:8])}; "
            "see data/README.md for those that are known, named arrays among them"
        )
    if found.layout == "release":
        raise InputError(f"{found.path}: expected another layout, got the release's already")
    notes: Notes = [f"layout: {LAYOUTS[found.layout].title}"]
    features: Arrays = {}
    for split in SPLITS:
        text = text_of(found, split)
        audio, video = (
            _utterance(found, split, role, average, notes) for role in ("audio", "video")
        )
        features[split] = {"covarep": audio, "facet": video, "glove": text}
    if scale == "max":
        _scale(features, notes)
    sets = {
        emotion.encode(): {
            split.encode(): {
                key.encode(): value for key, value in {**parts, "label": label[split]}.items()
            }
            for split, parts in features.items()
        }
        for emotion, label in labels_of(found, corpus, notes).items()
    }
    data = sets if corpus.emotions else sets[b""]
    notes += assemble_all(found.path, data, corpus).notes
    notes += _differences(corpus, features)
    return data, notes


def _part(found: Found, split: str, role: str) -> np.ndarray:
    """Returns an array that has examples, as wide as train's."""
    array, train = found.part(split, role), found.part("train", role)
    if array.ndim == 0 or 0 in array.shape:
        raise InputError(
            f"{found.path}: expected examples in {split}'s {role}, got shape {array.shape}"
        )
    whole = slice(1, None) if role == "label" else slice(-1, None)  # steps may differ
    if array.ndim != train.ndim or array.shape[whole] != train.shape[whole]:
        raise InputError(
            f"{found.path}: expected {split}'s {role} to be as in train, {train.shape}, got "
            f"{array.shape}"
        )
    return array


def text_of(found: Found, split: str) -> np.ndarray:
    """Returns a split's text (N, T, D).

    Raises:
        InputError: It is of another shape, or holds token numbers.
    """
    text = _part(found, split, "text")
    refuse_token_numbers(f"{found.path}: {split}'s text", text)
    if text.ndim != 3:
        raise InputError(
            f"{found.path}: expected {split}'s text to be word vectors (N, T, D), got {text.shape}"
        )
    return text


def _utterance(found: Found, split: str, role: str, average: str, notes: Notes) -> np.ndarray:
    """Returns features (N, D): those of the file, or the means of its (N, T, D)."""
    steps = _part(found, split, role)
    if steps.ndim == 2:
        notes.append(f"{split} {role}: {steps.shape} kept: one vector per example already")
        return steps
    if steps.ndim != 3:
        raise InputError(
            f"{found.path}: expected {split}'s {role} to be (N, T, D) or (N, D), got {steps.shape}"
        )
    kept = _words(found, split, role) if average == "words" else np.ones(steps.shape[:2], bool)
    means, bad = np.empty((len(steps), steps.shape[2])), 0
    for i, example in enumerate(steps):
        values = example.astype(np.float64)
        bad += int((~np.isfinite(values)).sum())
        np.nan_to_num(values, copy=False, nan=0, posinf=0, neginf=0)
        means[i] = values[kept[i]].sum(axis=0) / max(1, kept[i].sum())
    over = "the words" if average == "words" else "all steps, padding included"
    notes.append(f"{split} {role}: {steps.shape} averaged over {over}")
    if bad:
        notes.append(f"{split} {role}: {bad} NaN or infinite values set to 0 before")
    return means


def _words(found: Found, split: str, role: str) -> np.ndarray:
    """Returns which steps are no padding, (N, T): by the text if it is aligned, else by itself."""
    steps, text = found.part(split, role), found.part(split, "text")
    where = f"{split}/{'audio' if role == 'audio' else 'vision'}_lengths"
    if where in found.values:
        try:
            lengths = np.asarray(found.values[where], dtype=np.float64)
        except (TypeError, ValueError):
            lengths = np.empty(0)
        if lengths.shape != (len(steps),) or not np.isfinite(lengths).all():
            raise InputError(f"{found.path}: expected a number per example in {where}")
        return np.arange(steps.shape[1]) < lengths[:, None]
    aligned = text.shape[:2] == steps.shape[:2]
    return np.any(text if aligned else steps, axis=2)


def _scale(features: Arrays, notes: Notes) -> None:
    for key in ("covarep", "facet"):
        magnitude = np.abs(np.nan_to_num(features["train"][key], posinf=0, neginf=0)).max(axis=0)
        magnitude[magnitude == 0] = 1
        for arrays in features.values():
            arrays[key] = arrays[key] / magnitude
    notes.append("audio and video: each feature divided by its largest magnitude in train")


def labels_of(found: Found, corpus: Corpus, notes: Notes) -> dict[str, dict[str, np.ndarray]]:
    """Returns labels by emotion and split; a data set without emotions has one empty emotion.

    What was done to them is added to the notes.

    Raises:
        InputError: They belong to another data set.
    """
    raw = {split: _part(found, split, "label") for split in SPLITS}
    shape = raw["train"].shape
    if corpus.emotions:
        if shape[1:] != (len(MULT_EMOTIONS), 2) or not set(corpus.emotions) <= set(MULT_EMOTIONS):
            raise _other_labels(found, "(N, 4, 2), neutral, happy, sad and angry", shape)
        notes.append(f"labels {shape}: split into {', '.join(MULT_EMOTIONS)}")
        return {
            emotion: {split: raw[split][:, MULT_EMOTIONS.index(emotion)] for split in SPLITS}
            for emotion in corpus.emotions
        }
    flat = {split: label.reshape(len(label), -1) for split, label in raw.items()}
    columns = flat["train"].shape[1]
    if columns not in corpus.columns_in_files:
        raise _other_labels(found, f"(N, {corpus.label_columns})", shape)
    if flat["train"].shape != shape:
        notes.append(f"labels {shape}: reshaped to {flat['train'].shape}")
    if columns > corpus.label_columns:
        notes.append(corpus.extra_note)
        flat = {split: corpus.without_extra(label) for split, label in flat.items()}
    return {"": flat}


def _other_labels(found: Found, expected: str, shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"{found.path}: expected labels {expected}, got {shape}; is --to the right data set?"
    )


def _differences(corpus: Corpus, features: Arrays) -> Iterator[str]:
    """Yields what remains different from the official data."""
    what = "differs from the official data:"
    if (examples := tuple(len(parts["glove"]) for parts in features.values())) != corpus.examples:
        yield f"{what} {examples} examples, not {corpus.examples}"
    for role, key, expected in zip(ROLES, MODALITIES, corpus.dims, strict=False):
        if (width := features["train"][key].shape[-1]) != expected:
            yield f"{what} {width} {role} features, not {expected}"
    if (steps := features["train"]["glove"].shape[1]) != corpus.steps:
        yield f"{what} texts of {steps} steps, not {corpus.steps}"
    front = padded_in_front([parts["glove"] for parts in features.values()])
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
