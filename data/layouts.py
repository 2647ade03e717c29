"""The layouts in which the corpora circulate: which array of a file is which part of a split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.corpora import CORPORA, MODALITIES, ROLES, SPLITS
from data.files import InputError

SPLIT_NAMES = {
    "train": ("train",),
    "valid": ("valid", "dev", "val", "validation"),
    "test": ("test",),
}
ROLE_NAMES = {
    "audio": ("covarep", "audio", "acoustic"),
    "video": ("facet", "video", "vision", "visual"),
    "text": ("glove", "text", "actual_words", "words"),
    "label": ("regression_labels", "label", "labels", "y"),
    "id": ("id", "ids", "segment"),
}
FORMS = ("{split}/{key}", "{split}_{key}", "{key}_{split}")
EXAMPLE = ("words", "visual", "acoustic", "actual_words")  # of MISA and MAG-BERT; MISA has the last
MULT_EMOTIONS = ("neutral", "happy", "sad", "angry")  # their order in MulT's labels (N, 4, 2)
_SDK_EMOTIONS = (
    *("angry", "excited", "fear", "sad", "surprised", "frustrated"),
    *("happy", "neutral", "disgust"),
)
SDK_EMOTIONS = {9: _SDK_EMOTIONS, 11: ("other", *_SDK_EMOTIONS, "unknown")}  # by columns, of h5
MOST_REPEATED = 100  # times its size is what a list's arrays may take once they are one array
_NUMBERS = (int, float, np.number, np.bool_)

Values = np.ndarray | list  # what a file holds: an array, or a list of names, sentences or arrays
Part = np.ndarray | list[np.ndarray]  # of a role: one array, or sequences of different lengths


class Layout(NamedTuple):
    """How a family of files names the four roles of an example's parts."""

    title: str
    keys: tuple[str, ...]  # of audio, video, text and label
    form: str = FORMS[0]

    def names(self) -> Iterator[tuple[str, str, str]]:
        """Yields split, role and name of each array."""
        for split, (role, key) in product(SPLITS, zip(ROLES, self.keys, strict=True)):
            yield split, role, self.form.format(split=split, key=key)


LAYOUTS = {
    "release": Layout("as the train scripts read it", MODALITIES),
    "mmsa": Layout("MMSA pickle", ("audio", "vision", "text", "regression_labels")),
    "mult": Layout("MulT / MultiBench pickle", ("audio", "vision", "text", "labels")),
    "misa": Layout("MISA / MAG-BERT examples", ("acoustic", "visual", "words", "label")),
    "mfn": Layout("MFN folder of .h5 files", ("audio", "video", "text", "y"), FORMS[2]),
    "arrays": Layout("named arrays", ("audio", "video", "text", "label"), FORMS[1]),
}


class Found(NamedTuple):
    """What a file or folder holds."""

    path: Path
    data: object  # everything, in nested dicts if a pickle has them
    values: dict[str, Values]  # the arrays and lists, by their names, as "train/covarep"
    layout: str | None  # of LAYOUTS; "sequence": a computational sequence (.csd); None: unknown
    emotions: tuple[str, ...]  # the outer keys of a pickle that has any, else one empty name
    places: dict[tuple[str, str, str], str]  # names by emotion, split and role
    without: tuple[str, ...] = ()  # of audio, video and text, those that no split has

    @property
    def title(self) -> str:
        """The layout's, for people."""
        if self.layout == "sequence":
            return "computational sequence of the CMU-MultimodalSDK"
        return LAYOUTS[self.layout].title if self.layout else "unknown"

    def where(self, split: str, role: str) -> str:
        """Returns the file's own name of a part."""
        return self.places[self.emotions[0], split, role]

    def part(self, split: str, role: str, emotion: str | None = None) -> Part:
        """Returns the numbers of a role (audio, video, text or label) in a split.

        Raises:
            InputError: They are no numbers, or arrays that don't go together.
        """
        where = self.places[self.emotions[0] if emotion is None else emotion, split, role]
        numbers = _numbers(self.values[where])
        if numbers is None:
            raise InputError(
                f"{self.path}: expected {where} to be a numeric array, or a list of such arrays "
                "that differ in length only"
            )
        return numbers

    def label(self, split: str, emotion: str | None = None) -> np.ndarray:
        """Returns a split's labels, of one emotion if the file has them apart.

        Raises:
            InputError: They are no numbers, or not as many for each example.
        """
        label = self.part(split, "label", emotion)
        if not isinstance(label, np.ndarray) or label.ndim == 0:
            where = self.where(split, "label")
            raise InputError(f"{self.path}: expected {where} to have as many labels per example")
        return label


