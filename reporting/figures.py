"""Figures of the reports, as PNG, PDF or SVG by the ends of their names.

Colours differ in lightness too, for print in grey.
"""

from __future__ import annotations

import textwrap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from data.files import printable, write_atomically

FORMATS = ("png", "pdf", "svg")  # the ends of the figures' names
DARK, LIGHT = "#12476d", "#e08e2b"
STYLES = (
    {"color": LIGHT, "marker": "o", "linestyle": "--"},
    {"color": DARK, "marker": "s", "linestyle": "-"},
)
BOX_POINTS = 10  # with fewer points at a value a box would say too much
LABEL_ROOM = 36  # characters below a panel
RANK_LABELS = 12
LETTERS_PER_INCH = 11  # of a title
LONGEST_WORD = 8  # letters, of most words in it


def hyperparameter_sheet(
    path: Path, losses: Mapping[str, Mapping[float, Sequence[float]]], label: str, title: str
) -> None:
    """Draws each setting's validation loss by value, one panel per hyperparameter."""
    columns = min(4, len(losses))
    rows = -(-len(losses) // columns)
    figure = Figure(figsize=(1 + 2.6 * columns, 0.6 + 2.1 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, sharey=True, squeeze=False)
    shown = [loss for part in next(iter(losses.values())).values() for loss in part]
    low, high = _limits(shown)
    for panel, (name, by_value) in zip(axes.flat, losses.items(), strict=False):
        _panel(panel, by_value, high)
        panel.set_title(name, fontsize=9)
    for panel in axes.flat[len(losses) :]:
        panel.set_visible(False)
    axes[0, 0].set_ylim(low, high)
    if above := sum(loss > high for loss in shown):
        title += f"; {above} above the frame (triangles)"
    figure.supylabel(label if rows > 1 else label.replace(" (", "\n("), fontsize=10)
    figure.suptitle(_lines(title, figure.get_figwidth()), fontsize=10, parse_math=False)
    _save(figure, path)


def _panel(panel: Axes, by_value: Mapping[float, Sequence[float]], top: float) -> None:
    random = np.random.default_rng(0)
    places = range(len(by_value))
    boxes = min(map(len, by_value.values())) >= BOX_POINTS
    for place, losses in zip(places, by_value.values(), strict=True):
        offsets = random.uniform(-0.22, 0.22, len(losses))
        alpha = max(0.05, min(0.5, 30 / len(losses))) if boxes else 0.9
        panel.scatter(place + offsets, losses, s=14, color=LIGHT, alpha=alpha, linewidths=0)
        above = offsets[np.array(losses) > top]
        at_top = {"transform": panel.get_xaxis_transform(), "clip_on": False}
        panel.scatter(place + above, np.ones_like(above), s=16, color=DARK, marker="^", **at_top)
        if not boxes:
            bar = {"color": "black", "linewidth": 2, "zorder": 0.9}
            panel.hlines(np.median(losses), place - 0.3, place + 0.3, **bar)
    if boxes:
        style = {"color": DARK, "linewidth": 1.2}
        panel.boxplot(
            [*by_value.values()],
            positions=places,
            widths=0.6,
            showfliers=False,
            medianprops={"color": "black", "linewidth": 2},
            **dict.fromkeys(("boxprops", "whiskerprops", "capprops"), style),
        )
    labels = [f"{value:g}" for value in by_value]
    step = 1 + sum(len(label) + 1 for label in labels) // LABEL_ROOM
    panel.set_xticks(places[::step], labels[::step], fontsize=8)
    panel.set_xlim(-0.6, len(by_value) - 0.4)
    panel.tick_params(axis="y", labelsize=8)
    panel.grid(axis="y", color="#dddddd", linewidth=0.6)
    panel.set_axisbelow(True)


def _limits(losses: Sequence[float]) -> tuple[float, float]:
    """Returns limits of all losses, but for very high ones, beside which the rest were a line."""
    low, middle, high = min(losses), np.percentile(losses, 75), max(losses)
    top = high if high - low <= 10 * (middle - low) else middle + 2 * (middle - low)
    margin = 0.05 * (top - low) or 0.01
    return low - margin, float(top + margin)


def rank_study(path: Path, scores: Mapping[int, np.ndarray], label: str, title: str) -> None:
    """Draws each seed's test score against rank, with mean and standard deviation."""
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    ranks, values = list(scores), list(scores.values())
    beside = 1.07 * np.repeat(ranks, [len(seeds) for seeds in values])
    axes.scatter(beside, np.concatenate(values), s=22, color=LIGHT, linewidths=0, label="one seed")
    means = [seeds.mean() for seeds in values]
    spreads = [seeds.std(ddof=1) if len(seeds) > 1 else 0 for seeds in values]
    style = {"color": DARK, "marker": "s", "capsize": 4, "linewidth": 1.6}
    axes.errorbar(ranks, means, spreads, label="mean ± standard deviation", zorder=3, **style)
    axes.set_xscale("log", base=2)
    if len(ranks) > RANK_LABELS:
        ranks = [2**i for i in range(max(ranks).bit_length()) if 2**i >= min(ranks)]
    axes.set_xticks(ranks, [f"{rank:g}" for rank in ranks])
    axes.minorticks_off()
    _finish(axes, "rank of the fusion", label, title)
    _save(figure, path)


def learning_curves(
    path: Path, history: np.ndarray, best_epoch: int, label: str, title: str
) -> None:
    """Draws training and validation loss against the epoch, and rings the one that was kept.

    Shape:
        history (epochs, 2): training and validation; epochs count from 1.
    """
    train, valid = history.T
    figure = Figure(figsize=(6.4, 4.0), layout="constrained")
    axes = figure.subplots()
    epochs = np.arange(1, len(train) + 1)
    mark = "o" if len(epochs) == 1 else "." if len(epochs) < 60 else ""  # one has no line
    axes.plot(epochs, train, color=LIGHT, linestyle="--", marker=mark, label="training")
    axes.plot(epochs, valid, color=DARK, marker=mark, label="validation")
    ring = {"s": 90, "facecolors": "none", "edgecolors": "black", "zorder": 3}
    axes.scatter(best_epoch, valid[best_epoch - 1], label=f"kept: epoch {best_epoch}", **ring)
    if 0 < 10 * history.min() < history.max():  # else the last epochs look like a flat line
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    _finish(axes, "epoch", label, title)
    _save(figure, path)


def fusion_costs(
    path: Path, costs: Mapping[str, Sequence[tuple[int, int, float]]], device: str
) -> dict[str, float]:
    """Draws parameters and time of a fusion against the hidden width, on logarithmic axes.

    Args:
        path: The figure.
        costs: By method, its (width, parameters, microseconds per data point).
        device: Where the time was measured.

    Returns:
        By method, the power of the width with which the time grows, over the three largest.
    """
    figure = Figure(figsize=(9.6, 4.2), layout="constrained")
    panels = figure.subplots(1, 2)
    slopes = {}
    shown = (
        (1, "parameters of the fusion", "parameters"),
        (2, f"forward and backward of the fusion, {device}", "time per data point (µs)"),
    )
    for axes, (column, title, label) in zip(panels, shown, strict=True):
        for (name, points), style in zip(costs.items(), STYLES, strict=False):
            widths = [point[0] for point in points]
            values = [point[column] for point in points]
            slopes[name] = slope(widths, values)
            axes.loglog(widths, values, label=f"{name}: slope {slopes[name]:.2f}", **style)
        axes.xaxis.set_major_formatter("{x:g}")
        _finish(axes, "hidden width of each of three modalities", label, title)
    _save(figure, path)
    return slopes


def slope(widths: Sequence[float], values: Sequence[float]) -> float:
    """Returns the slope of values against widths, both logarithmic, over the three largest."""
    return float(np.polyfit(np.log(widths[-3:]), np.log(values[-3:]), 1)[0])


def _lines(title: str, width: float) -> str:
    """Returns a title in lines that fit into so many inches, about equally long."""
    title, most = printable(title), int(LETTERS_PER_INCH * width)
    count = -(-len(title) // most)
    return textwrap.fill(title, min(most, len(title) // count + LONGEST_WORD))


def _finish(axes: Axes, x_label: str, y_label: str, title: str) -> None:
    figure = axes.get_figure(root=True)
    assert figure
    title = _lines(title, figure.get_figwidth() / len(figure.axes))
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.set_title(title, fontsize=10, parse_math=False)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.legend(frameon=False, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.14))


def _save(figure: Figure, path: Path) -> None:
    kind = path.suffix.removeprefix(".")
    with warnings.catch_warnings(), matplotlib.rc_context({"pdf.fonttype": 42}):  # TrueType
        warnings.filterwarnings("ignore", "Glyph")  # of a run's name, which no font may have
        write_atomically(path, lambda part: figure.savefig(part, format=kind, dpi=150))
