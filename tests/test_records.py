"""What a search writes: the columns, resuming, and that nothing finished is lost or overwritten."""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import train_iemocap
import train_mosi
import train_pom
from model import LMF
from search.columns import Columns
from search.leaderboard import Row
from search.provenance import Provenance
from search.records import Records
from search.run_files import RunFiles
from training.reference import initial_model
from training.result import Result, failed
from training.setting import Setting, describe, model_config
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


def of_traits(score: str) -> str:
    return ",".join(f"{trait} {score}" for trait in TRAITS)


def provenance(**fixed: object) -> Provenance:
    return Provenance(
        data_set="mosi",
        emotion=None,
        data_file="mosi.pkl",
        fixed={"data sha256": "ab12", "epochs": 5, "columns": ["a", "b"], **fixed},
        versions={},
        command=["train_mosi.py", "--run_id", "\udcff"],  # not UTF-8
        started="2018-07-15",
    )


def files(folder: Path, models: Path | None = None) -> RunFiles:
    return RunFiles(folder / "run.csv", folder / "run.json", (models or folder) / "model.pt")


def records(folder: Path, **fixed: object) -> Records:
    """Returns the records of a run of MOSI; their files are run.csv, run.json and model.pt."""
    return Records(files(folder), train_mosi.COLUMNS, provenance(**fixed))


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
    return [Row(setting, seed, *scores[:2]) for setting, seed, scores in opened.read().rows()]


def ranks(folder: Path) -> list[int]:
    with records(folder) as opened:
        return [row.setting.rank for row in read(opened)]


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.iterdir()}


def refusal(folder: Path, **fixed: object) -> str:
    """Returns why a run isn't taken up, once it is sure that none of its files was touched."""
    before = contents(folder)
    with pytest.raises(InputError) as caught, records(folder, **fixed) as opened:
        opened.read()
    assert contents(folder) == before
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
            f"Best Validation MAE,{of_traits('accuracy')},{of_traits('MAE')},{of_traits('corr')}",
            f"Mean accuracy,Mean MAE,Mean corr,{of_traits('validation MAE')}",
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


def test_rows_come_back_as_they_were_added_and_a_run_goes_on_behind_them(tmp_path: Path) -> None:
    with records(tmp_path) as opened:
        results = [result(2, 0.5, seed=2**63 - 1), result(3), result(4, status="diverged")]
        added = [add(opened, new) for new in results]
        added.append(opened.add(failed(SETTING._replace(rank=5), 0, "it died"), {}))
    first = (tmp_path / "run.csv").read_bytes()
    with records(tmp_path) as opened:
        assert repr(read(opened)) == repr(added)  # NaN is not equal to itself
        add(opened, result(6))
    assert added[0] == Row(SETTING, 2**63 - 1, 0.5, 0.123457)
    assert [math.isnan(row.valid_loss) for row in added] == [False, False, True, True]
    assert (tmp_path / "run.csv").read_bytes().startswith(first)
    assert ranks(tmp_path) == [2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("status", "change", "names"),
    [
        ("ok", {"Test F1": 0.5}, "['Test F1']"),
        ("ok", {"Test MAE": None}, "['Test MAE']"),
        ("ok", {"Test MAE": None, "test MAE": 0.5}, "['Test MAE', 'test MAE']"),
        ("diverged", {"Test MAE": 0.5}, "['Test MAE']"),
    ],
)
def test_scores_that_are_not_the_columns_are_an_error_of_ours(
    status: str, change: dict[str, float | None], names: str, tmp_path: Path
) -> None:
    a_run(tmp_path, result(2))
    before = contents(tmp_path)
    new = result(3, 0.5, status=status)
    scores = {name: x for name, x in {**new.scores, **change}.items() if x is not None}
    with records(tmp_path) as opened:
        opened.read()
        with pytest.raises(AssertionError, match=re.escape(names)):
            add(opened, new._replace(scores=scores))
    assert contents(tmp_path) == before


