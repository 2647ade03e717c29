"""What is odd about labels and texts: said by the train scripts, by inspect and by convert."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np

from data.corpora import Corpus
from data.files import InputError

MOST_CLASSES = 8  # more whole numbers than this are no class numbers
LARGEST_COUNT = 255  # larger whole numbers in a text are token numbers
_TOKEN_PADDING = (-1, -100)
_ROUNDING = 1e-5  # of labels in single precision

Labels = Mapping[str, np.ndarray]  # (N, L) by split, finite


def label_notes(corpus: Corpus, labels: Labels) -> list[str]:
    """Returns what in labels leaves a score without the meaning that it has for a data set."""
    if corpus.emotions:
        return list(_one_class_notes(labels))
    values = _all_values(labels)
    if not values.size:
        return ["labels: no numbers"]
    if not corpus.label_columns:
        return list(_constant_notes(labels))
    notes = [*_range_notes(corpus, values), *_sign_notes(corpus, labels), *_constant_notes(labels)]
    if (classes := _classes(values)).size:
        numbers = ", ".join(f"{number:g}" for number in classes)
        notes.append(
            f"labels are the whole numbers {numbers}: class numbers, it seems, to which the "
            "training will fit one line of numbers"
        )
    return notes


def are_class_numbers(labels: Labels) -> bool:
    """Returns whether labels are few whole numbers as 0 and 1, 0 to 6 or -1 to 1 are."""
    classes = _classes(_all_values(labels))
    return classes.size > 0 and classes[0] >= -1


def _all_values(labels: Labels) -> np.ndarray:
    values = np.concatenate([np.ravel(label) for label in labels.values()]).astype(np.float64)
    return values[np.isfinite(values)]


def _classes(values: np.ndarray) -> np.ndarray:
    """Returns the few whole numbers that all values are; none if they are other numbers."""
    classes = np.unique(values)
    are_few = len(classes) <= MOST_CLASSES and (classes == np.round(classes)).all()
    return classes if are_few else classes[:0]


def _range_notes(corpus: Corpus, values: np.ndarray) -> Iterator[str]:
    low, high = corpus.label_range
    least, most = values.min() + 0.0, values.max() + 0.0  # -0 is 0
    text = f"labels from {least:.4g} to {most:.4g}, where {corpus.title}'s go from {low} to {high}"
    if least < low - _ROUNDING or most > high + _ROUNDING:
        yield f"{text}: scores that clip, round or take signs have another meaning"
    elif most - least <= (high - low) / 2 + _ROUNDING:
        yield f"{text}: accuracies of rounded labels have fewer classes"


def _sign_notes(corpus: Corpus, labels: Labels) -> Iterator[str]:
    if corpus.label_range[0] >= 0:
        return
    for where, values in (("all splits", _all_values(labels)), ("test", labels["test"])):
        below, above = (values < 0).any(), (values > 0).any()
        if not (below and above):
            yield (
                f"labels in {where}: none is {'above' if below else 'below'} 0, so that scores of "
                "their sign have one class only and mean nothing"
            )
            return


def _constant_notes(labels: Labels) -> Iterator[str]:
    for split, label in labels.items():
        constant = np.flatnonzero(label.min(axis=0) == label.max(axis=0))
        if len(constant):
            columns = ", ".join(map(str, constant[:20]))
            where = f" in columns {columns}" if label.shape[1] > 1 else ""
            yield f"labels of {split} are all the same{where}: there is no correlation with them"


def _one_class_notes(labels: Labels) -> Iterator[str]:
    for split, label in labels.items():
        if (label.sum(axis=0) == 0).any():
            one = label[0].astype(int).tolist()
            yield f"labels of {split} are all {one}: F1 and accuracy of one class mean nothing"


@np.errstate(invalid="ignore")  # NaN is no number of a token
def refuse_token_numbers(where: str, text: np.ndarray) -> None:
    """Raises InputError if a text, (N, T, D) or (N, T), holds token numbers instead of vectors.

    MMSA's files have them as (N, 3, T): token numbers, mask and segment of each token. Padding may
    be -1, -100 or NaN.
    """
    if not _whole(text[:1]).all():
        return
    numbers = text[np.isfinite(text) & ~np.isin(text, _TOKEN_PADDING)]
    if not _whole(numbers).all() or numbers.min(initial=0) < 0:
        return
    largest = numbers.max(initial=0)
    masked = text.ndim == 3 and text.shape[1] == 3 and text[:, 1:].max(initial=0) <= 1 < largest
    alone = text.ndim < 3 or text.shape[2] == 1
    if masked or largest > (1 if alone else LARGEST_COUNT):
        raise InputError(
            f"{where}: expected word vectors (N, T, D), got token numbers {text.shape}, whole "
            f"numbers up to {largest:,.0f}; take text features, as MMSA's files have under "
            '"text" beside the token numbers under "text_bert", or put the tokens through their '
            "model first"
        )


def _whole(numbers: np.ndarray) -> np.ndarray:
    return ~np.isfinite(numbers) | (numbers == np.floor(numbers))
