"""What data files hold, whether they are the official ones, and which train script can use them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from tqdm import tqdm

from data.checks import are_class_numbers, label_notes
from data.conversion import labels_of, text_of
from data.corpora import CORPORA, SPLITS, Corpus
from data.files import InputError, checksum, opened_unchanged, printable
from data.formats import LAYOUTS, MULT_EMOTIONS, SUFFIXES, Found, Values, read_open
from utils import Loaded, assemble, padded_in_front

CHUNK = 2**24  # bytes that are looked at together


class Summary(NamedTuple):
    """What one array, or list, of a file looks like. Counts are of values.

    Attributes:
        where: Its path in the file.
        shape: Its shape, or a list's length.
        dtype: Its dtype, or "list".
        nan: How many values are NaN.
        inf: How many are infinite.
        low: The smallest finite value.
        high: The largest one.
        constant: How many of the columns (the last dimension) have one value only.
        padding: Of sequences: the share of frames that are zero throughout.
        side: Where most of these frames are: "front", "end" or "".
    """

    where: str
    shape: tuple[int, ...]
    dtype: str
    nan: int = 0
    inf: int = 0
    low: float = math.nan
    high: float = math.nan
    constant: int = 0
    padding: float = 0.0
    side: str = ""


class Report(NamedTuple):
    """What a file holds.

    Attributes:
        path: Of the file or folder.
        layout: Its title.
        summaries: One for each array or list.
        labels: One line per split and emotion: a range, or the balance of classes.
        notes: What is odd about labels and features.
        usable: Whether a train script can use it where it lies.
        advice: Which script can, else what to do.
    """

    path: Path
    layout: str
    summaries: list[Summary]
    labels: list[str]
    notes: list[str]
    usable: bool
    advice: str


class Verdict(NamedTuple):
    """What was found out about a file, and whether it is as it should be."""

    path: Path
    right: bool
    text: str


# Inspection.


@np.errstate(all="ignore")  # NaN and infinite values are what is looked for
def inspect(found: Found) -> Report:
    """Returns what a file holds and who can use it."""
    usable, advice, notes = usability(found)
    labels = list(_labels(found)) if found.layout in LAYOUTS else []
    summaries = list(_summaries(found))
    return Report(found.path, _title(found), summaries, labels, notes, usable, advice)


def _title(found: Found) -> str:
    if found.layout == "sequence":
        return "computational sequence of the CMU-MultimodalSDK"
    return LAYOUTS[found.layout].title if found.layout in LAYOUTS else "unknown"


def _summaries(found: Found) -> Iterator[Summary]:
    if found.layout == "sequence":
        yield _sequence(found)
        return
    known: dict[int, Summary] = {}  # IEMOCAP's emotions share their features
    for where, value in found.values.items():
        if id(value) not in known:
            known[id(value)] = summarise(where, value)
        yield known[id(value)]._replace(where=where)


def _sequence(found: Found) -> Summary:
    """All videos of a computational sequence as if they were one."""
    features = [
        np.asarray(value) for where, value in found.values.items() if where.endswith("/features")
    ]
    name = next(iter(found.values)).split("/")[0]
    steps = sum(len(array) for array in features if array.ndim)
    shape = (steps, *features[0].shape[1:])
    return Summary(f"{name}: {len(features)} videos", shape, str(features[0].dtype))


def summarise(where: str, value: Values) -> Summary:
    """Returns what an array or a list looks like."""
    if not isinstance(value, np.ndarray):
        return Summary(where, (len(value),), "list")
    summary = Summary(where, value.shape, str(value.dtype))
    if value.dtype.kind not in "fiub" or 0 in value.shape or value.ndim == 0:
        return summary
    columns = [_Columns(part) for part in _chunks(value)]
    low = np.min([part.low for part in columns], axis=0)
    high = np.max([part.high for part in columns], axis=0)
    zeros = [part.zero_frames for part in columns]
    side = padded_in_front([value]) if value.ndim == 3 else None
    return summary._replace(
        nan=sum(part.nan for part in columns),
        inf=sum(part.inf for part in columns),
        low=float(low.min()) if np.isfinite(low).any() else math.nan,
        high=float(high.max()) if np.isfinite(high).any() else math.nan,
        constant=int((low >= high).sum()),
        padding=sum(zeros) / math.prod(value.shape[:-1]) if value.ndim == 3 else 0.0,
        side={True: "front", False: "end", None: ""}[side],
    )


def _chunks(value: np.ndarray) -> Iterator[np.ndarray]:
    rows = max(1, CHUNK * len(value) // max(1, value.nbytes))
    for start in range(0, len(value), rows):
        yield value[start : start + rows]


class _Columns:
    """Counts and ranges of some of an array's rows, by column."""

    def __init__(self, part: np.ndarray) -> None:
        part = part.reshape(-1, part.shape[-1] if part.ndim > 1 else 1)
        finite = np.isfinite(part)
        self.nan = int(np.isnan(part).sum())
        self.inf = int(part.size - finite.sum()) - self.nan
        numbers = part.astype(np.float64)
        self.low = np.min(numbers, axis=0, where=finite, initial=math.inf)
        self.high = np.max(numbers, axis=0, where=finite, initial=-math.inf)
        self.zero_frames = int((~part.any(axis=1)).sum())