@pytest.mark.parametrize("content", ["time,temperature\n1,2\n", "notes without an end"])
def test_a_file_that_is_not_ours_is_refused(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.csv").write_text(content)
    message = refusal(tmp_path)
    assert "run.json" in message
    assert "--run_id" in message


ODD = {
    "empty": "",
    "a list": "[]",
    "not UTF-8": "\udcff",
    "deeply nested": "[" * 100_000,
    "fixed is a list": json.dumps({**provenance(), "fixed": ["epochs"]}),
    "no start": json.dumps({key: provenance()[key] for key in provenance() if key != "started"}),
    "a start that is no text": json.dumps({**provenance(), "started": None}),
}


@pytest.mark.parametrize("content", ODD.values(), ids=ODD.keys())
def test_rows_without_their_provenance_are_refused(content: str, tmp_path: Path) -> None:
    a_run(tmp_path, result())
    (tmp_path / "run.json").write_text(content, errors="surrogateescape")
    message = refusal(tmp_path)
    assert "run.json: expected what a train script writes beside its CSV" in message
    assert "choose another --run_id" in message
    (tmp_path / "run.json").unlink()
    assert "run.json: no such file; it is to say how the rows" in refusal(tmp_path)


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
    ("stored", "command", "now", "differs"),
    [
        ({"path": "fast"}, [], "fast", False),
        ({"path": "fast"}, [], "reference", True),
        ({"path": "reference"}, ["--stack", "8"], "fast", True),
        ({}, ["--stack", "1"], "reference", False),  # written before the path was stored
        ({}, ["--stack=1", "--cuda"], "fast", True),
        ({}, ["--stack", "16"], "fast", False),
        ({}, [], "reference", True),
    ],
)
def test_a_run_keeps_to_the_path_that_it_began_with(
    stored: dict[str, object], command: list[str], now: str, differs: bool, tmp_path: Path
) -> None:
    begun = records(tmp_path, **stored)
    begun.provenance["command"] += command
    with begun:
        add(begun, result())
    if differs:
        assert f"now {now})" in refusal(tmp_path, path=now)
    else:
        with records(tmp_path, path=now) as opened:
            assert len(read(opened)) == 1


def test_a_second_writer_is_refused(tmp_path: Path) -> None:
    with records(tmp_path) as first:
        first.read()
        with pytest.raises(InputError, match="another process is training this run"):
            records(tmp_path).__enter__()
        add(first, result(2))
    assert ranks(tmp_path) == [2]
    assert not list(tmp_path.glob("*.lock"))


def test_two_runs_do_not_write_to_one_model(tmp_path: Path) -> None:
    other = Records(files(tmp_path / "other", tmp_path), train_mosi.COLUMNS, provenance())
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


