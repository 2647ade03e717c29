"""What data files hold, and whether the train scripts can use them."""

from __future__ import annotations

import contextlib
import io
import math
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.formats import LAYOUTS, Found, Values
from utils import EMOTIONS, SPLITS, InputError, load_iemocap, load_mosi, load_pom, padded_in_front

CHUNK = 2**24  # bytes that are looked at together
MULT_EMOTIONS = ("neutral", "happy", "sad", "angry")  # their order in MulT's labels (N, 4, 2)
LOADERS = {
    "mosi": [load_mosi],
    "iemocap": [partial(load_iemocap, emotion=emotion) for emotion in EMOTIONS],
    "pom": [load_pom],
}


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
        usable: Whether a train script can use it where it lies.
        advice: Which script can, else what to do.
    """

    path: Path
    layout: str
    summaries: list[Summary]
    labels: list[str]
    usable: bool
    advice: str


@np.errstate(all="ignore")  # NaN and infinite values are what is looked for
def inspect(found: Found) -> Report:
    """Returns what a file holds and who can use it."""
    usable, advice = usability(found)
    title = LAYOUTS[found.layout].title if found.layout in LAYOUTS else "unknown"
    if found.layout == "sequence":
        title = "computational sequence of the CMU-MultimodalSDK"
    labels = list(_labels(found)) if found.layout in LAYOUTS else []
    return Report(found.path, title, list(_summaries(found)), labels, usable, advice)


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
    return summary._replace(
        nan=sum(part.nan for part in columns),
        inf=sum(part.inf for part in columns),
        low=float(low.min()) if np.isfinite(low).any() else math.nan,
        high=float(high.max()) if np.isfinite(high).any() else math.nan,
        constant=int((low >= high).sum()),
        padding=sum(zeros) / math.prod(value.shape[:-1]) if value.ndim == 3 else 0.0,
        side=_side(value),
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


def _side(value: np.ndarray) -> str:
    if value.ndim != 3:
        return ""
    return {True: "front", False: "end", None: ""}[padded_in_front([value])]


def _labels(found: Found) -> Iterator[str]:
    for emotion in found.emotions:
        for split in SPLITS:
            label = found.part(split, "label", emotion)
            name = f"{emotion} {split}".strip()
            if label.ndim == 3 and label.shape[1:] == (len(MULT_EMOTIONS), 2):
                for column, inner in enumerate(MULT_EMOTIONS):
                    yield f"{inner} {split}: {_balance(label[:, column])}"
            elif emotion or (label.ndim == 2 and label.shape[1] == 2):
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
    counts = [f"[1, 0] {int(label[:, 0].sum())}", f"[0, 1] {int(label[:, 1].sum())}"]
    return f"{', '.join(counts)} of {len(label)} examples"


def usability(found: Found) -> tuple[bool, str]:
    """Returns whether a train script can use the file where it lies, and what to do."""
    if found.layout == "sequence":
        return (
            False,
            "align it with the CMU-MultimodalSDK and save named arrays, then convert those",
        )
    if found.layout is None:
        return False, "no known layout; save named arrays (data/README.md) and convert those"
    try:
        name = corpus_of(found)
    except InputError as error:
        return False, str(error)
    if found.layout != "release":
        source = found.path
        return False, f"python data/prepare.py convert {source} --to {name} -o data"
    try:
        try_loader(found.path, name)
    except InputError as error:
        return False, str(error)
    if found.path.name != f"{name}.pkl":
        return False, f"name it {name}.pkl, then train_{name}.py can use it"
    return True, f"python train_{name}.py --data_path {found.path.parent}"


def corpus_of(found: Found) -> str:
    """Returns mosi, iemocap or pom, whichever the labels belong to.

    Raises:
        InputError: They belong to none.
    """
    if found.emotions == EMOTIONS:
        return "iemocap"
    shape = found.part("train", "label").shape
    inner = math.prod(shape[1:])
    if inner == 1:
        return "mosi"
    if inner in (16, 17):
        return "pom"
    if shape[1:] == (len(MULT_EMOTIONS), 2):
        return "iemocap"
    raise InputError(
        f"{found.path}: expected labels (N, 1) of MOSI, (N, 16) of POM or (N, 4, 2) of IEMOCAP, "
        f"got {shape}"
    )


def try_loader(path: Path, name: str) -> tuple[tuple[int, ...], tuple[int, int, int]]:
    """Returns examples per split, and features of audio, video and text, as a script loads them.

    Raises:
        InputError: The script couldn't use the file.
    """
    with tempfile.TemporaryDirectory() as folder:
        os.symlink(path.resolve(), Path(folder) / f"{name}.pkl")
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                loaded = [load(folder) for load in LOADERS[name]][-1]
        except InputError as error:
            inside = str(Path(folder) / f"{name}.pkl")
            raise InputError(str(error).replace(inside, str(path))) from None
    return tuple(len(split) for split in loaded[:3]), loaded[3]


def table(report: Report) -> str:
    """Returns a report as text."""
    head = ("array", "shape", "dtype", "NaN", "inf", "from", "to", "constant", "padding")
    rows = [head, *(_row(summary) for summary in report.summaries)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    labels = [f"label {line}" for line in report.labels]
    verdict = "can be used" if report.usable else "can't be used as it is"
    return "\n".join(
        [f"{report.path}: {report.layout}", *lines, *labels, f"{verdict}: {report.advice}"]
    )


def _row(summary: Summary) -> Sequence[str]:
    shape = " x ".join(map(str, summary.shape))
    if summary.dtype == "list" or math.isnan(summary.low):
        return (summary.where, shape, summary.dtype, str(summary.nan), str(summary.inf), *"----")
    return (
        summary.where,
        shape,
        summary.dtype,
        str(summary.nan),
        str(summary.inf),
        f"{summary.low:.4g}",
        f"{summary.high:.4g}",
        str(summary.constant),
        f"{summary.padding:.0%} {summary.side}" if summary.padding else "-",
    )


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