def find(path: Path, data: object, values: dict[str, Values]) -> Found:
    """Returns a file's contents with the layout that has names for all splits and roles.

    One or two of the modalities may be missing, if no split has them.
    """
    with_emotions = [emotion for corpus in CORPORA.values() for emotion in corpus.emotions]
    places = {
        (emotion, split, role): where
        for emotion, split, role in product(["", *with_emotions], SPLITS, ROLE_NAMES)
        if (where := _place(values, emotion, split, role))
    }
    roles = {emotion: _whole_roles(places, emotion) for emotion in ("", *with_emotions)}
    whole = [emotion for emotion, present in roles.items() if present]
    if whole:
        emotions = tuple(emotion for emotion in whole if roles[emotion] == roles[whole[0]])
        emotions = ("",) if whole[0] == "" else emotions
        without = tuple(role for role in ROLES if role not in roles[whole[0]])
        return Found(path, data, values, nearest(values, emotions[0]), emotions, places, without)
    features = [name for name in values if name.endswith("/features")]
    is_sequence = features and len(features) * 2 >= len(values)
    return Found(path, data, values, "sequence" if is_sequence else None, ("",), places)


def _whole_roles(places: Mapping[tuple[str, str, str], str], emotion: str) -> list[str]:
    """Returns the roles that all splits have; none if only some have one, or none the labels."""
    present = [role for role in ROLES if any((emotion, split, role) in places for split in SPLITS)]
    is_whole = all((emotion, *part) in places for part in product(SPLITS, present))
    return present if is_whole and "label" in present and len(present) > 1 else []


def _place(values: Mapping[str, Values], emotion: str, split: str, role: str) -> str | None:
    names = product(ROLE_NAMES[role], SPLIT_NAMES[split], FORMS)
    prefix = f"{emotion}/" if emotion else ""
    found = (prefix + form.format(split=name, key=key) for key, name, form in names)
    return next((name for name in found if name in values), None)


def nearest(values: Mapping[str, Values], emotion: str = "") -> str:
    """Returns the layout with the most names that are in a file."""
    prefix = f"{emotion}/" if emotion else ""

    def matches(layout: str) -> int:
        return sum(prefix + name in values for _, _, name in LAYOUTS[layout].names())

    return max(LAYOUTS, key=matches)


def is_native(found: Found) -> bool:
    """Returns whether all its parts have the names that the train scripts look for."""
    prefixes = [f"{emotion}/" if emotion else "" for emotion in found.emotions]
    names = [name for _, role, name in LAYOUTS["release"].names() if role not in found.without]
    return all(prefix + name in found.values for prefix in prefixes for name in names)


def lacking(found: Found, other_way: str = "") -> str:
    """Returns what is missing from a file, and what to do: `other_way` if there is one."""
    names = list(found.values)
    if any(name.endswith((".weight", ".bias", "_weights")) for name in names):
        return "expected data, got a trained model's weights; name a file of features and labels"
    layout = LAYOUTS[nearest(found.values)]
    missing = [name for s, role, name in layout.names() if ("", s, role) not in found.places]
    if len(missing) == len(SPLITS) * len(ROLES):
        if found.data is None:
            return "expected a folder with an array or a split a file; name a file of the folder"
        return (
            "expected arrays by the names train_audio, train_video, train_text, train_label, and "
            f"the same of valid and test, got {', '.join(names[:8]) or 'none'}; save them so "
            "(data/README.md), and convert those"
        )
    return (
        f"expected a whole data set{other_way}; the nearest layout is {layout.title}, from which "
        f"is missing: {', '.join(missing)}"
    )