MAKE = {
    "symlink": lambda path, victim: path.symlink_to(victim),
    "hard link": lambda path, victim: path.hardlink_to(victim),
    "pipe": lambda path, _: os.mkfifo(path),
    "folder": lambda path, _: path.mkdir(),
    "link to a device": lambda path, _: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", MAKE)
def test_nothing_is_written_through_what_stands_in_for_our_own_files(
    kind: str, tmp_path: Path
) -> None:
    victim, folder = tmp_path / "victim", tmp_path / "run"
    victim.write_text("precious")
    folder.mkdir()
    for name in ("run.csv.lock", "model.pt.lock"):
        MAKE[kind](folder / name, victim)
        with pytest.raises(InputError, match=rf"{name}: expected no file or link"):
            records(folder).__enter__()
        assert os.listdir(folder) == [name]
        (folder / name).rmdir() if kind == "folder" else (folder / name).unlink()
    for name in ("run.json.part", "model.pt.part"):
        MAKE[kind](folder / name, victim)
        if kind == "folder":
            with pytest.raises(InputError, match=rf"{name}: is in the way"):
                a_run(folder, result())
            (folder / name).rmdir()
    a_run(folder, result())
    assert victim.read_text() == "precious"
    assert sorted(os.listdir(folder)) == ["model.pt", "run.csv", "run.json"]


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize("kind", ["pipe", "folder", "link to a device"])
@pytest.mark.parametrize("name", ["run.csv", "run.json", "model.pt"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(
    name: str, kind: str, begun: bool, tmp_path: Path
) -> None:
    if begun:
        a_run(tmp_path, result())
    path = tmp_path / name
    path.unlink(missing_ok=True)
    MAKE[kind](path, tmp_path)
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(InputError, match=rf"{name}: expected a file, got a"):
        ranks(tmp_path)
    assert sorted(os.listdir(tmp_path)) == before


@pytest.mark.parametrize("content", [None, "", "audio_hidden,vid"])  # of a new run, or none
@pytest.mark.parametrize("kind", ["symlink", "hard link"])
def test_a_new_run_does_not_begin_in_a_linked_file(
    kind: str, content: str | None, tmp_path: Path
) -> None:
    victim = tmp_path / "victim"
    if content is None and kind == "hard link":
        return
    if content is not None:
        victim.write_text(content)
    MAKE[kind](tmp_path / "run.csv", victim)
    with pytest.raises(InputError, match=r"run\.csv: is a link"):
        a_run(tmp_path, result())
    assert victim.read_text() == content if content is not None else not victim.exists()


def test_a_json_that_no_train_script_wrote_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text('{"my": "notes"}')
    with pytest.raises(InputError, match=r"run\.json: .* would be overwritten; move it away"):
        a_run(tmp_path, result())
    assert (tmp_path / "run.json").read_text() == '{"my": "notes"}'


def test_a_csv_that_its_user_linked_to_another_place_is_written_there(tmp_path: Path) -> None:
    a_run(tmp_path, result(2))
    (tmp_path / "run.csv").rename(tmp_path / "elsewhere")
    (tmp_path / "run.csv").symlink_to(tmp_path / "elsewhere")
    a_run(tmp_path, result(3))
    assert ranks(tmp_path) == [2, 3]
    assert len((tmp_path / "elsewhere").read_text().splitlines()) == 3


def saved_rank(folder: Path) -> int:
    return torch.load(folder / "model.pt", weights_only=True)["setting"]["rank"]


@pytest.mark.parametrize("commands", [1, 6])
def test_the_model_file_is_the_best_by_validation(commands: int, tmp_path: Path) -> None:
    order = [(2, 2.0, 2), (3, 1.0, 3), (4, 1.5, 3), (5, 0.9, 5), (6, math.nan, 5), (7, 1.0, 5)]
    a_run(tmp_path, result(9, status="diverged"))
    assert not (tmp_path / "model.pt").exists()
    for part in np.array_split(np.array(order), commands):
        with records(tmp_path) as opened:
            opened.read()
            for rank, loss, best in part:
                status = "diverged" if math.isnan(loss) else "ok"
                add(opened, result(int(rank), float(loss), status=status))
                assert saved_rank(tmp_path) == best


def of_another_run(folder: Path, new: Result, **fixed: object) -> bytes:
    """Returns the model's file of a run that began at another time."""
    other = records(folder, **fixed)
    other.provenance["started"] = "2018-07-14"
    with other:
        add(other, new)
    return (folder / "model.pt").read_bytes()


def test_a_model_of_another_run_is_not_overwritten(tmp_path: Path) -> None:
    model = of_another_run(tmp_path / "other", result(2, 0.5))
    for content, message in (
        (model, "is no model of the run"),
        (model[:-100], "expected a model that a train script wrote"),
        (b"something else", "expected a model that a train script wrote"),
    ):
        (tmp_path / "new").mkdir(exist_ok=True)
        (tmp_path / "new" / "model.pt").write_bytes(content)
        assert f"model.pt: {message}" in refusal(tmp_path / "new", epochs=9)


def resave(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Changes one thing in a model's file."""
    saved = torch.load(path, weights_only=True)
    change(saved)
    torch.save(saved, path)


OTHER = "got other weights or sizes than were saved"
STALE = {  # what is done to the file, and what is said of it
    "a backup": (None, "got that of audio_hidden=4 video_hidden=4 text_hidden=6 audio_dropout=0"),
    "no file": (None, "got no such file"),
    "a zeroed weight": (lambda saved: saved["state_dict"]["fusion_weights"].zero_(), OTHER),
    "a missing weight": (lambda saved: saved["state_dict"].pop("fusion_bias"), OTHER),
    "another rank": (lambda saved: saved["config"].update(rank=4), OTHER),
    "another dropout": (lambda saved: saved["config"]["dropouts"].reverse(), OTHER),
    "another seed": (lambda saved: saved.update(seed=1), "seed=1, of 0.5; bring"),
    "another loss": (lambda saved: saved.update(valid_loss=0.500001), "of 0.500001; bring"),
}


@pytest.mark.parametrize("change", STALE)
def test_a_model_that_is_not_that_of_the_best_row_is_refused(change: str, tmp_path: Path) -> None:
    resaving, said = STALE[change]
    folder = tmp_path / "run"
    a_run(folder, result(2, 1.0))
    model = folder / "model.pt"
    backup = model.read_bytes()
    a_run(folder, result(3, 0.5), result(4, 0.7))
    if change == "a backup":
        model.write_bytes(backup)
    elif not resaving:
        model.unlink()
    else:
        resave(model, resaving)
    message = refusal(folder)
    assert "model.pt: expected the model of the best row (Best Validation MAE 0.5, " in message
    assert said in message
    grid = f"--grid {describe(SETTING._replace(rank=3))} and"
    assert f"train it under another --run_id with {grid}" in message

    model.write_bytes(of_another_run(tmp_path / "other", result(3, 0.5), epochs=6))
    assert "is no model of the run" in refusal(folder)
    model.write_bytes(of_another_run(tmp_path / "again", result(3, 0.5)))  # as the message says
    a_run(folder, result(5, 0.4))
    assert saved_rank(folder) == 5


def test_a_model_file_written_before_there_were_checksums_is_taken(tmp_path: Path) -> None:
    a_run(tmp_path, result(2, 1.0))
    for key in ("config_sha256", "weights_sha256"):
        resave(tmp_path / "model.pt", lambda saved, key=key: saved.pop(key))
        assert ranks(tmp_path) == [2]


@pytest.mark.parametrize("before", [[], [result(2, 1.0)], [result(2, status="diverged")]])
def test_a_row_that_was_lost_after_its_model_was_written_is_trained_again(
    before: list[Result], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = a_run(tmp_path, *before)
    rows = path.read_bytes()
    a_run(tmp_path, result(3, 0.5))
    whole = path.read_bytes()
    path.write_bytes(rows)
    assert ranks(tmp_path) == [new.setting.rank for new in before]
    a_run(tmp_path, result(3, 0.5))
    assert path.read_bytes() == whole
    path.write_bytes(rows)
    a_run(tmp_path, result(4, 0.7))  # not asked for any more
    assert saved_rank(tmp_path) == 4


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
        where = files(tmp_path / csv_folder, tmp_path / model_folder)
        unwritable = Records(where, train_mosi.COLUMNS, provenance())
        with pytest.raises(InputError, match="expected a folder to write to"), unwritable:
            pass
    assert (tmp_path / "file").read_text() == "in the way"


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


@pytest.mark.parametrize("name", ["run.csv", "model.pt"])
def test_what_can_not_be_written_leaves_the_finished_rows_and_their_model_intact(
    name: str, tmp_path: Path
) -> None:
    a_run(tmp_path, result(2, 1.0))
    before = contents(tmp_path)
    new = result(3, 1.5 if name == "run.csv" else 0.5)
    room = len(before[tmp_path / "run.csv"]) + 10 if name == "run.csv" else 2000
    assert room < len(before[tmp_path / "model.pt"])
    with records(tmp_path) as opened:
        opened.read()
        with (
            pytest.raises(InputError, match=rf"{re.escape(name)}: can't be written"),
            no_file_longer_than(room),
        ):
            add(opened, new)
    assert contents(tmp_path) == before  # so that the setting is trained again
    assert ranks(tmp_path) == [2]


def test_a_row_that_does_not_reach_the_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    a_run(tmp_path, result(2, 1.0))
    before = contents(tmp_path)

    def failing(descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with records(tmp_path) as opened:
        opened.read()
        monkeypatch.setattr(os, "fsync", failing)
        with pytest.raises(InputError, match=r"run\.csv: can't be written: Input/output error;"):
            add(opened, result(3, 1.5))
    assert contents(tmp_path) == before
    monkeypatch.undo()
    assert ranks(tmp_path) == [2]


def test_a_run_that_has_no_room_to_start_can_start_later(tmp_path: Path) -> None:
    for size, name in ((10, "json"), (300, "csv")):
        with (
            pytest.raises(InputError, match=rf"run\.{name}: can't be written"),
            no_file_longer_than(size),
            records(tmp_path),
        ):
            pass
        assert not list(tmp_path.glob("*.part"))
        assert not list(tmp_path.glob("*.lock"))
    a_run(tmp_path, result(2))
    assert ranks(tmp_path) == [2]


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


@pytest.mark.parametrize("change", ["saved anew", "appended to", "removed"])
def test_a_file_that_another_program_changes_during_a_search_is_left_to_it(
    change: str, tmp_path: Path
) -> None:
    path = a_run(tmp_path, result(2, 1.0), result(3, 0.5))
    with records(tmp_path) as opened:
        opened.read()
        add(opened, result(4, 1.5))
        if change == "saved anew":
            (tmp_path / "copy").write_bytes(path.read_bytes())
            (tmp_path / "copy").replace(path)
        elif change == "appended to":
            path.write_bytes(path.read_bytes() + b"\n")
        else:
            path.unlink()
        after = path.read_bytes() if path.exists() else None
        with pytest.raises(InputError, match=r"run\.csv: another program changed it"):
            add(opened, result(5, 1.5))
    assert (path.read_bytes() if path.exists() else None) == after