def _labels(found: Found) -> Iterator[str]:
    for emotion in found.emotions:
        for split in SPLITS:
            label = found.part(split, "label", emotion)
            name = f"{emotion} {split}".strip()
            if label.ndim == 3 and label.shape[1:] == (len(MULT_EMOTIONS), 2):
                for column, inner in enumerate(MULT_EMOTIONS):
                    yield f"{inner} {split}: {_balance(label[:, column])}"
            elif label.ndim == 2 and label.shape[1] == 2:
                yield f"{name}: {_balance(label)}"
            else:
                finite = label[np.isfinite(label)]
                spread = (
                    f"{finite.min():.3g} to {finite.max():.3g}, mean {finite.mean():.3g}"
                    if finite.size
                    else "no numbers"
                )
                yield f"{name}: {spread}, {len(label)} examples"


def _balance(label: np.ndarray) -> str:
    counts = [f"[{1 - i}, {i}] {np.nansum(label[:, i]):.0f}" for i in (0, 1)]
    return f"{', '.join(counts)} of {len(label)} examples"


# Who can use a file.


def usability(found: Found) -> tuple[bool, str, list[str]]:
    """Returns whether a train script can use the file where it lies, what to do, and notes."""
    if found.layout == "sequence":
        advice = "align it with the CMU-MultimodalSDK and save named arrays, then convert those"
        return False, advice, []
    if found.layout is None:
        advice = "no known layout; save named arrays (data/README.md) and convert those"
        return False, advice, []
    notes: list[str] = []
    try:
        corpus = corpus_of(found)
        if found.layout != "release":
            advice = _advice_to_convert(found, corpus, notes)
            return False, advice, notes
        notes += load_found(found, corpus).notes
    except InputError as error:
        return False, str(error), notes
    if found.path.name != f"{corpus.name}.pkl":
        advice = f"name it {corpus.name}.pkl, then train_{corpus.name}.py can use it"
        return False, advice, notes
    return True, f"python train_{corpus.name}.py --data_path {found.path.parent}", notes


def corpus_of(found: Found) -> Corpus:
    """Returns the data set that a file's labels belong to; its name decides between several.

    Raises:
        InputError: They belong to none.
    """
    shape = found.part("train", "label", found.emotions[0]).shape
    in_columns = shape[1:] == (len(MULT_EMOTIONS), 2)
    fitting = [
        corpus
        for corpus in CORPORA.values()
        if (
            found.emotions == corpus.emotions or in_columns
            if corpus.emotions
            else found.emotions == ("",) and math.prod(shape[1:]) in corpus.columns_in_files
        )
    ]
    named = [corpus for corpus in fitting if corpus.name in found.path.name]
    if not fitting:
        widths = [f"(N, {c.label_columns}) of {c.title}" for c in CORPORA.values()]
        raise InputError(
            f"{found.path}: expected labels {', '.join(widths)}, or (N, 4, 2) with four emotions, "
            f"got {shape}"
        )
    return (named or fitting)[0]


