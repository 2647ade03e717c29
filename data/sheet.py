"""Draws data files: one row of label histograms, sequence lengths and feature scales for each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from data.formats import LAYOUTS, Found
from utils import SPLITS, InputError


def draw(found: Sequence[Found], path: Path) -> None:
    """Saves one sheet about the files of known layouts.

    Raises:
        InputError: There are none, or the image can't be written.
    """
    known = [item for item in found if item.layout in LAYOUTS]
    if not known:
        raise InputError(f"{path}: expected a file of a known layout to draw, found none")
    figure = Figure(figsize=(12, 3 * len(known)), layout="constrained")
    grid = figure.subplots(len(known), 3, squeeze=False)
    for item, (labels, lengths, scales) in zip(known, grid, strict=True):
        _labels(item, labels)
        _lengths(item, lengths)
        _scales(item, scales)
        labels.set_title(item.path.name, loc="left")
    try:
        figure.savefig(path, dpi=120)
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: can't be written: {error}") from None


def _labels(item: Found, axes: Axes) -> None:
    labels = [_finite(item.part(split, "label", item.emotions[0])) for split in SPLITS]
    axes.hist(labels, bins=15, density=True, label=list(SPLITS))
    axes.set(xlabel=f"label {item.emotions[0]}".strip(), ylabel="share of examples")
    axes.legend(fontsize="small")


def _lengths(item: Found, axes: Axes) -> None:
    lengths = []
    for split in SPLITS:
        text = item.part(split, "text", item.emotions[0])
        lengths.append(text.any(axis=2).sum(axis=1) if text.ndim == 3 else np.zeros(len(text)))
    longest = max(int(length.max(initial=0)) for length in lengths)
    axes.hist(lengths, bins=min(longest + 1, 50), range=(-0.5, longest + 0.5), label=list(SPLITS))
    axes.set(xlabel="words that are no padding", ylabel="examples")


def _scales(item: Found, axes: Axes) -> None:
    for role in ("audio", "video", "text"):
        part = item.part("train", role, item.emotions[0])
        columns = np.nan_to_num(part.reshape(-1, part.shape[-1]), posinf=0, neginf=0)
        magnitudes = np.sort(np.abs(columns).max(axis=0))[::-1]
        share = np.linspace(0, 1, len(magnitudes))
        axes.plot(share[magnitudes > 0], magnitudes[magnitudes > 0], label=role)
    axes.set(yscale="log", xlabel="features, largest first", ylabel="largest magnitude, train")
    axes.legend(fontsize="small")


def _finite(array: np.ndarray) -> np.ndarray:
    return array[np.isfinite(array)].astype(np.float64)
