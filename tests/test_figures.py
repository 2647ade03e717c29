"""reporting/figures.py: what is drawn lies in the frame, and the title says what it is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from written_results import SETTING, make_rows, ranks, write_results

import report
from reporting import figures


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that would have been saved."""
    found: list[Figure] = []
    monkeypatch.setattr(figures, "_save", lambda figure, path: found.append(figure))
    return found


def in_frame(axes: Axes, values: list[float]) -> list[bool]:
    low, high = axes.get_ylim()
    return [low <= value <= high for value in values]


def test_worst_setting_is_drawn_where_there_is_room(drawn: list[Figure]) -> None:
    losses = [1.1, 1.12, 1.08, 1.15, 1.1, 1.45]
    figures.hyperparameter_sheet(Path("a"), {"rank": {1: losses}}, "MAE", "title")
    assert all(in_frame(drawn[0].axes[0], losses))
    assert drawn[0].get_suptitle() == "title"


def test_setting_far_above_the_others_is_counted_and_marked(drawn: list[Figure]) -> None:
    losses = [1.1, 1.12, 1.08, 1.15, 1.1, 9.0]
    figures.hyperparameter_sheet(Path("a"), {"rank": {1: losses}}, "MAE", "title")
    (axes,) = drawn[0].axes
    assert in_frame(axes, losses) == [True] * 5 + [False]
    assert "1 above" in drawn[0].get_suptitle()
    assert sum(len(np.asarray(points.get_offsets())) for points in axes.collections[:2]) == 7


def test_learning_curve_is_drawn_whole(drawn: list[Figure]) -> None:
    train = [40.0, 9.0, 3.0, 1.5, 1.2, 1.1, 1.0]
    history = np.array([train, [1.5, 1.4, 1.3, 1.2, 1.2, 1.1, 1.2]]).T
    figures.learning_curves(Path("a"), history, 6, "MAE", "title")
    assert all(in_frame(drawn[0].axes[0], train))


def test_curve_of_one_epoch_has_markers(drawn: list[Figure]) -> None:
    figures.learning_curves(Path("a"), np.array([[1.5, 1.3]]), 1, "MAE", "title")
    (axes,) = drawn[0].axes
    assert [line.get_marker() for line in axes.lines] == ["o", "o"]
    assert all(tick == int(tick) for tick in axes.get_xticks())


def test_settings_too_few_to_tell_effects_apart_are_not_drawn(
    drawn: list[Figure], tmp_path: Path
) -> None:
    settings = [SETTING, SETTING._replace(rank=1, batch_size=8, audio_hidden=16)]
    write_results(tmp_path / "results_mosi_1.csv", "mosi", make_rows("mosi", settings, 1))
    report.main([str(tmp_path), "--output_path", str(tmp_path)])
    text = (tmp_path / "report.md").read_text()
    assert "No figure by value: 2 settings differ in 3 ways." in text
    assert drawn == []


def test_title_of_a_run_with_a_long_name_lies_in_the_figure(drawn: list[Figure]) -> None:
    title = f"CMU-MOSI, run {'WORDS_of_many_letters ' * 3}{'x' * 200}: what is shown"
    label, scores = "MAE (points)", np.array([1.00011, 1.00012])
    figures.rank_study(Path("a"), {1: scores, 2: scores}, label, title)
    figures.learning_curves(Path("a"), np.ones((3, 2)), 2, label, title)
    figures.hyperparameter_sheet(Path("a"), {"rank": {1: [1.0, 2.0]}}, label, title)
    device = "NVIDIA RTX 6000 Ada Generation Laptop GPU"
    figures.fusion_costs(Path("a"), {"LMF": [(8, 9, 1.0), (16, 18, 2.0)]}, device)
    for figure in drawn:
        FigureCanvasAgg(figure).draw()
        for text in [*(axes.title for axes in figure.axes), *figure.texts]:
            box = text.get_window_extent()
            assert box.x0 >= 0
            assert box.x1 <= figure.bbox.x1
            assert box.y1 <= figure.bbox.y1


def test_titles_say_what_is_shown(drawn: list[Figure], tmp_path: Path) -> None:
    rows = make_rows("mosi", ranks(1, 4), 2)
    write_results(tmp_path / "results_mosi_1.csv", "mosi", rows)
    report.main([str(tmp_path), "--output_path", str(tmp_path)])
    title = drawn[0].axes[0].get_title()
    assert title == "CMU-MOSI, run mosi_1: test score by rank, n = 2 seeds, all else equal"
