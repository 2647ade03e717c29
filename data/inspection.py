"""What data files hold, whether they are the official ones, and which train script can use them."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np

from data.assembly import Assembled, assemble_all
from data.checks import are_class_numbers, label_notes
from data.conversion import Choices, as_it_is, convert, train_command, without_flags
from data.corpora import CORPORA, OWN, SPLITS, Corpus
from data.files import InputError, checksum, opened_unchanged, printable
from data.formats import read_open
from data.kinds import SUFFIXES, quoted
from data.labels import labels_of
from data.layouts import LAYOUTS, MULT_EMOTIONS, SDK_EMOTIONS, Found, is_native, lacking
from data.summaries import HEAD, Summary, cells, summaries

_SEQUENCE = "align it with the CMU-MultimodalSDK and save named arrays, then convert those"
FOLDERS = (
    Path("data"),
    Path("converted"),
)  # where to convert to: the train scripts' own, or another


class Report(NamedTuple):
    """What a file or folder holds."""

    path: Path
    layout: str
    summaries: list[Summary]
    labels: list[str]  # a line per split and emotion: a range, or the balance of classes
    notes: list[str]  # what is odd about labels and features
    usable: bool  # by a train script, where it lies
    advice: str  # which script can use it, else what to do


class Verdict(NamedTuple):
    """What was found out about a file, and whether it is as it should be."""

    path: Path
    right: bool
    text: str


@np.errstate(all="ignore")  # NaN and infinite values are what is looked for
def inspect(found: Found) -> Report:
    """Returns what a file holds and who can use it."""
    usable, advice, notes = usability(found)
    labels = list(_labels(found)) if found.layout in LAYOUTS else []
    return Report(found.path, found.title, list(summaries(found)), labels, notes, usable, advice)


def _labels(found: Found) -> Iterator[str]:
    for emotion, split in itertools.product(found.emotions, SPLITS):
        try:
            label = found.label(split, emotion)
        except InputError as error:
            yield f"{emotion} {split}: {error}".lstrip()
            continue
        if label.shape[1:] == (len(MULT_EMOTIONS), 2):
            for column, inner in enumerate(MULT_EMOTIONS):
                yield f"{inner} {split}: {_balance(label[:, column])}"
        elif label.shape[1:] == (2,):
            yield f"{emotion} {split}: {_balance(label)}".lstrip()
        else:
            finite, spread = label[np.isfinite(label)], "no numbers"
            if finite.size:
                spread = f"{finite.min():.3g} to {finite.max():.3g}, mean {finite.mean():.3g}"
            yield f"{emotion} {split}: {spread}, {len(label)} examples".lstrip()


def _balance(label: np.ndarray) -> str:
    counts = [f"[{1 - i}, {i}] {np.nansum(label[:, i]):.0f}" for i in (0, 1)]
    return f"{', '.join(counts)} of {len(label)} examples"


def usability(found: Found) -> tuple[bool, str, list[str]]:
    """Returns whether a train script can use the file where it lies, what to do, and notes."""
    notes: list[str] = []
    try:
        return *_advice(found, notes), notes
    except InputError as error:
        return False, str(error), notes


def _advice(found: Found, notes: list[str]) -> tuple[bool, str]:
    """Returns whether a script can use a file, and what to do; adds what is odd to the notes.

    Raises:
        InputError: The file holds what no script takes, and no conversion mends.
    """
    if found.layout not in LAYOUTS:
        return False, _SEQUENCE if found.layout == "sequence" else lacking(found)
    corpus = corpus_of(found)
    if assembled := as_it_is(found, corpus):
        notes += assembled.remarks
        train = train_command(corpus, found.path.parent, found.without)
        if found.emotions[0] != (corpus.emotions or ("",))[0]:
            train += f" --emotion {found.emotions[0]}"
        if found.path.name == f"{corpus.name}.pkl":
            return True, train
        _check_labels(found, corpus, [])
        return False, f"name it {corpus.name}.pkl, then: {train}"
    _check_labels(found, corpus, notes)
    try:
        convert(found, corpus, Choices(without=found.without))
    except InputError:
        if is_native(found):  # then it is that file which is to be put right
            assemble_all(found.path, found.data, corpus, found.without)
        raise
    folder = next((f for f in FOLDERS if not (f / f"{corpus.name}.pkl").exists()), None)
    where = {FOLDERS[0]: "", None: " --force"}.get(folder, f" -o {folder}")
    command = f"{_converting(found, corpus.name)}{where}"
    if found.without:
        return False, lacking(found, f", or: {command} {without_flags(found.without)}")
    return False, command


def _converting(found: Found, name: str) -> str:
    return f"python data/prepare.py convert {quoted(found.path)} --to {name}"


def corpus_of(found: Found) -> Corpus:
    """Returns the data set that a file's labels belong to; its name decides between several.

    Raises:
        InputError: They belong to none.
    """
    shape = found.label("train").shape
    fitting = [corpus for corpus in CORPORA.values() if _fits(found, shape, corpus)]
    if not fitting:
        widths = [f"(N, {c.label_columns}) of {c.title}" for c in CORPORA.values()]
        raise InputError(
            f"{found.path}: expected labels {', '.join(widths)}, or (N, 4, 2), (N, 9) or "
            f"(N, 11) of emotions, got {shape}; other labels take a script of your own: "
            f"{_own(found)}"
        )
    return max(fitting, key=lambda corpus: corpus.name in found.path.name)  # the first of equals


def _own(found: Found) -> str:
    """Returns where it is said how data of one's own are trained, and how a file becomes such."""
    return "docs/own-data.md" + f", after: {_converting(found, OWN.name)}" * (not is_native(found))


