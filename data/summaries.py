"""What the arrays of a data file look like: shapes, ranges, NaN, padding, constant columns."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from data.assembly import padded_in_front
from data.layouts import Found, Values

HEAD = ("array", "shape", "dtype", "NaN", "inf", "from", "to", "constant", "padding")


class Summary(NamedTuple):
    """What one array, or list, of a file looks like. Counts are of values."""

    where: str  # in the file
    shape: tuple[int, ...]
    dtype: str  # or "list"
    nan: int = 0
    inf: int = 0
    low: float | None = None  # of the finite values
    high: float | None = None
    constant: int = 0  # columns (of the last dimension) that have one value only
    padding: float = 0.0  # of sequences: the share of frames that are zero throughout
    side: str = ""  # where most of these frames are: "front", "end" or ""


def summaries(found: Found) -> Iterator[Summary]:
    """Yields a summary of each array and list of a file; one of all of a sequence."""
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
    features = [np.asarray(v) for where, v in found.values.items() if where.endswith("/features")]
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
    columns = value.reshape(-1, value.shape[-1] if value.ndim > 1 else 1)
    if value.dtype.char not in "efd":  # single precision stays: the copy would take twice as much
        columns = columns.astype(np.float64)
    finite = np.isfinite(columns)
    nan = int(np.isnan(columns).sum())
    low = np.min(columns, axis=0, where=finite, initial=math.inf)
    high = np.max(columns, axis=0, where=finite, initial=-math.inf)
    is_sequence = value.ndim == 3
    in_front = padded_in_front([value]) if is_sequence else None
    return summary._replace(
        nan=nan,
        inf=int(finite.size - finite.sum()) - nan,
        low=float(low.min()) if finite.any() else None,
        high=float(high.max()) if finite.any() else None,
        constant=int((low >= high).sum()),
        padding=float((~columns.any(axis=1)).mean()) if is_sequence else 0.0,
        side={True: "front", False: "end", None: ""}[in_front],
    )


def cells(summary: Summary) -> Sequence[str]:
    """Returns a summary as text, in the order of HEAD."""
    shape = " x ".join(map(str, summary.shape))
    first = (summary.where, shape, summary.dtype, str(summary.nan), str(summary.inf))
    if summary.low is None or summary.high is None:
        return (*first, *"----")
    padding = f"{summary.padding:.0%} {summary.side}" if summary.padding else "-"
    return (*first, f"{summary.low:.4g}", f"{summary.high:.4g}", str(summary.constant), padding)
