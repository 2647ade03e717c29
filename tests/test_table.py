"""Reading results back: what other programs and accidents do to a CSV."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import numpy as np
import pytest
from test_records import SETTING, a_run, add, ranks, read, records, refusal, result, saved_rank

import train_mosi
from search.table import Table, read_table
from training.setting import Setting
from utils import InputError


@pytest.mark.parametrize(
    "torn",
    [*(1, 20, 60, -1, -2), b"4,4,mine", b"4\x1b]0;\xff\x07", b"7" * 200_000],
    ids=["a digit", "20", "60", "no line end", "a digit less", "a note", "rubbish", "long"],
)
def test_a_last_line_without_an_end_is_cut_off(
    torn: int | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_run(tmp_path, result(2))
    rows = path.read_bytes()
    a_run(tmp_path, result(31))
    whole = path.read_bytes()
    path.write_bytes(rows + (torn if isinstance(torn, bytes) else whole[len(rows) :][:torn]))
    assert ranks(tmp_path) == [2]
    assert path.read_bytes() == rows
    printed = capsys.readouterr().out
    assert "run.csv: a last line without an end is cut off: 4" in printed or torn == b"7" * 200_000
    assert printed.replace("\n", "").isprintable()
    assert len(printed) < 1000
    a_run(tmp_path, result(31))
    assert path.read_bytes() == whole


def test_a_header_without_an_end_is_refused(tmp_path: Path) -> None:
    path = a_run(tmp_path)
    path.write_text('"audio_hidden"' + path.read_text().strip()[len("audio_hidden") :])
    assert "line 1: expected a line end" in refusal(tmp_path)


@pytest.mark.parametrize("change", [b"\n", None])
def test_a_file_that_changes_while_it_is_read_is_refused(
    change: bytes | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_run(tmp_path, result(2), result(3))
    content = path.read_bytes()

    def change_and_read(*args: object) -> Table:
        table = read_table(*args)  # pyright: ignore
        if not change:
            path.unlink()
        path.write_bytes(content + (change or b""))
        return table

    monkeypatch.setattr("search.records.read_table", change_and_read)
    with pytest.raises(InputError, match="another program changed it meanwhile"):
        ranks(tmp_path)
    assert path.read_bytes() == content + (change or b"")


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
        rows[1][rows[0].index("Test Corr")] = "nan"  # of outputs that are all the same
        rows = [["" if text == "nan" else text for text in row] for row in rows]
    elif change == "other digits":
        rows = [
            [{"0.0003": "3E-04", "0.15": "0.150"}.get(text, text) for text in row] for row in rows
        ]
    elif change == "blank lines":
        rows = [line for row in rows for line in (row, [], [""] * len(row))]
    elif change == "spaces":
        rows = [[f"{text}  " for text in row] for row in rows]
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
        *("nan as nothing", "other digits", "blank lines", "a row twice", "spaces"),
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
    last = {name.strip(): text for name, text in listed[-1].items()}
    assert (last["rank"], last["Best Validation MAE"]) == ("4", "0.25")
    assert ranks(tmp_path) == [2, 3, 5, 4]


def test_a_setting_with_two_different_scores_is_refused_by_its_lines(tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2, 0.75), result(3, 0.5), result(2, 0.75, seed=1))
    row = path.read_text().splitlines()[1]
    path.write_text(path.read_text() + "\n" + row.replace("0.75", "0.7") + "\n")
    message = refusal(tmp_path)
    assert "line 6: expected each setting and seed once, but line 2 has them" in message


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (",", ";", "missing: audio_hidden, video_hidden,"),
        (",", "\t", "missing: audio_hidden, video_hidden,"),
        ("Test Corr", "Correlation", "missing: Test Corr; unknown: Correlation;"),
        ("Test Corr", "Test MAE", "missing: Test Corr; unknown: Test MAE;"),
        ("audio_hidden", "x" * 200_000, "missing: audio_hidden, video_hidden,"),  # no CSV
    ],
)
def test_other_columns_are_refused_and_named(old: str, new: str, said: str, tmp_path: Path) -> None:
    path = a_run(tmp_path, result())
    path.write_text(path.read_text().replace(old, new))
    message = refusal(tmp_path)
    assert "expected the columns of this data set once each, separated by commas; " in message
    assert said in message


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("rank", "2.5", "rank: "),
        ("learning_rate", "x", "learning_rate: "),
        ("Seed", "x", "Seed: "),
        ("Seed", str(2**63), "Seed: "),
        ("Seed", "-1", "Seed: "),
        ("Status", "fine", "Status: "),
        ("Best Validation MAE", "low", "Best Validation MAE: "),
        ("Best Validation MAE", "nan", "Status ok and Best Validation MAE don't fit"),
        ("Best Validation MAE", "inf", "Status ok and Best Validation MAE don't fit"),
        ("Status", "diverged", "Status diverged and Best Validation MAE don't fit"),
        ("Test MAE", "", "Test MAE: "),
        ("Test MAE", '"0,5"', "Test MAE: "),
        ("Test Corr", "banana", "Test Corr: expected a number as training reports it, got 'ban"),
        ("Test f1_score", "1e39", "Test f1_score: "),
        ("Test 5-class accuracy", "x" * 10_000, "Test 5-class accuracy: "),
        ("Best Epoch", "-7", "Best Epoch: expected a whole number from 1 to 4, got '-7'"),
        ("Best Epoch", "0", "Best Epoch: "),
        ("Best Epoch", "5", "Best Epoch: "),  # of 4
        ("Epochs", "2.5", "Epochs: "),
        ("Epochs", "9" * 5000, "Epochs: "),
        ("Seconds", "inf", "Seconds: "),
        ("Seconds", "-1", "Seconds: "),
        ("Seconds", "soon", "Seconds: "),
        ("Test MAE", "0,5", "values"),
        ("Test MAE", '"0.5', "unexpected end of data"),
        ("Seconds", "0.250,", "values"),
        ("Seconds", None, "values"),  # None: the value and its comma are missing
    ],
)
def test_a_row_that_is_not_understood_is_named_by_its_line_and_column(
    column: str, value: str | None, said: str, tmp_path: Path
) -> None:
    path = a_run(tmp_path, result(2), result(3), result(4))
    lines = [line.split(",") for line in path.read_text().splitlines()]
    place = lines[0].index(column)
    lines[2][place : place + 1] = [] if value is None else [value]
    path.write_text("".join(",".join(line) + "\n" for line in lines))
    message = refusal(tmp_path)
    assert "run.csv, line 3: expected a row" in message
    assert said in message
    assert len(message) < 500


@pytest.mark.parametrize(
    "rubbish", [b"\xff\xfe\x00\n", b"\0" * 200 + b"\n", b"7" * 200_000 + b"\n"]
)
def test_rubbish_in_the_rows_is_named_by_its_line(rubbish: bytes, tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2))
    path.write_bytes(path.read_bytes() + rubbish)
    assert "line 3" in refusal(tmp_path)


def test_a_fault_after_blank_lines_is_named_by_its_line(tmp_path: Path) -> None:
    path = a_run(tmp_path, *(result(rank) for rank in (2, 3, 4)))
    lines = path.read_text().splitlines()
    lines[3] = "\n" + lines[3].replace("ok", "fine")
    path.write_text("\n".join(lines) + "\n")
    assert "line 5: expected a row" in refusal(tmp_path)


def test_pruned_rows_have_no_final_loss_and_may_not_contradict_each_other(tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2), result(3))
    columns = train_mosi.COLUMNS
    place = columns.all().index
    *others, last = path.read_text().splitlines()
    line = last.split(",")
    for column in (*columns.release, *columns.own):
        line[place(column)] = ""  # as pandas writes nan
    line[place("Status")] = "pruned"
    path.write_text("\n".join([*others, ",".join(line), ""]))
    table = read_table(path, columns.all(), columns, (columns.valid_loss, "Epochs"))
    assert table.pruned.tolist() == [False, True]
    assert table.scores[1].tolist() == [4, 4]
    assert math.isnan(table.scores[0, 1])
    line[place(columns.valid_loss)] = "1.5"
    path.write_text(path.read_text() + ",".join(line) + "\n")
    assert "run.csv, line 4: expected each setting and seed once" in refusal(tmp_path)


def test_settings_are_numbered_apart_however_many_values_there_are() -> None:
    values = [[float(value) for value in range(1, 100)] for _ in Setting._fields]
    places = np.random.default_rng(0).integers(0, 99, (len(values), 50))
    places = np.hstack([places, places])
    assert math.prod(map(len, values)) > 2**64
    table = Table(values, places, np.arange(100), np.zeros((2, 100)), np.zeros(100, bool))
    numbers = table.numbers()
    assert len(set(numbers.tolist())) == 50
    assert (numbers[:50] == numbers[50:]).all()
