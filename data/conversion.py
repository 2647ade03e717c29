"""Converts the layouts in which the corpora circulate to the one that the train scripts read."""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from data.formats import LAYOUTS, Found
from data.inspection import MULT_EMOTIONS
from data.official import OFFICIAL, STEPS
from utils import EMOTIONS, POM_SENTIMENT, SPLITS, InputError, padded_in_front

CHUNK = 256  # examples that are averaged together

Notes = list[str]
Arrays = dict[str, dict[str, np.ndarray]]  # by split and role


@np.errstate(all="ignore")  # NaN and infinite values are counted and set to 0
def convert(found: Found, name: str, average: str, scale: str) -> tuple[object, Notes]:
    """Returns a data set as the train scripts read it, and what was done to get there.

    Args:
        found: What a file or folder of another layout holds.
        name: mosi, iemocap or pom.
        average: Audio and video become their mean over "all" steps, padding included as in the
            release, or over the "words" alone.
        scale: "max" divides each audio and video feature by its largest magnitude in train.

    Raises:
        InputError: The file's layout is unknown, or its labels belong to another corpus.
    """
    if found.layout not in LAYOUTS:
        raise InputError(
            f"{found.path}: expected a known layout, got {', '.join(list(found.values)[:8])}; "
            "see data/README.md for those that are known, named arrays among them"
        )
    if found.layout == "release":
        raise InputError(f"{found.path}: expected another layout, got the release's already")
    notes: Notes = [f"layout: {LAYOUTS[found.layout].title}"]
    features: Arrays = {split: {} for split in SPLITS}
    for split in SPLITS:
        features[split]["text"] = _text(found, split)
        for role in ("audio", "video"):
            features[split][role] = _utterance(found, split, role, average, notes)
    if scale == "max":
        _scale(features, notes)
    labels = _labels(found, name, notes)
    shared = {
        split: {
            b"covarep": arrays["audio"],
            b"facet": arrays["video"],
            b"glove": arrays["text"],
        }
        for split, arrays in features.items()
    }
    data = {
        emotion.encode(): {
            split.encode(): {**shared[split], b"label": label[split]} for split in SPLITS
        }
        for emotion, label in labels.items()
    }
    notes += _differences(name, features)
    return (data if name == "iemocap" else data[b""]), notes


def _text(found: Found, split: str) -> np.ndarray:
    text = found.part(split, "text")
    if text.ndim != 3:
        raise InputError(
            f"{found.path}: expected {split}'s text to be word vectors (N, T, D), got {text.shape}"
        )
    return text


def _utterance(found: Found, split: str, role: str, average: str, notes: Notes) -> np.ndarray:
    """Returns features (N, D): those of the file, or their means over its steps (N, T, D)."""
    steps = found.part(split, role)
    if steps.ndim == 2:
        notes.append(f"{split} {role}: {steps.shape} kept: one vector per example already")
        return steps
    if steps.ndim != 3 or 0 in steps.shape:
        raise InputError(
            f"{found.path}: expected {split}'s {role} to be (N, T, D) or (N, D), got {steps.shape}"
        )
    words = _words(found, split, role) if average == "words" else None
    means = np.empty((len(steps), steps.shape[2]))
    bad = 0
    for start in range(0, len(steps), CHUNK):
        part = steps[start : start + CHUNK].astype(np.float64)
        finite = np.isfinite(part)
        bad += int(part.size - finite.sum())
        part[~finite] = 0
        if words is None:
            means[start : start + CHUNK] = part.mean(axis=1)
        else:
            weights = words[start : start + CHUNK]
            counts = np.maximum(weights.sum(axis=1), 1)
            means[start : start + CHUNK] = np.einsum("ntd,nt->nd", part, weights) / counts[:, None]
    over = "all steps, padding included" if words is None else "the words"
    notes.append(f"{split} {role}: {steps.shape} averaged over {over}")
    if bad:
        notes.append(f"{split} {role}: {bad} NaN or infinite values set to 0 before")
    return means


