"""What a search writes: the columns, resuming, and that nothing finished is lost or overwritten."""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import train_iemocap
import train_mosi
import train_pom
from model import LMF
from records import Leaderboard, Provenance, Records, Row, write_atomically
from training import Result, Setting, failed, initial_model, model_config
from utils import InputError

HYPERPARAMETERS = (
    "audio_hidden,video_hidden,text_hidden,audio_dropout,video_dropout,text_dropout,"
    "factor_learning_rate,learning_rate,rank,batch_size,weight_decay"
)
OURS = "Seed,Status,Best Epoch,Epochs,Seconds"
TRAITS = [
    *("Confidence", "Passionate", "Pleasant", "Dominant", "Credible", "Vivid", "Expertise"),
    *("Entertaining", "Reserved", "Trusting", "Relaxed", "Outgoing", "Thorough", "Nervous"),
    *("Persuasive", "Humorous"),
]
SETTING = Setting(4, 4, 6, 0.15, 0.0, 0.0, 0.0003, 0.001, 2, 4, 0.0)


def provenance(**fixed: object) -> Provenance:
    return Provenance(
        data_set="mosi",
        emotion=None,
        data_file="mosi.pkl",
        fixed={"data sha256": "ab12", "epochs": 5, "columns": ["a", "b"], **fixed},
        versions={},
        command=["train_mosi.py"],
        started="2018-07-15",
    )


def records(folder: Path, **fixed: object) -> Records:
    """Returns the records of a run of MOSI; their files are run.csv, run.json and model.pt."""
    return Records(folder / "run.csv", folder / "model.pt", train_mosi.COLUMNS, provenance(**fixed))


def result(rank: int = 2, loss: float = 1.0, seed: int = 0, status: str = "ok") -> Result:
    setting = SETTING._replace(rank=rank)
    if status != "ok":
        return Result(setting, seed, status, math.nan, 0, 3, 0.5, {}, [], None)
    model = initial_model(setting, seed, (6, 5, 7), 1)
    scores = dict.fromkeys((*train_mosi.COLUMNS.release, *train_mosi.COLUMNS.own), 0.123456789)
    state = model.state_dict()
    return Result(setting, seed, "ok", loss, 2, 4, 0.25, scores, [(2.0, loss)], state)


def add(opened: Records, new: Result) -> Row:
    return opened.add(new, {"config": model_config(new.setting, (6, 5, 7), 1), "emotion": None})


def a_run(folder: Path, *results: Result) -> Path:
    """Writes a run and returns its CSV."""
    with records(folder) as opened:
        for new in results:
            add(opened, new)
    return folder / "run.csv"


def ranks(folder: Path) -> list[int]:
    with records(folder) as opened:
        return [row.setting.rank for row in opened.rows()]