def _fits(found: Found, shape: tuple[int, ...], corpus: Corpus) -> bool:
    if found.emotions != ("",):
        return set(found.emotions) <= set(corpus.emotions)
    if corpus.emotions:
        return shape[1:] in ((len(MULT_EMOTIONS), 2), *((columns,) for columns in SDK_EMOTIONS))
    return math.prod(shape[1:]) in corpus.columns_in_files


def _check_labels(found: Found, corpus: Corpus, notes: list[str]) -> None:
    for emotion, labels in labels_of(found, corpus, []).items():
        notes += [f"{emotion}: {note}".removeprefix(": ") for note in label_notes(corpus, labels)]
        if not emotion and are_class_numbers(labels):
            low, high = corpus.label_range
            raise InputError(
                f"the labels are class numbers, it seems: expected {corpus.title}'s, which go from "
                f"{low} to {high}; save named arrays with those (data/README.md), and convert "
                f"them; or train classes: {_own(found)}"
            )


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
        if checksum(file) == corpus.sha256:
            return Verdict(path, True, "the official file")
        raise InputError(
            "the official file's size, but not its checksum: it is damaged; get it anew, or ask "
            f"for the corpus at {corpus.request}"
        )
    file.seek(0)
    found = read_open(path, file)
    if corpus is None:
        return Verdict(path, found.layout is not None, f"{found.title}; {usability(found)[1]}")
    loaded = assemble_all(path, found.data, corpus, found.without)
    sizes, official = _sizes(loaded), _sizes(corpus)
    compared = ", as in the official data" if sizes == official else f" (official: {official})"
    text = f"not the official file, but train_{corpus.name}.py can use it: {sizes}{compared}"
    return Verdict(path, True, "; ".join([text, *loaded.remarks]))


def _sizes(data: Assembled | Corpus) -> str:
    examples, dims = (" / ".join(map(str, sizes)) for sizes in (data.examples, data.dims))
    return f"{examples} examples, {dims} features"


def table(report: Report) -> str:
    """Returns a report as text."""
    rows = [HEAD, *map(cells, report.summaries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines += [f"label {line}" for line in report.labels]
    lines += [f"note: {note}" for note in report.notes]
    verdict = "can be used" if report.usable else "can't be used as it is"
    lines = [f"{report.path}: {report.layout}", *lines, f"{verdict}: {report.advice}"]
    return "\n".join(map(printable, lines))


def as_json(report: Report) -> dict[str, object]:
    """Returns a report of plain values."""
    rows = [summary._asdict() for summary in report.summaries]
    return report._asdict() | {"path": str(report.path), "summaries": rows}