def _words(found: Found, split: str, role: str) -> np.ndarray:
    """Returns which steps are no padding, (N, T): by the text if it is aligned, else by itself."""
    steps, text = found.part(split, role), found.part(split, "text")
    lengths = found.values.get(f"{split}/{'audio' if role == 'audio' else 'vision'}_lengths")
    if isinstance(lengths, (np.ndarray, list)) and np.shape(lengths) == (len(steps),):
        return np.arange(steps.shape[1]) < np.asarray(lengths)[:, None]
    aligned = text.shape[:2] == steps.shape[:2]
    return _nonzero(text if aligned else steps)


def _nonzero(steps: np.ndarray) -> np.ndarray:
    return np.concatenate([steps[i : i + CHUNK].any(axis=2) for i in range(0, len(steps), CHUNK)])


def _scale(features: Arrays, notes: Notes) -> None:
    for role in ("audio", "video"):
        magnitude = np.abs(np.nan_to_num(features["train"][role], posinf=0, neginf=0)).max(axis=0)
        magnitude[magnitude == 0] = 1
        for arrays in features.values():
            arrays[role] = arrays[role] / magnitude
    notes.append("audio and video: each feature divided by its largest magnitude in train")


def _labels(found: Found, name: str, notes: Notes) -> dict[str, dict[str, np.ndarray]]:
    """Returns labels by emotion and split; MOSI and POM have one empty emotion."""
    raw = {split: found.part(split, "label") for split in SPLITS}
    shape = raw["train"].shape
    if name == "iemocap":
        if shape[1:] != (len(MULT_EMOTIONS), 2):
            raise _other_labels(found, "(N, 4, 2), neutral, happy, sad and angry", shape)
        notes.append(f"labels {shape}: split into {', '.join(MULT_EMOTIONS)}")
        return {
            emotion: {split: raw[split][:, MULT_EMOTIONS.index(emotion)] for split in SPLITS}
            for emotion in EMOTIONS
        }
    flat = {split: label.reshape(len(label), -1) for split, label in raw.items()}
    columns = flat["train"].shape[1]
    if name == "pom" and columns == 17:
        notes.append(f"labels: Sentiment, column {POM_SENTIMENT} of 17, dropped")
        flat = {split: np.delete(label, POM_SENTIMENT, axis=1) for split, label in flat.items()}
    elif columns != (expected := 1 if name == "mosi" else 16):
        raise _other_labels(found, f"(N, {expected})", shape)
    if flat["train"].shape != shape:
        notes.append(f"labels {shape}: reshaped to {flat['train'].shape}")
    return {"": flat}


def _other_labels(found: Found, expected: str, shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"{found.path}: expected labels {expected}, got {shape}; is --to the right data set?"
    )


def _differences(name: str, features: Arrays) -> Iterator[str]:
    """Yields what remains different from the official data."""
    official, what = OFFICIAL[name], "differs from the official data:"
    examples = tuple(len(features[split]["text"]) for split in SPLITS)
    if examples != official.examples:
        yield f"{what} {examples} examples, not {official.examples}"
    for role, expected in zip(("audio", "video", "text"), official.dims, strict=True):
        width = features["train"][role].shape[-1]
        if width != expected:
            yield f"{what} {width} {role} features, not {expected}"
    steps = features["train"]["text"].shape[1]
    if steps != STEPS:
        yield f"{what} texts of {steps} steps, not {STEPS}"
    front = padded_in_front([features[split]["text"] for split in SPLITS])
    if front is not None and front != (name != "iemocap"):
        yield f"{what} texts are padded {'in front' if front else 'at the end'}"
    yield f"{what} the values: other versions of the feature extractors made them"


def write_pickle(path: Path, data: object, check: Callable[[Path], object] | None = None) -> None:
    """Writes a pickle that a check accepts; until then nothing has its name.

    Raises:
        InputError: It can't be written, or the check refuses it.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            pickle.dump(data, file, protocol=4)
        if check is not None:
            check(part)
        os.replace(part, path)
    except OSError as error:
        raise InputError(f"{path}: can't be written: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            part.unlink()