def _advice_to_convert(found: Found, corpus: Corpus, notes: list[str]) -> str:
    """Returns the command; what is odd about the labels is added to the notes.

    Raises:
        InputError: The file holds what no conversion mends.
    """
    for split in SPLITS:
        text_of(found, split)
    for emotion, labels in labels_of(found, corpus, []).items():
        notes += [f"{emotion}: {note}".removeprefix(": ") for note in label_notes(corpus, labels)]
        if not emotion and are_class_numbers(labels):
            low, high = corpus.label_range
            raise InputError(
                f"the labels are class numbers, it seems: expected {corpus.title}'s, which go from "
                f"{low} to {high}; save named arrays with those (data/README.md), and convert them"
            )
    return f"python data/prepare.py convert {found.path} --to {corpus.name}"


def load_found(found: Found, corpus: Corpus) -> Loaded:
    """Returns a file's contents as a script loads them, with the notes on all its emotions.

    Raises:
        InputError: The script couldn't use them.
    """
    data, loaded = found.nested(), None
    notes: list[str] = []
    for emotion in corpus.emotions or (None,):
        loaded = assemble(found.path, data, corpus, emotion=emotion)
        notes += loaded.notes
    assert loaded is not None
    return loaded._replace(notes=tuple(notes))


def verify(folder: Path) -> Iterator[Verdict]:
    """Yields a verdict on each data file of a folder.

    Raises:
        InputError: There are none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of data files, found none there")
    files = sorted(f for f in folder.iterdir() if f.suffix in SUFFIXES and not f.is_dir())
    if not files:
        raise InputError(
            f"{folder}: expected data files, found none; see data/README.md for how to get them, "
            "or run: python data/prepare.py synthetic"
        )
    for path in files:
        try:
            with opened_unchanged(path) as file:
                verdict = _verdict(path, file)
        except InputError as error:
            verdict = Verdict(path, False, str(error).removeprefix(f"{path}: "))
        yield verdict


def _verdict(path: Path, file: BinaryIO) -> Verdict:
    corpus = CORPORA.get(path.stem) if path.suffix == ".pkl" else None
    size = file.seek(0, 2)
    if corpus and size == corpus.file_size:
        with tqdm(total=size, unit="B", unit_scale=True, desc=path.name, leave=False) as bar:
            if checksum(file, bar.update) == corpus.sha256:
                return Verdict(path, True, "the official file")
        text = "the official file's size, but not its checksum: it is damaged; get it anew"
        return Verdict(path, False, text)
    file.seek(0)
    found = read_open(path, file)
    if corpus is None:
        return Verdict(path, found.layout is not None, f"{_title(found)}; {usability(found)[1]}")
    loaded = load_found(found, corpus)
    examples = tuple(len(split) for split in loaded.splits)
    text = f"not the official file, but train_{corpus.name}.py can use it: "
    text += _sizes(examples, loaded.input_dims)
    official = (corpus.examples, corpus.dims)
    same = (examples, loaded.input_dims) == official
    text += ", as in the official data" if same else f" (official: {_sizes(*official)})"
    return Verdict(path, True, "; ".join([text, *loaded.notes]))


def _sizes(examples: tuple[int, ...], dims: tuple[int, ...]) -> str:
    return f"{' / '.join(map(str, examples))} examples, {' / '.join(map(str, dims))} features"


# Printing.


def table(report: Report) -> str:
    """Returns a report as text."""
    head = ("array", "shape", "dtype", "NaN", "inf", "from", "to", "constant", "padding")
    rows = [head, *(_row(summary) for summary in report.summaries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += [f"label {line}" for line in report.labels]
    lines += [f"note: {note}" for note in report.notes]
    verdict = "can be used" if report.usable else "can't be used as it is"
    lines = [f"{report.path}: {report.layout}", *lines, f"{verdict}: {report.advice}"]
    return "\n".join(map(printable, lines))


def _row(summary: Summary) -> Sequence[str]:
    shape = " x ".join(map(str, summary.shape))
    first = (summary.where, shape, summary.dtype, str(summary.nan), str(summary.inf))
    if summary.dtype == "list" or math.isnan(summary.low):
        return (*first, *"----")
    padding = f"{summary.padding:.0%} {summary.side}" if summary.padding else "-"
    return (*first, f"{summary.low:.4g}", f"{summary.high:.4g}", str(summary.constant), padding)


def as_json(report: Report) -> dict[str, object]:
    """Returns a report of plain values; NaN becomes None."""
    summaries = [
        {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in summary._asdict().items()
        }
        for summary in report.summaries
    ]
    return report._asdict() | {"path": str(report.path), "summaries": summaries}
