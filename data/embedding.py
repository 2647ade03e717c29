"""Word vectors for texts that are words, from a text file as GloVe has them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from data.corpora import SPLITS
from data.files import InputError, opened_unchanged
from data.layouts import Found, Values

Words = list[list[str]]  # of each example


def words_of(value: Values) -> Words | None:
    """Returns the words of each example, None if a value holds anything else."""
    if isinstance(value, np.ndarray) and (value.ndim == 0 or value.dtype.kind in "fiub"):
        return None
    rows = [
        row.ravel().tolist() if isinstance(row, np.ndarray) and row.dtype.kind in "SUO" else row
        for row in value
    ]
    if not rows or not all(isinstance(row, list | tuple) for row in rows):
        return None
    words = [
        [w.decode(errors="replace") if isinstance(w, bytes) else w for w in row] for row in rows
    ]
    return words if all(isinstance(word, str) for row in words for word in row) else None


def with_vectors(found: Found, path: Path, notes: list[str]) -> Found:
    """Returns a data set with its texts of words as lists of word vectors (T, D).

    Unknown words become zeros; notes say how many.

    Raises:
        InputError: The texts are no words, or the file has no vector for any of them.
    """
    if "text" in found.without:
        raise InputError(f"{found.path}: --embedding is for words, but it has no text")
    places = {
        found.where(split, "text"): found.values[found.where(split, "text")] for split in SPLITS
    }
    texts = {where: words_of(value) for where, value in places.items()}
    for where, text in texts.items():
        if not text:
            raise InputError(f"{found.path}: --embedding is for words, but {where} holds none")
    words = {word for text in texts.values() for row in text or () for word in row}
    vectors = dict(_vectors(path, words | {word.lower() for word in words}))
    if not vectors:
        raise InputError(
            f"{path}: expected a word and its vector a line, as in glove.840B.300d.txt, got no "
            f"word of {found.path}"
        )
    width = len(next(iter(vectors.values())))
    vectors = {word: vector for word, vector in vectors.items() if len(vector) == width}
    zeros = np.zeros(width, np.float32)
    known = {word: vectors.get(word, vectors.get(word.lower(), zeros)) for word in words}
    unknown = sum(vector is zeros for vector in known.values())
    notes.append(f"texts: {len(words)} words got vectors of {path}; {unknown} unknown are zeros")
    values: dict[str, Values] = {
        where: [np.array([known[w] for w in row]).reshape(-1, width) for row in text or ()]
        for where, text in texts.items()
    }
    return found._replace(values={**found.values, **values})


def _vectors(path: Path, words: set[str]) -> Iterator[tuple[str, np.ndarray]]:
    wanted = {word.encode(errors="replace"): word for word in words}
    with opened_unchanged(path) as file:
        for line in file:
            parts = line.split(maxsplit=1)
            if len(parts) == 2 and parts[0] in wanted:
                try:
                    yield wanted[parts[0]], np.array(parts[1].split(), np.float32)
                except ValueError:
                    continue  # a word with spaces in it