def refusal(folder: Path, **fixed: object) -> str:
    """Returns why a run isn't taken up, once it is sure that none of its files was touched."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError) as caught, records(folder, **fixed) as opened:
        list(opened.rows())
    assert {path: path.read_bytes() for path in folder.iterdir()} == before
    return str(caught.value)


@pytest.mark.parametrize(
    ("columns", "scores", "own"),
    [
        (
            train_mosi.COLUMNS,
            "Best Validation MAE,Test MAE,Test Corr,Test multiclass accuracy,"
            "Test binary accuracy,Test f1_score",
            "Test binary accuracy without zeros,Test f1_score without zeros,"
            "Test 7-class accuracy,Test 5-class accuracy",
        ),
        (
            train_iemocap.COLUMNS,
            "Best Validation CrossEntropyLoss,Test CrossEntropyLoss,Test F1-score,"
            "Test Accuracy Score",
            "Test F1-score of the emotion",
        ),
        (
            train_pom.COLUMNS,
            ",".join(
                [
                    "Best Validation MAE",
                    *(f"{trait} accuracy" for trait in TRAITS),
                    *(f"{trait} MAE" for trait in TRAITS),
                    *(f"{trait} corr" for trait in TRAITS),
                ]
            ),
            ",".join(
                [
                    "Mean accuracy,Mean MAE,Mean corr",
                    *(f"{trait} validation MAE" for trait in TRAITS),
                ]
            ),
        ),
    ],
    ids=["mosi", "iemocap", "pom"],
)
def test_columns_are_the_releases_and_then_our_own(
    columns: train_mosi.Columns, scores: str, own: str
) -> None:
    assert ",".join(columns.all()) == f"{HYPERPARAMETERS},{scores},{OURS},{own}"


def test_a_row_has_a_value_for_each_column(tmp_path: Path) -> None:
    lines = a_run(tmp_path, result(loss=0.987654321), result(3, status="diverged")).read_text()
    header, first, second = lines.splitlines()
    assert header.split(",") == train_mosi.COLUMNS.all()
    setting = "4,4,6,0.15,0,0,0.0003,0.001,2,4,0"
    score = "0.123457"
    assert first == ",".join([setting, "0.987654", *[score] * 5, "0,ok,2,4,0.250", *[score] * 4])
    setting = "4,4,6,0.15,0,0,0.0003,0.001,3,4,0"
    assert second == ",".join([setting, *["nan"] * 6, "0,diverged,0,3,0.500", *["nan"] * 4])


def test_rows_come_back_as_they_were_added(tmp_path: Path) -> None:
    with records(tmp_path) as opened:
        results = [result(2, 0.5, seed=3), result(3, 0.25), result(4, status="diverged")]
        added = [add(opened, new) for new in results]
        added.append(opened.add(failed(SETTING._replace(rank=5), 0, "it died"), {}))
    with records(tmp_path) as opened:
        assert repr(list(opened.rows())) == repr(added)  # NaN is not equal to itself
    assert added[0] == Row(SETTING, 3, 0.5, 0.123457)
    assert [math.isnan(row.valid_loss) for row in added] == [False, False, True, True]


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2), result(3))
    first = path.read_bytes()
    with records(tmp_path) as opened:
        assert [row.setting.rank for row in opened.rows()] == [2, 3]
        add(opened, result(4))
    assert path.read_bytes().startswith(first)
    assert ranks(tmp_path) == [2, 3, 4]


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


def test_a_last_line_without_its_end_counts_as_torn(tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2), result(31))
    path.write_bytes(path.read_bytes()[:-1])  # what if more digits were to come?
    assert ranks(tmp_path) == [2]


def test_a_torn_header_is_written_anew(tmp_path: Path) -> None:
    path = a_run(tmp_path)
    whole = path.read_bytes()
    for size in (0, 10, len(whole) - 1):
        path.write_bytes(whole[:size])
        assert ranks(tmp_path) == []
        assert path.read_bytes() == whole


@pytest.mark.parametrize("change", ["crlf", "quoted", "reordered", "blank line"])
def test_files_that_other_programs_saved_are_read_and_continued(
    change: str, tmp_path: Path
) -> None:
    path = a_run(tmp_path, result(2, 0.75), result(3, 0.5))
    rows = list(csv.reader(io.StringIO(path.read_text())))
    text = io.StringIO()
    quoting = csv.QUOTE_ALL if change == "quoted" else csv.QUOTE_MINIMAL
    writer = csv.writer(text, lineterminator="\r\n" if change == "crlf" else "\n", quoting=quoting)
    for row in rows:
        writer.writerow(row[::-1] if change == "reordered" else row)
        if change == "blank line":
            text.write("\n")
    path.write_bytes(text.getvalue().encode())

    with records(tmp_path) as opened:
        read = [(row.setting.rank, row.valid_loss) for row in opened.rows()]
        assert read == [(2, 0.75), (3, 0.5)]
        add(opened, result(4, 0.25))
    with path.open(newline="") as file:
        last = list(csv.DictReader(file))[-1]
    assert (last["rank"], last["Best Validation MAE"], last["Status"]) == ("4", "0.25", "ok")
    assert ranks(tmp_path) == [2, 3, 4]


@pytest.mark.parametrize("content", ["time,temperature\n1,2\n", "notes without an end"])
def test_a_file_that_is_not_ours_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.csv").write_text(content)
    message = refusal(tmp_path)
    assert "run.json" in message
    assert "--run_id" in message


@pytest.mark.parametrize("content", ["", "[]", "{}", "not json", '{"fixed": 3}'])
def test_rows_without_their_provenance_are_refused(content: str, tmp_path: Path) -> None:
    a_run(tmp_path, result())
    (tmp_path / "run.json").write_text(content)
    assert "run.json" in refusal(tmp_path)


def test_other_columns_are_refused_and_named(tmp_path: Path) -> None:
    path = a_run(tmp_path, result())
    path.write_text(path.read_text().replace("Test Corr", "Test Correlation", 1))
    message = refusal(tmp_path)
    assert "missing: Test Corr;" in message
    assert "unknown: Test Correlation;" in message


def test_changed_conditions_are_refused_and_only_they_are_named(tmp_path: Path) -> None:
    a_run(tmp_path, result())
    message = refusal(tmp_path, epochs=6)
    assert "epochs (then 5, now 6)" in message
    assert "sha256" not in message
    assert "columns" not in message
    message = refusal(tmp_path, **{"data sha256": "cd34"}, columns=["a", "c"])
    assert "data sha256 (then ab12, now cd34)" in message
    assert "columns (b, c)" in message
    assert "max_len (then None, now 20)" in refusal(tmp_path, max_len=20)
    assert ranks(tmp_path) == [2]


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


def test_binary_rubbish_in_the_rows_is_named_by_its_line(tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2))
    path.write_bytes(path.read_bytes() + b"\xff\xfe\x00\n")
    assert "line 3" in refusal(tmp_path)


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with records(tmp_path) as first:
        list(first.rows())
        with pytest.raises(InputError, match="another process is training this run"):
            records(tmp_path).__enter__()
        add(first, result(2))
    assert ranks(tmp_path) == [2]
    assert not list(tmp_path.glob("*.lock"))


def test_a_run_that_failed_to_open_can_be_opened_again(tmp_path: Path) -> None:
    a_run(tmp_path, result(2))
    refusal(tmp_path, epochs=7)
    assert ranks(tmp_path) == [2]


def saved_rank(folder: Path) -> int:
    return torch.load(folder / "model.pt", weights_only=True)["setting"]["rank"]


def test_the_model_file_is_the_best_by_validation(tmp_path: Path) -> None:
    with records(tmp_path) as opened:
        add(opened, result(9, status="diverged"))
        assert not (tmp_path / "model.pt").exists()
        for rank, loss, best in ((2, 2.0, 2), (3, 1.0, 3), (4, 1.5, 3), (5, 0.9, 5)):
            add(opened, result(rank, loss))
            assert saved_rank(tmp_path) == best
        add(opened, result(6, status="diverged"))
        assert saved_rank(tmp_path) == 5


def test_a_later_command_replaces_the_model_only_by_a_better_one(tmp_path: Path) -> None:
    a_run(tmp_path, result(2, 1.0))
    with records(tmp_path) as opened:
        list(opened.rows())
        add(opened, result(3, 1.1))
        assert saved_rank(tmp_path) == 2
        add(opened, result(4, 0.9))
        assert saved_rank(tmp_path) == 4


def test_a_model_of_another_run_is_not_overwritten(tmp_path: Path) -> None:
    other = records(tmp_path / "other")
    other.provenance["started"] = "2018-07-14"
    with other:
        add(other, result(2, 0.5))
    for content in ((tmp_path / "other" / "model.pt").read_bytes(), b"something else"):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / "model.pt").write_bytes(content)
        assert "model.pt: is no model of the run" in refusal(tmp_path / "new", epochs=9)


def test_a_model_that_was_moved_away_is_asked_for(tmp_path: Path) -> None:
    a_run(tmp_path, result(2, 0.5), result(3, 0.7))
    (tmp_path / "model.pt").rename(tmp_path / "elsewhere.pt")
    message = refusal(tmp_path)
    assert "model.pt: the model of the best row" in message
    assert "0.5" in message


@pytest.mark.parametrize("order", [(2, 3), (3, 2)])
def test_equally_good_models_do_not_depend_on_which_came_first(
    order: tuple[int, int], tmp_path: Path
) -> None:
    a_run(tmp_path, *(result(rank, 1.0) for rank in order))
    assert saved_rank(tmp_path) == 2


def test_the_model_file_says_how_it_came_about_and_loads(tmp_path: Path) -> None:
    best = result(3, 0.5, seed=7)
    a_run(tmp_path, best)
    saved = torch.load(tmp_path / "model.pt", weights_only=True)
    assert saved["setting"] == best.setting._asdict()
    assert (saved["seed"], saved["valid_loss"], saved["best_epoch"]) == (7, 0.5, 2)
    assert saved["scores"] == best.scores
    model = LMF.load(tmp_path / "model.pt")
    assert best.state_dict is not None
    torch.testing.assert_close(dict(model.state_dict()), dict(best.state_dict), rtol=0, atol=0)
    assert not model.training


def test_provenance_stands_beside_the_rows_and_stays_that_of_the_first_command(
    tmp_path: Path,
) -> None:
    a_run(tmp_path, result(2))
    assert json.loads((tmp_path / "run.json").read_text()) == provenance()
    before = (tmp_path / "run.json").read_bytes()
    a_run(tmp_path, result(3))
    assert (tmp_path / "run.json").read_bytes() == before


def test_an_unwritable_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    for csv_folder, model_folder in (("file", "new"), ("new", "file/models")):
        unwritable = Records(
            tmp_path / csv_folder / "run.csv",
            tmp_path / model_folder / "model.pt",
            train_mosi.COLUMNS,
            provenance(),
        )
        with pytest.raises(InputError, match="expected a folder to write to"), unwritable:
            pass
    assert (tmp_path / "file").read_text() == "in the way"


def test_folders_are_made_when_they_are_missing(tmp_path: Path) -> None:
    with records(tmp_path / "a" / "b") as opened:
        add(opened, result())
    assert (tmp_path / "a" / "b" / "model.pt").exists()


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """Makes writes past so many bytes fail, as on a full disk."""
    resource = pytest.importorskip("resource")
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def add_where_no_file_grows_past(size: int, folder: Path, new: Result) -> None:
    with records(folder) as opened:
        list(opened.rows())
        with no_file_longer_than(size):
            add(opened, new)


@pytest.mark.parametrize("room", [0, 10])
def test_a_row_that_can_not_be_written_leaves_the_finished_ones_intact(
    room: int, tmp_path: Path
) -> None:
    path = a_run(tmp_path, result(2, 1.0))
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"run\.csv: can't be written"):
        add_where_no_file_grows_past(len(before) + room, tmp_path, result(3, 1.5))
    assert path.read_bytes() == before
    assert ranks(tmp_path) == [2]


def test_a_model_that_can_not_be_written_leaves_the_one_before_intact(tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2, 1.0))
    model, rows = (tmp_path / "model.pt").read_bytes(), path.read_bytes()
    with pytest.raises(InputError, match=r"model\.pt: can't be written"):
        add_where_no_file_grows_past(len(model) // 2, tmp_path, result(3, 0.5))
    assert (tmp_path / "model.pt").read_bytes() == model
    assert path.read_bytes() == rows  # so that the setting is trained again
    assert not list(tmp_path.glob("*.part"))


def test_a_file_is_replaced_wholly_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("before")

    def half(part: Path) -> None:
        part.write_text("hal")
        raise OSError("disk full")

    with pytest.raises(InputError, match="disk full"):
        write_atomically(path, half)
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "before"
    write_atomically(path, lambda part: part.write_text("after"))
    assert os.listdir(tmp_path) == ["file"]
    assert path.read_text() == "after"


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