def checked_part(found: Found, split: str, role: str) -> Part:
    """Returns a split's numbers for a role: some examples, each as wide as in train.

    Raises:
        InputError: There are no examples, or they are of another shape.
    """
    part, where = found.part(split, role), found.where(split, role)
    shape, train = shape_of(part), shape_of(found.part("train", role))
    if not shape or 0 in shape:
        raise InputError(f"{found.path}: expected examples in {where}, got shape {shape}")
    whole = slice(1, None) if role == "label" else slice(-1, None)  # steps may differ
    if len(shape) != len(train) or shape[whole] != train[whole]:
        raise InputError(f"{found.path}: expected {where} to be as in train, {train}, got {shape}")
    return part


def split_examples(value: object) -> dict[str, list] | None:
    """Returns the parts of MISA's and MAG-BERT's examples, None if a value is no list of those.

    An example is ((words, visual, acoustic), label, segment). Some have the text's words beside
    their numbers.
    """
    if not isinstance(value, list) or not value or not all(map(_is_example, value)):
        return None
    columns = dict(
        zip(EXAMPLE, zip(*(example[0] for example in value), strict=False), strict=False)
    )
    rest = zip(
        ("label", "segment"), zip(*(example[1:] for example in value), strict=False), strict=False
    )
    return {name: list(column) for name, column in (*columns.items(), *rest)}


def _is_example(value: object) -> bool:
    if not isinstance(value, tuple | list) or len(value) < 2:
        return False
    parts = value[0]
    is_whole = isinstance(parts, tuple | list) and len(parts) >= 3
    return is_whole and all(isinstance(part, np.ndarray) for part in parts[1:3])


def _numbers(value: Values) -> Part | None:
    """Returns numbers as one array, or as a list if they differ in length."""
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "fiub":
            return value
        value = list(value) if value.dtype.kind == "O" and value.ndim == 1 else []
    arrays = [array for item in value if (array := _array(item)) is not None]
    if not arrays or len(arrays) < len(value):
        return None
    shapes = {array.shape for array in arrays}
    if len(shapes) == 1 and _fits(arrays, len(arrays[0]) if arrays[0].ndim else 1):
        return np.stack(arrays)
    return arrays if () not in shapes and len({shape[1:] for shape in shapes}) == 1 else None


def _array(item: object) -> np.ndarray | None:
    if isinstance(item, list | tuple) and not all(isinstance(part, _NUMBERS) for part in item):
        return None  # nested lists can take numpy for ever
    if isinstance(item, (list, tuple, *_NUMBERS)):
        item = np.asarray(item)
    return item if isinstance(item, np.ndarray) and item.dtype.kind in "fiub" else None


def _fits(arrays: list[np.ndarray], length: int) -> bool:
    """Returns whether arrays that were all this long would take memory of the order of theirs."""
    own = {id(array): array.nbytes for array in arrays}
    most = len(arrays) * length * max(array[:1].nbytes if array.ndim else 8 for array in arrays)
    return most <= MOST_REPEATED * sum(own.values()) + 2**26


def padded(part: Part, longest: int, in_front: bool) -> np.ndarray | None:
    """Returns sequences (N, longest, ...) with zeros where one is shorter.

    None if that would take far more memory than they do.
    """
    if isinstance(part, np.ndarray) and part.shape[1:2] in ((), (longest,)):
        return part
    if not _fits(list(part), longest):
        return None
    whole = np.zeros((len(part), longest, *part[0].shape[1:]), part[0].dtype)
    for row, sequence in zip(whole, part, strict=True):
        start = longest - len(sequence) if in_front else 0
        row[start : start + len(sequence)] = sequence
    return whole


def shape_of(part: Part) -> tuple[int, ...]:
    """Returns the shape of a part, as if its sequences were as long as the longest."""
    if isinstance(part, np.ndarray):
        return part.shape
    return len(part), max(map(len, part)), *part[0].shape[1:]
