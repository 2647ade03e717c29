"""Reading results back: what other programs and accidents do to a CSV, and the best settings."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from test_records import SETTING, a_run, add, ranks, read, records, refusal, result, saved_rank

from search.leaderboard import Leaderboard, Row
from search.table import Table
from training.setting import Setting


@pytest.mark.parametrize("torn", [1, 20, 60])
def test_a_torn_last_line_is_cut_off(
    torn: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_run(tmp_path, result(2), result(3))
    whole = path.read_bytes()
    path.write_bytes(whole + whole.splitlines()[-1][:torn])
    assert ranks(tmp_path) == [2, 3]
    assert path.read_bytes() == whole
    assert "not finished is cut off" in capsys.readouterr().out
    assert ranks(tmp_path) == [2, 3]
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("cut", ["the line end", "and a digit", "a note"])
def test_a_last_line_that_may_be_whole_or_a_users_is_refused(cut: str, tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2), result(31))
    whole = path.read_bytes()
    last = {"the line end": whole[:-1], "and a digit": whole[:-2], "a note": whole + b"4,4,mine"}
    path.write_bytes(last[cut])
    line = 4 if cut == "a note" else 3
    assert f"run.csv, line {line}: expected a line end" in refusal(tmp_path)
    path.write_bytes(last[cut] + b"\n")
    if cut != "a note":
        assert ranks(tmp_path) == [2, 31]


def test_nothing_is_cut_off_a_file_that_is_refused(tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2), result(3))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "torn", lines[2], lines[2][:30]]))
    assert "run.csv, line 2: expected a row" in refusal(tmp_path)


def test_a_torn_header_is_written_anew(tmp_path: Path) -> None:
    path = a_run(tmp_path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert ranks(tmp_path) == []
        assert path.read_bytes() == whole


def saved_by_another_program(rows: list[list[str]], change: str) -> bytes:
    """Returns the same table, saved as a spreadsheet, pandas or an editor may do it."""
    if change == "reordered":
        rows = [row[::-1] for row in rows]
    elif change == "columns of the user's own":
        rows = [
            ["0" if i else "", *row, 'a note, "long"\nand broken'] for i, row in enumerate(rows)
        ]
    elif change == "nan as nothing":
        rows = [["" if text == "nan" else text for text in row] for row in rows]
    elif change == "other digits":
        rows = [
            [{"0.0003": "3E-04", "0.15": "0.150"}.get(text, text) for text in row] for row in rows
        ]
    elif change == "blank lines":
        rows = [line for row in rows for line in (row, [], [""] * len(row))]
    elif change == "a row twice":
        rows = [*rows, rows[1]]
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if change == "quoted" else csv.QUOTE_MINIMAL
    line_end = {"crlf": "\r\n", "cr": "\r"}.get(change, "\n")
    csv.writer(text, lineterminator=line_end, quoting=quoting).writerows(rows)
    return text.getvalue().encode("utf-8-sig" if change == "byte order mark" else "utf-8")


@pytest.mark.parametrize(
    "change",
    [
        *("crlf", "cr", "quoted", "byte order mark", "reordered", "columns of the user's own"),
        *("nan as nothing", "other digits", "blank lines", "a row twice"),
    ],
)
def test_files_that_other_programs_saved_are_read_and_continued(
    change: str, tmp_path: Path
) -> None:
    path = a_run(tmp_path, result(2, 0.75), result(3, 0.5), result(5, status="diverged"))
    rows = list(csv.reader(io.StringIO(path.read_text())))
    content = saved_by_another_program(rows, change)
    path.write_bytes(content)
    losses = [(2, 0.75), (3, 0.5), (5, math.nan), (4, 0.25)]

    with records(tmp_path) as opened:
        read_back = [(row.setting, row.valid_loss) for row in read(opened)]
        expected = [(SETTING._replace(rank=rank), loss) for rank, loss in losses[:3]]
        assert repr(read_back) == repr(expected)
        assert saved_rank(tmp_path) == 3
        add(opened, result(4, 0.25))
    assert path.read_bytes().startswith(content)  # nothing was rewritten
    line_end = {"crlf": b"\r\n", "cr": b"\r"}.get(change, b"\n")
    assert path.read_bytes()[len(content) :].splitlines(keepends=True)[0].endswith(line_end)
    with path.open(newline="", encoding="utf-8-sig") as file:
        listed = list(csv.DictReader(file, strict=True))
    assert all(None not in row and None not in row.values() for row in listed)  # as wide as all
    assert (listed[-1]["rank"], listed[-1]["Best Validation MAE"]) == ("4", "0.25")
    assert ranks(tmp_path) == [2, 3, 5, 4]


def test_a_setting_with_two_different_scores_is_refused_by_its_lines(tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2, 0.75), result(3, 0.5), result(2, 0.75, seed=1))
    row = path.read_text().splitlines()[1]
    path.write_text(path.read_text() + "\n" + row.replace("0.75", "0.7") + "\n")
    message = refusal(tmp_path)
    assert "line 6: expected each setting and seed once, but line 2 has them" in message


@pytest.mark.parametrize("separator", [";", "\t"])
def test_other_separators_are_refused(separator: str, tmp_path: Path) -> None:
    path = a_run(tmp_path, result())
    path.write_text(path.read_text().replace(",", separator))
    assert "expected the columns of this data set once each, separated by commas" in refusal(
        tmp_path
    )


def test_other_columns_are_refused_and_named(tmp_path: Path) -> None:
    path = a_run(tmp_path, result())
    path.write_text(path.read_text().replace("Test Corr", "Test Correlation", 1))
    message = refusal(tmp_path)
    assert "missing: Test Corr;" in message
    assert "unknown: Test Correlation;" in message


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("rank", "2.5"),
        ("rank", "0"),
        ("learning_rate", "x"),
        ("Seed", "x"),
        ("Status", "fine"),
        ("Best Validation MAE", "low"),
        ("Test MAE", ""),
        ("Test MAE", "0,5"),
        ("Test MAE", '"0,5"'),
        ("Test MAE", '"0.5'),
        ("Seed", "9" * 30),
        ("Best Validation MAE", "nan"),  # though its status is ok
        ("Status", "diverged"),  # though it has a validation loss
        ("Seconds", "0.250,"),
        ("Seconds", None),  # None: the value and its comma are missing
    ],
)
def test_a_row_that_is_not_understood_is_named_by_its_line(
    column: str, value: str | None, tmp_path: Path
) -> None:
    path = a_run(tmp_path, result(2), result(3), result(4))
    lines = [line.split(",") for line in path.read_text().splitlines()]
    place = lines[0].index(column)
    lines[2][place : place + 1] = [] if value is None else [value]
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    assert "run.csv, line 3: expected a row" in refusal(tmp_path)


@pytest.mark.parametrize(
    "rubbish", [b"\xff\xfe\x00\n", b"\0" * 200 + b"\n", b"7" * 200_000 + b"\n"]
)
def test_rubbish_in_the_rows_is_named_by_its_line(rubbish: bytes, tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2))
    path.write_bytes(path.read_bytes() + rubbish)
    assert "line 3" in refusal(tmp_path)


def test_a_fault_far_into_a_file_is_named_by_its_line(tmp_path: Path) -> None:
    path = a_run(tmp_path, *(result(rank, 1.0, seed) for rank in (2, 3) for seed in range(300)))
    lines = path.read_text().splitlines()
    lines[599] = "\n" + lines[599].replace("ok", "fine")
    path.write_text("\n".join(lines) + "\n")
    assert "line 601: expected a row" in refusal(tmp_path)


def test_a_header_that_is_no_csv_is_refused(tmp_path: Path) -> None:
    path = a_run(tmp_path, result())
    path.write_text("x" * 200_000 + path.read_text())
    assert "missing: audio_hidden, video_hidden," in refusal(tmp_path)


def row(rank: int, loss: float, test: float = 0.0, seed: int = 0) -> Row:
    return Row(SETTING._replace(rank=rank), seed, loss, test)


def test_the_leaderboard_ranks_by_validation_and_never_by_test() -> None:
    board = Leaderboard()
    losses = {1: 0.7, 2: 0.5, 3: 0.9, 4: 0.6, 5: math.nan, 6: 0.8, 7: 1.0}
    for rank, loss in losses.items():
        board.add(row(rank, loss, test=1 - loss))
    assert [standing.setting.rank for standing in board.best()] == [2, 4, 1, 6, 3]
    assert board.best()[0].test_scores == (0.5,)


def test_the_leaderboard_ranks_by_the_mean_over_seeds() -> None:
    board = Leaderboard(seeds=2)
    for seed, losses in enumerate([(0.1, 0.5, 0.2), (0.9, 0.3, math.nan)]):
        for rank, loss in enumerate(losses, 1):
            board.add(row(rank, loss, seed=seed))
    board.add(row(4, 0.45))  # its other seed is still to come
    best = board.best()
    assert [standing.setting.rank for standing in best] == [2, 4, 1, 3]
    assert best[0].valid_losses == (0.5, 0.3)
    assert best[0].mean_valid_loss == pytest.approx(0.4)
    assert math.isinf(best[3].mean_valid_loss)


@pytest.mark.parametrize("seeds", [1, 3])
def test_a_leaderboard_takes_in_a_table_as_it_takes_in_its_rows(seeds: int) -> None:
    rng = np.random.default_rng(seeds)
    count = 400
    values = [[value] for value in SETTING]
    values[Setting._fields.index("rank")] = list(range(1, count // seeds + 2))
    places = np.zeros((len(values), count), dtype=int)
    places[Setting._fields.index("rank")] = rng.permutation(count) // seeds
    losses = rng.integers(1, 40, count) / 8  # many are the same
    losses[rng.random(count) < 0.1] = math.nan
    table = Table(values, places, np.arange(count), np.stack([losses, rng.random(count)]))
    for part in (table, table.where(np.arange(count) < 4), table.where(np.arange(count) < 0)):
        at_once, one_by_one = Leaderboard(seeds), Leaderboard(seeds)
        at_once.add_all(part)
        for setting, seed, scores in part.rows():
            one_by_one.add(Row(setting, seed, *scores))
        assert repr(at_once.best()) == repr(one_by_one.best())
        at_once.add(row(7, 0.5, seed=count))
        one_by_one.add(row(7, 0.5, seed=count))
        assert repr(at_once.best()) == repr(one_by_one.best())


def test_settings_are_numbered_apart_however_many_values_there_are() -> None:
    values = [[float(value) for value in range(1, 100)] for _ in Setting._fields]
    places = np.random.default_rng(0).integers(0, 99, (len(values), 50))
    places = np.hstack([places, places])
    assert math.prod(map(len, values)) > 2**64
    table = Table(values, places, np.arange(100), np.zeros((2, 100)))
    numbers = table.numbers()
    assert len(set(numbers.tolist())) == 50
    assert (numbers[:50] == numbers[50:]).all()
