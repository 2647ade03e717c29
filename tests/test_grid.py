"""Which settings there are: the grid, its order, what narrows it, and hyperparams.txt."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import get_type_hints

import numpy as np
import pytest

import train_iemocap
import train_mosi
import train_pom
from search.grid import Grid, Settings, narrow, shuffled
from search.hyperparams import HYPERPARAMS_FILE, read_hyperparams
from training.setting import RANGES, Setting, parse_value
from utils import InputError, total

SMALL = {name: [1.0] for name in Setting._fields} | {
    "audio_hidden": [4, 8, 16],
    "rank": [1, 4],
    "weight_decay": [0, 0.001, 0.01],
}

SETTING = Setting(8, 4, 64, 0.3, 0.1, 0.15, 0.003, 0.0005, 8, 64, 0.001)

FOUND = Setting(4, 8, 128, 0.1, 0.3, 0, 0.003, 0.003, 1, 8, 0)  # by validation, as its comment says
# As published: audio_hidden, video_hidden, text_hidden, the dropouts of audio, video and text,
# factor_learning_rate, learning_rate, rank, batch_size, weight_decay.
PUBLISHED_POM = {
    "Confidence": (16, 16, 64, 0.3, 0.5, 0.2, 0.0005, 0.001, 4, 16, 0),
    "Passionate": (16, 16, 64, 0.3, 0.5, 0.2, 0.0005, 0.001, 4, 16, 0),
    "Pleasant": (16, 16, 256, 0.1, 0.15, 0.5, 0.0003, 0.003, 1, 128, 0),
    "Dominant": (8, 8, 64, 0.1, 0.2, 0.2, 0.003, 0.0003, 4, 8, 0),
    "Credible": (16, 16, 64, 0.3, 0.5, 0.2, 0.0005, 0.001, 4, 16, 0),
    "Vivid": (16, 8, 64, 0.15, 0.15, 0.15, 0.003, 0.0005, 16, 32, 0.01),
    "Expertise": (8, 16, 64, 0.2, 0.15, 0.3, 0.003, 0.0003, 16, 16, 0.001),
    "Entertaining": (8, 8, 64, 0.2, 0.2, 0.15, 0.0005, 0.001, 8, 8, 0),
    "Reserved": (8, 16, 64, 0.5, 0.1, 0.15, 0.003, 0.0003, 16, 8, 0.001),
    "Trusting": (16, 8, 128, 0.1, 0.5, 0.15, 0.0003, 0.001, 16, 16, 0),
    "Relaxed": (8, 8, 64, 0.5, 0.1, 0.2, 0.0005, 0.0003, 8, 16, 0),
    "Outgoing": (16, 16, 256, 0.1, 0.15, 0.2, 0.003, 0.0005, 4, 16, 0.01),
    "Thorough": (16, 16, 64, 0.3, 0.5, 0.2, 0.0005, 0.001, 4, 16, 0),
    "Nervous": (4, 8, 256, 0, 0.5, 0.1, 0.003, 0.003, 8, 64, 0),
    "Persuasive": (16, 16, 64, 0.3, 0.5, 0.2, 0.0005, 0.001, 4, 16, 0),
    "Humorous": (8, 8, 64, 0.5, 0.2, 0.15, 0.003, 0.001, 4, 4, 0.001),
    "Sentiment": (16, 16, 64, 0.5, 0.5, 0.2, 0.003, 0.001, 4, 8, 0.002),
}
PUBLISHED_IEMOCAP = {
    "angry": (8, 4, 64, 0.3, 0.1, 0.15, 0.003, 0.0005, 8, 64, 0.001),
    "sad": (8, 4, 128, 0, 0, 0, 0.0005, 0.003, 4, 64, 0.002),
    "happy": (4, 16, 128, 0.3, 0.1, 0.5, 0.003, 0.001, 1, 128, 0.002),
    "neutral": (32, 8, 64, 0.2, 0.5, 0.2, 0.003, 0.0005, 16, 16, 0.002),
}


def position(settings: Settings, setting: Setting) -> int:
    places = np.zeros((len(setting), 1), dtype=int)
    return int(settings.positions([[value] for value in setting], places)[0])


PUBLISHED = pytest.mark.parametrize(
    ("data_set", "grid", "published"),
    [
        ("mosi", train_mosi.GRID, {"found_here": FOUND}),
        ("pom", train_pom.GRID, PUBLISHED_POM),
        ("iemocap", train_iemocap.GRID, PUBLISHED_IEMOCAP),
    ],
    ids=["mosi", "pom", "iemocap"],
)


@PUBLISHED
def test_hyperparams_file_has_the_published_settings(
    data_set: str, grid: Grid, published: dict[str, tuple[float, ...]]
) -> None:
    found = read_hyperparams(HYPERPARAMS_FILE, data_set)
    assert found == published
    settings = Settings(grid)
    for setting in found.values():  # each lies in the released grid
        assert settings[position(settings, setting)] == setting


def test_single_settings_are_chosen_by_name() -> None:
    found = read_hyperparams(HYPERPARAMS_FILE, "iemocap", ["sad"])
    assert found == {"sad": PUBLISHED_IEMOCAP["sad"]}
    with pytest.raises(InputError, match="joy"):
        read_hyperparams(HYPERPARAMS_FILE, "iemocap", ["sad", "joy"])


HEADER = " ".join(["name", *Setting._fields])
ROW = "8 4 64 0.3 0.1 0.15 0.003 0.0005 8 64 0.001"


def test_users_can_add_rows_tables_and_comments(tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    path.write_text(
        f"# mine\n\n[mosi]  # a comment\n{HEADER}\n first\t{ROW} # another\n#{ROW}\n\n"
        f"second 5 6 30 0 0 0 1e-4 1 3 7 0\n[pom]\n{HEADER}\nx {ROW}\n"
    )
    assert read_hyperparams(path, "mosi") == {
        "first": SETTING,
        "second": (5, 6, 30, 0, 0, 0, 0.0001, 1, 3, 7, 0),
    }


@pytest.mark.parametrize(
    ("lines", "number", "reason"),
    [
        ([f"x {ROW}"], 1, "table's name"),
        (["[mosi]", f"x {ROW}"], 2, "columns"),
        (["[mosi]", HEADER.replace("rank", "ranks")], 2, "columns"),
        (["[mosi]", HEADER, "x 1 2 3"], 3, "11 values"),
        (["[mosi]", HEADER, f"x {ROW} 0"], 3, "11 values"),
        (["[mosi]", HEADER, f"x {ROW.replace(' 64 ', ' 64.5 ')}"], 3, "text_hidden"),
        (["[mosi]", HEADER, f"x {ROW.replace('0.15', '1')}"], 3, "text_dropout"),
        (["# one", "", "[mosi]", HEADER, f"x {ROW}", f"x {ROW}"], 6, "'x' again"),
        (["[mosi]", HEADER, "[mosi]", HEADER], 3, "again"),
        (["[mosei]"], 1, "mosei"),
        (["[mosi"], 1, r"\[mosi"),
    ],
)
def test_a_bad_hyperparams_line_is_named_by_its_number(
    lines: list[str], number: int, reason: str, tmp_path: Path
) -> None:
    path = tmp_path / "mine.txt"
    path.write_text("\n".join(lines))
    with pytest.raises(InputError, match=rf"mine\.txt, line {number}: .*{reason}"):
        read_hyperparams(path, "mosi")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: None,
        lambda path: path.write_bytes(b"\xff\xfe\x00binary"),
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"#" * 2**25),
        lambda path: path.mkdir(),
        os.mkfifo,
        lambda path: path.symlink_to("/dev/zero"),
    ],
    ids=["missing", "binary", "empty", "huge", "a folder", "a pipe", "a device"],
)
def test_a_file_without_settings_is_refused(make: Callable[[Path], None], tmp_path: Path) -> None:
    path = tmp_path / "mine.txt"
    make(path)
    with pytest.raises(InputError, match=r"mine\.txt: expected"):
        read_hyperparams(path, "pom")


def test_settings_of_a_grid_are_all_its_combinations() -> None:
    settings = Settings(SMALL)
    combinations = list(itertools.product(*(SMALL[name] for name in Setting._fields)))
    assert len(settings) == len(combinations) == 18
    assert [settings[i] for i in range(18)] == combinations
    assert [position(settings, settings[i]) for i in range(18)] == list(range(18))
    places = np.unravel_index(np.arange(18), [len(SMALL[name]) for name in Setting._fields])
    values = [SMALL[name] for name in Setting._fields]
    assert settings.positions(values, np.array(places)).tolist() == list(range(18))


def test_a_grid_may_have_more_settings_than_int64_can_number() -> None:
    settings = Settings({name: np.linspace(0.1, 0.9, 100).tolist() for name in Setting._fields})
    assert settings.size == 100**11
    drawn = next(shuffled(settings.size, 0))[:50].tolist()
    assert 0 <= min(drawn) < max(drawn) < settings.size
    assert max(drawn) > 2**63
    chosen = [settings[i] for i in drawn]
    values = [list(column) for column in zip(*chosen, strict=True)]
    places = np.tile(np.arange(50), (len(values), 1))
    assert settings.positions(values, places).tolist() == drawn
    values[3][7] = 0.95  # not in the grid
    assert settings.positions(values, places).tolist() == [*drawn[:7], -1, *drawn[8:]]


def test_settings_end_and_have_positions_only_where_the_grid_does() -> None:
    settings = Settings(dict(reversed(SMALL.items())))  # the order of names doesn't matter
    assert list(itertools.islice(settings, 19)) == [Settings(SMALL)[i] for i in range(18)]
    assert position(settings, settings[0]._replace(rank=2)) < 0
    assert position(settings, settings[17]._replace(rank=2)) < 0


@pytest.mark.parametrize("count", [1, 2, 3, 18, 1000, 70000])
@pytest.mark.parametrize("seed", [0, 2**70])
def test_shuffled_is_a_permutation(count: int, seed: int) -> None:
    order = np.concatenate(list(shuffled(count, seed)))
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    np.testing.assert_array_equal(order, np.concatenate(list(shuffled(count, seed))))


def deviations(counts: np.ndarray, freedom: int) -> float:
    """Returns by how many of its standard deviations chi-square is above its mean."""
    chi_square = ((counts - counts.mean()) ** 2).sum() / counts.mean()
    return (chi_square - freedom) / math.sqrt(2 * freedom)


def test_few_settings_are_drawn_uniformly() -> None:
    seeds, found = range(4000), []
    for size in range(2, 17):
        drawn = np.array([next(shuffled(size, seed)) for seed in seeds])
        places = np.array([np.bincount(place, minlength=size) for place in drawn.T])
        found.append(deviations(places, (size - 1) ** 2))
        if size in (3, 4):
            _, orders = np.unique(drawn, axis=0, return_counts=True)
            found.append(deviations(orders, math.factorial(size) - 1))
    assert max(found) < 5
    assert sum(found) / math.sqrt(len(found)) < 4


def test_the_order_of_larger_grids_stays_as_it_is() -> None:
    order = [3, 14, 6, 12, 5, 0, 1, 16, 4, 11, 13, 9, 15, 8, 10, 2, 7]
    assert np.concatenate(list(shuffled(17, 3))).tolist() == order
    first = [4224839, 6519395, 3799321, 5433885, 4836906]
    assert next(shuffled(8_957_952, 0))[:5].tolist() == first


def test_shuffled_looks_random_and_depends_on_the_seed() -> None:
    order, other = (next(shuffled(8_957_952, seed)) for seed in (0, 1))
    positions = order / 8_957_952
    assert positions.mean() == pytest.approx(0.5, abs=0.01)
    assert positions.std() == pytest.approx(12**-0.5, abs=0.01)
    assert abs(np.corrcoef(positions[1:], positions[:-1])[0, 1]) < 0.03
    assert (order[:50] != other[:50]).mean() > 0.9
    ranks = [Settings(train_mosi.GRID)[int(i)].rank for i in order[:4000]]
    shares = [ranks.count(rank) / 4000 for rank in (1, 4, 8, 16)]
    assert shares == pytest.approx([0.25] * 4, abs=0.04)


def test_shuffled_makes_only_what_is_asked_for() -> None:
    assert len(next(shuffled(10**15, 0))) <= 2**17


@pytest.mark.parametrize(
    ("grid", "count"),
    [
        (train_mosi.GRID, 8_957_952),
        (train_pom.GRID, 8_957_952),
        (train_iemocap.GRID, 9_953_280),  # another audio_hidden, no batches of 4
    ],
    ids=["mosi", "pom", "iemocap"],
)
def test_released_grids_have_their_size(grid: dict[str, list[float]], count: int) -> None:
    assert tuple(grid) == Setting._fields
    assert total(grid) == count


def test_narrow_replaces_the_values_that_are_given() -> None:
    grid = narrow(SMALL, ["rank=2,3", "audio_dropout=0.25"])
    assert grid == {**SMALL, "rank": [2, 3], "audio_dropout": [0.25]}
    assert narrow(SMALL, []) == SMALL


@pytest.mark.parametrize(
    ("choices", "reason"),
    [
        (["rank"], "NAME=VALUE"),
        (["ranks=1"], "'ranks=1'"),
        (["rank="], "rank"),
        (["rank=1,,4"], "rank"),
        (["rank=1,x"], "'x'"),
        (["rank=1", "rank=4"], "twice"),
        (["audio_dropout=0.1,0.10"], "twice"),
        (["=1"], "NAME=VALUE"),
        (["rank=1,", "4"], "no spaces: --grid rank=1,4; got --grid rank=1, 4"),
        (["rank", "=", "1", "batch_size=8"], "no spaces: --grid rank=1 batch_size=8;"),
    ],
)
def test_a_bad_choice_of_the_grid_is_refused(choices: list[str], reason: str) -> None:
    with pytest.raises(InputError, match=reason):
        narrow(SMALL, choices)


def test_a_grid_of_more_settings_than_can_be_drawn_is_refused() -> None:
    with pytest.raises(InputError, match=r"at most 2\*\*120 settings, got 2e\+36"):
        narrow({name: range(1, 2001) for name in Setting._fields}, [])


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("audio_hidden", ["1", "7"], ["0", "-1", "1.5", "", "four", "nan"]),
        ("video_hidden", ["1"], ["0"]),
        ("text_hidden", ["2"], ["1", "0"]),  # half of it is the width of the text's output
        ("rank", ["1", "2"], ["0", "-4", "inf"]),
        ("batch_size", ["2", "3"], ["1", "0"]),  # BatchNorm can't train on one example
        ("audio_dropout", ["0", "0.99"], ["1", "-0.1", "nan", "inf", "x", "0.99999999"]),
        ("video_dropout", ["0.999999"], ["1e-400000000000000000000x", "0.99999999999999999"]),
        ("text_dropout", ["0.5"], ["1.5"]),
        ("learning_rate", ["1e-9", "3", "1e30"], ["0", "-1", "nan", "inf", "1e300", "1e-50"]),
        ("factor_learning_rate", ["0.1", "1e-30"], ["0", "1e39", "1e-400"]),
        ("weight_decay", ["0", "5", "1e-30"], ["-1", "nan", "inf", "1e39", "1e-50"]),
    ],
)
def test_values_must_make_sense_for_their_hyperparameter(
    name: str, good: list[str], bad: list[str]
) -> None:
    for text in good:
        value = parse_value(name, text)
        assert value == float(text)
        assert isinstance(value, type(SETTING[Setting._fields.index(name)]))
    for text in bad:
        with pytest.raises(InputError, match=f"{name}: expected"):
            parse_value(name, text)


def test_each_hyperparameter_has_its_range_and_no_other_name_passes() -> None:
    assert tuple(RANGES) == Setting._fields
    assert {name: RANGES[name].whole for name in RANGES} == {
        name: kind is int for name, kind in get_type_hints(Setting).items()
    }
    for name in ("depth", "learning_rate_2", "fusion_dropout"):
        with pytest.raises(KeyError, match=name):
            parse_value(name, "1")


@pytest.mark.parametrize("limit", ["least", "most"])
@pytest.mark.parametrize("name", Setting._fields)
def test_float32_can_hold_every_value_of_a_range(limit: str, name: str) -> None:
    value = np.float32(getattr(RANGES[name], limit))
    assert np.isfinite(value)
    assert value < 1 or "dropout" not in name
    assert value == 0 or abs(value) >= np.finfo(np.float32).tiny


def test_minus_zero_is_zero() -> None:
    for name in ("text_dropout", "weight_decay"):
        assert str(parse_value(name, "-0.0")) == "0.0"
