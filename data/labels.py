"""Labels of all layouts, brought to the columns that a data set's train script takes."""

from __future__ import annotations

import numpy as np

from data.corpora import SPLITS, Corpus
from data.files import InputError
from data.layouts import MULT_EMOTIONS, SDK_EMOTIONS, Found, checked_part


def labels_of(found: Found, corpus: Corpus, notes: list[str]) -> dict[str, dict[str, np.ndarray]]:
    """Returns labels by emotion and split; a data set without emotions has one empty emotion.

    What was done to them is added to the notes.

    Raises:
        InputError: They belong to another data set.
    """
    raw: dict[str, np.ndarray] = {}
    for split in SPLITS:
        checked_part(found, split, "label")
        raw[split] = found.label(split)
    shape = raw["train"].shape
    if corpus.emotions:
        notes.append(f"labels {shape}: split into emotions")
        by_emotion = {split: _emotions(found, split, label) for split, label in raw.items()}
        present = [emotion for emotion in corpus.emotions if emotion in by_emotion["train"]]
        return {
            emotion: {split: labels[emotion] for split, labels in by_emotion.items()}
            for emotion in present
        }
    flat = {split: label.reshape(len(label), -1) for split, label in raw.items()}
    columns = flat["train"].shape[1]
    if found.emotions != ("",) or (corpus.label_columns and columns not in corpus.columns_in_files):
        raise _other_labels(found, f"(N, {corpus.label_columns})", shape)
    if flat["train"].shape != shape:
        notes.append(f"labels {shape}: reshaped to {flat['train'].shape}")
    return {"": dict(corpus.without_extra(flat, notes))}


def _emotions(found: Found, split: str, label: np.ndarray) -> dict[str, np.ndarray]:
    """Returns one-hot labels (N, 2), [present, absent], by emotion."""
    if found.emotions != ("",):
        return {emotion: found.label(split, emotion) for emotion in found.emotions}
    if label.shape[1:] == (len(MULT_EMOTIONS), 2):
        return {emotion: label[:, column] for column, emotion in enumerate(MULT_EMOTIONS)}
    names = SDK_EMOTIONS.get(label.shape[1] if label.ndim == 2 else 0)
    if names is None:
        columns = ", ".join(f"(N, {count})" for count in SDK_EMOTIONS)
        raise _other_labels(found, f"{columns}, or (N, 4, 2) of four emotions", label.shape)
    present = label > 0
    return {
        emotion: np.stack([present[:, column], ~present[:, column]], axis=1).astype(np.float64)
        for column, emotion in enumerate(names)
    }


def _other_labels(found: Found, expected: str, shape: tuple[int, ...]) -> InputError:
    return InputError(
        f"{found.path}: expected labels {expected}, got {shape}; is --to the right data set?"
    )
