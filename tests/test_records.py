"""What a search writes: the columns, resuming, and that nothing finished is lost or overwritten."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

import train_iemocap
import train_mosi
import train_pom
from model import LMF
from search.columns import Columns
from search.leaderboard import Row
from search.records import Provenance, Records, write_atomically
from training.reference import initial_model
from training.result import Result, failed
from training.setting import Setting, model_config
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
        opened.read()
        for new in results:
            add(opened, new)
    return folder / "run.csv"


def read(opened: Records) -> list[Row]:
    return [Row(setting, seed, *scores) for setting, seed, scores in opened.read().rows()]


def ranks(folder: Path) -> list[int]:
    with records(folder) as opened:
        return [row.setting.rank for row in read(opened)]


def refusal(folder: Path, **fixed: object) -> str:
    """Returns why a run isn't taken up, once it is sure that none of its files was touched."""
    before = {path: path.read_bytes() for path in folder.iterdir()}
    with pytest.raises(InputError) as caught, records(folder, **fixed) as opened:
        opened.read()
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
def test_columns_are_the_releases_and_then_our_own(columns: Columns, scores: str, own: str) -> None:
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
        assert repr(read(opened)) == repr(added)  # NaN is not equal to itself
    assert added[0] == Row(SETTING, 3, 0.5, 0.123457)
    assert [math.isnan(row.valid_loss) for row in added] == [False, False, True, True]


def test_a_run_goes_on_where_it_stopped(tmp_path: Path) -> None:
    path = a_run(tmp_path, result(2), result(3))
    first = path.read_bytes()
    with records(tmp_path) as opened:
        assert [row.setting.rank for row in read(opened)] == [2, 3]
        add(opened, result(4))
    assert path.read_bytes().startswith(first)
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


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with records(tmp_path) as first:
        first.read()
        with pytest.raises(InputError, match="another process is training this run"):
            records(tmp_path).__enter__()
        add(first, result(2))
    assert ranks(tmp_path) == [2]
    assert not list(tmp_path.glob("*.lock"))


def test_two_runs_do_not_write_to_one_model(tmp_path: Path) -> None:
    other = Records(
        tmp_path / "other" / "run.csv", tmp_path / "model.pt", train_mosi.COLUMNS, provenance()
    )
    with records(tmp_path):
        with pytest.raises(InputError, match=r"model\.pt: another process is training this run"):
            other.__enter__()
        assert not list((tmp_path / "other").iterdir())


def test_writers_that_come_and_go_are_let_in_one_at_a_time(tmp_path: Path) -> None:
    inside, most, entered = [], [], []

    def come_and_go() -> None:
        for _ in range(60):
            with contextlib.suppress(InputError), records(tmp_path):
                inside.append(1)
                most.append(len(inside))
                time.sleep(0.0001)
                entered.append(inside.pop())

    threads = [threading.Thread(target=come_and_go) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(entered) > 1
    assert set(most) == {1}
    assert not list(tmp_path.glob("*.lock"))


def test_what_a_killed_process_left_half_written_is_removed(tmp_path: Path) -> None:
    a_run(tmp_path, result())
    for name in ("model.pt.part", "run.json.part", "run.csv.lock", "model.pt.lock"):
        (tmp_path / name).write_text("half")
    assert ranks(tmp_path) == [2]
    assert sorted(os.listdir(tmp_path)) == ["model.pt", "run.csv", "run.json"]


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
        opened.read()
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


def test_a_folder_in_the_files_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "run.csv").mkdir()
    with pytest.raises(InputError, match=r"run\.csv: can't be read and written: Is a directory"):
        records(tmp_path).__enter__()


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
        opened.read()
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


@pytest.mark.parametrize("fault", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
def test_a_row_that_does_not_reach_the_disk_is_taken_back(
    fault: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = a_run(tmp_path, result(2, 1.0))
    before = path.read_bytes()

    def failing(descriptor: int) -> None:
        raise OSError(fault, os.strerror(fault))

    with records(tmp_path) as opened:
        opened.read()
        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(InputError, match=rf"run\.csv: can't be written: {os.strerror(fault)};"):
            add(opened, result(3, 1.5))
    assert path.read_bytes() == before
    monkeypatch.undo()
    assert ranks(tmp_path) == [2]


def test_a_run_that_has_no_room_to_start_can_start_later(tmp_path: Path) -> None:
    for size, name in ((10, "json"), (300, "csv")):
        with pytest.raises(InputError, match=rf"run\.{name}: can't be written"):
            open_where_no_file_grows_past(size, tmp_path)
        assert not list(tmp_path.glob("*.part"))
        assert not list(tmp_path.glob("*.lock"))
    a_run(tmp_path, result(2))
    assert ranks(tmp_path) == [2]


def open_where_no_file_grows_past(size: int, folder: Path) -> None:
    with no_file_longer_than(size), records(folder):
        pass


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc to name descriptors")
def test_a_better_model_is_on_the_disk_before_its_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []

    def spy(descriptor: int) -> None:
        synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name)
        synced.append((tmp_path / "model.pt").exists())

    with records(tmp_path) as opened:
        opened.read()
        monkeypatch.setattr(os, "fsync", spy)
        add(opened, result())
    assert synced == ["model.pt.part", False, tmp_path.name, True, "run.csv", True]


@pytest.mark.parametrize("change", ["saved anew", "appended to", "cut", "removed"])
def test_a_file_that_another_program_changes_during_a_search_is_left_to_it(
    change: str, tmp_path: Path
) -> None:
    path = a_run(tmp_path, result(2, 1.0), result(3, 0.5))
    lines = path.read_bytes().splitlines(keepends=True)
    with records(tmp_path) as opened:
        opened.read()
        add(opened, result(4, 1.5))
        if change == "saved anew":
            (tmp_path / "copy").write_bytes(path.read_bytes())
            (tmp_path / "copy").replace(path)
        elif change == "appended to":
            path.write_bytes(path.read_bytes() + b"\n")
        elif change == "cut":
            path.write_bytes(b"".join(lines[:2]))
        else:
            path.unlink()
        after = path.read_bytes() if path.exists() else None
        with pytest.raises(InputError, match=r"run\.csv: another program changed it"):
            add(opened, result(5, 1.5))
    assert (path.read_bytes() if path.exists() else None) == after


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
