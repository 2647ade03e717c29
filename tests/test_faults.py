"""What a search withstands: killed drivers, full and read-only disks, second processes, Ctrl-C."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import os
import random
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from conftest import Options
from drivers import ENDING as LAST
from drivers import PHASES, ROW, Answer, Drivers
from filelock import FileLock
from test_search import rows

import train_mosi
from model import LMF
from search.leaderboard import Row
from search.records import Records
from search.signals import ENDING
from search.workers import prepare
from utils import InputError

KILLS = 25  # five in each phase
INTERRUPTS = len(ENDING) * len(PHASES)  # each signal in each phase
PAGE = os.sysconf("SC_PAGE_SIZE")  # bytes; a small disk gives out no less
GRID = [
    *("audio_hidden=3", "video_hidden=3", "text_hidden=6", "audio_dropout=0,0.2"),
    *("text_dropout=0,0.5", "rank=1,2,3", "batch_size=8,16", "weight_decay=0"),
]


def small(folder: Path, data_path: Path) -> Options:
    """Returns a search on tiny data that takes a second."""
    return {
        "data_path": data_path,
        "output_path": folder / "results",
        "model_path": folder / "models",
        "epochs": 2,
        "settings": 8,
        "grid": GRID,
        "jobs": 2,
        "stack": 2,
    }


def files(options: Options) -> tuple[Path, Path, Path]:
    """Returns where a search's CSV, JSON and model are."""
    stem = Path(str(options["output_path"])) / "results_mosi_1.csv"
    return stem, stem.with_suffix(".json"), Path(str(options["model_path"])) / "model_mosi_1.pt"


class Undisturbed:
    """A search that ran without faults: what all others are held against."""

    def __init__(self, options: Options, answer: Answer) -> None:
        assert (answer.status, answer.phase) == (0, ""), answer.output
        self.calls = answer.calls
        path, _, model = files(options)
        self.rows, self.model = rows(path), torch.load(model, weights_only=True)

    def check(self, options: Options) -> None:
        """Sees that another search wrote the same, and left nothing else behind."""
        path, json_path, model = files(options)
        assert rows(path) == self.rows
        saved = torch.load(model, weights_only=True)
        for key in ("setting", "seed", "valid_loss", "scores", "history"):
            assert saved[key] == self.model[key]
        for name, tensor in saved["state_dict"].items():
            assert torch.equal(tensor, self.model["state_dict"][name])
        assert set(path.parent.iterdir()) == {path, json_path}
        assert list(model.parent.iterdir()) == [model]


@pytest.fixture(scope="module")
def undisturbed(
    drivers: Drivers, data_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Undisturbed:
    options = small(tmp_path_factory.mktemp("undisturbed"), data_path)
    return Undisturbed(options, drivers.run(options))


def whole_lines(path: Path) -> bytes:
    content = path.read_bytes() if path.exists() else b""
    return content[: content.rfind(b"\n") + 1]


def check_readable(options: Options) -> None:
    """Sees that whatever is there of a killed search can be read, and is right."""
    path, json_path, model = files(options)
    lines = whole_lines(path).decode().splitlines()
    found = list(csv.DictReader(lines, strict=True))
    assert all(len(row) == len(lines[0].split(",")) for row in found)
    assert all(row["Status"] == "ok" for row in found)
    if json_path.exists():
        assert json.loads(json_path.read_text())["data_set"] == "mosi"
    if model.exists():
        LMF.load(model)
        loss = torch.load(model, weights_only=True)["valid_loss"]
        assert all(float(f"{loss:.6g}") <= float(row["Best Validation MAE"]) for row in found)
    else:
        assert not found


def test_a_driver_that_is_killed_at_any_moment_loses_and_repeats_nothing(
    drivers: Drivers, undisturbed: Undisturbed, data_path: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    killed = dict.fromkeys(PHASES, 0)
    run, kept, unfinished = 0, b"", False
    while unfinished or sum(killed.values()) < KILLS:
        phase = min(PHASES, key=lambda phase: killed[phase])
        call = draw.randint(1, undisturbed.calls[phase])
        options = small(tmp_path / str(run), data_path)
        answer = drivers.run(options, signal.SIGKILL, phase, call)
        assert not answer.left
        assert whole_lines(files(options)[0]).startswith(kept)
        if answer.status == 0:  # it was done before that moment came
            undisturbed.check(options)
            run, kept, unfinished = run + 1, b"", False
            continue
        assert (answer.status, answer.phase) == (-signal.SIGKILL, phase), answer.output
        check_readable(options)
        killed[phase] += 1
        kept, unfinished = whole_lines(files(options)[0]), True
    print(f"{sum(killed.values())} kills in {run} searches, by what they hit: {killed}")
    assert min(killed.values()) >= KILLS // len(PHASES)


def test_a_signal_to_end_at_any_moment_keeps_finished_rows_and_leaves_nothing_behind(
    drivers: Drivers, undisturbed: Undisturbed, data_path: Path, tmp_path: Path
) -> None:
    draw = random.Random(0)
    interrupted = 0
    for i in itertools.count():
        if interrupted == INTERRUPTS:
            break
        phase = PHASES[interrupted % len(PHASES)]
        call = draw.randint(1, undisturbed.calls[phase])
        options = small(tmp_path / str(i), data_path)
        number = ENDING[interrupted // len(PHASES) % len(ENDING)]
        answer = drivers.run(options, number, phase, call)
        assert "Traceback" not in answer.output
        if answer.status == 0 and (phase == LAST or not answer.phase):  # everything was done
            undisturbed.check(options)
            interrupted += bool(answer.phase)
            continue
        assert answer.phase == phase
        assert answer.status == 128 + number, answer.output
        assert not answer.left
        path, json_path, model = files(options)
        assert {file for file in tmp_path.glob(f"{i}/*/*")} <= {path, json_path, model}
        kept = whole_lines(path)
        if kept:
            assert path.read_bytes() == kept
            check_readable(options)
        assert drivers.run(options).status == 0
        assert path.read_bytes().startswith(kept)
        undisturbed.check(options)
        interrupted += 1


class Disk:
    """A small file system of its own, made in a user namespace, so that it needs no privilege."""

    def __init__(self, folder: Path, pages: int) -> None:
        if subprocess.run(["sh", "-c", "unshare -rm true"], stderr=subprocess.DEVNULL).returncode:
            pytest.skip("needs Linux and user namespaces, to mount a small disk in")
        self.shell = subprocess.Popen(
            ["unshare", "-rm", "sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.folder = Path(f"/proc/{self.shell.pid}/root{folder}")
        self.mounted = folder
        if not self.sh(f"mount -t tmpfs -o size={pages * PAGE} none {folder}"):
            pytest.skip("needs to be allowed to mount a small disk")

    def sh(self, command: str) -> bool:
        """Runs a command where the disk is mounted; returns whether it succeeded."""
        assert self.shell.stdin
        assert self.shell.stdout
        self.shell.stdin.write(f"({command}) 2>/dev/null; echo $?\n")
        self.shell.stdin.flush()
        return self.shell.stdout.readline() == "0\n"

    def fill(self, free: int) -> None:
        """Leaves so many pages free."""
        with (self.folder / "ballast").open("ab", buffering=0) as ballast:
            with contextlib.suppress(OSError):
                while ballast.write(bytes(PAGE)):
                    pass
            ballast.truncate(ballast.tell() - free * PAGE)

    def close(self) -> None:
        self.shell.communicate()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    disk = Disk(folder, 100)
    yield disk
    disk.close()


def the_line(answer: Answer) -> str:
    """Returns the one line with which a search ended for a fault that is not its own."""
    assert answer.status == 2, answer.output
    assert "Traceback" not in answer.output
    assert not answer.left
    (line,) = [line for line in answer.output.splitlines() if line.startswith("drivers.py: ")]
    return line


def test_a_search_on_a_full_disk_stops_with_one_line_and_goes_on_once_there_is_room(
    disk: Disk, drivers: Drivers, undisturbed: Undisturbed, data_path: Path
) -> None:
    stopped_at = set()
    for pages in itertools.count():
        options = small(disk.folder / "run", data_path)
        disk.fill(pages)
        answer = drivers.run(options)
        path, json_path, model = files(options)
        kept = path.read_bytes() if path.exists() else b""
        (disk.folder / "ballast").unlink()
        if answer.status == 0:
            break
        line = the_line(answer)
        assert "No space left on device" in line
        assert kept == whole_lines(path)
        assert set((disk.folder / "run").glob("*/*")) <= {path, json_path, model}
        stop = {file for file in (path, json_path, model) if f"{file}: can't be" in line}
        if not stop <= stopped_at:  # each kind of stop is gone on from
            stopped_at |= stop
            assert drivers.run(options).status == 0
            assert path.read_bytes().startswith(kept)
            undisturbed.check(options)
        shutil.rmtree(disk.folder / "run")
    assert stopped_at == {path, json_path, model}


def test_a_row_that_has_no_room_left_is_written_once_there_is(
    disk: Disk, drivers: Drivers, undisturbed: Undisturbed, data_path: Path
) -> None:
    options = small(disk.folder, data_path)
    assert drivers.run(options).status == 0
    path, _, model = files(options)
    best = min(rows(path).values(), key=lambda row: float(row["Best Validation MAE"]))
    text = path.read_text().replace(best["Best Validation MAE"], "0")  # so that no model follows
    torch.save({**torch.load(model, weights_only=True), "valid_loss": 0.0}, model)
    path.write_text(text + "\n" * (PAGE - len(text)))
    before = path.read_bytes()
    disk.fill(0)
    line = the_line(drivers.run({**options, "settings": 16}))
    assert f"{path}: can't be written: No space left on device; finished rows are intact" in line
    assert path.read_bytes() == before
    (disk.folder / "ballast").unlink()
    assert drivers.run({**options, "settings": 16}).status == 0
    assert path.read_bytes().startswith(before)
    assert len(rows(path)) == 16


def test_a_full_folder_of_temporary_files_is_one_line(
    disk: Disk, data_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepare()  # Python has temporary files of its own
    monkeypatch.setattr(tempfile, "tempdir", str(disk.folder))
    disk.fill(1)
    with pytest.raises(InputError, match=r"to a temporary file: .*No space left on device; free"):
        train_mosi.main(small(tmp_path, data_path))


def test_a_folder_that_is_read_only_or_turns_so_stops_a_search_with_one_line(
    disk: Disk, data_path: Path, undisturbed: Undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {**small(disk.folder, data_path), "jobs": 1}  # rows come in one order
    path, _, _ = files(options)
    read_only = (
        f"mount --bind {disk.mounted} {disk.mounted} && mount -o remount,bind,ro {disk.mounted}"
    )

    def add_and_turn_read_only(*args: object) -> Row:
        row = add(*args)  # pyright: ignore
        assert disk.sh(read_only)
        monkeypatch.setattr(Records, "add", add)
        return row

    add = Records.add
    monkeypatch.setattr(Records, "add", add_and_turn_read_only)
    with pytest.raises(InputError, match=r"\.pt: can't be written: Read-only file system"):
        train_mosi.main(options)
    kept = path.read_bytes()
    assert kept == whole_lines(path)
    assert len(rows(path)) >= 1
    with pytest.raises(InputError, match="expected a folder to write to, but it is not writable"):
        train_mosi.main(options)
    assert disk.sh(f"umount {disk.mounted}")
    train_mosi.main(options)
    assert path.read_bytes().startswith(kept)
    undisturbed.check(options)


def test_a_second_process_is_refused_at_once_also_over_a_killed_ones_lock(
    drivers: Drivers, undisturbed: Undisturbed, data_path: Path, tmp_path: Path
) -> None:
    options = small(tmp_path, data_path)
    answer = drivers.run(options, signal.SIGKILL, ROW, 10)
    assert answer.status == -signal.SIGKILL
    path, _, _ = files(options)
    before = path.read_bytes()
    lock = FileLock(f"{path}.lock")
    assert Path(lock.lock_file).exists()
    with lock:
        line = the_line(drivers.run(options))
        assert f"{path}: another process is training this run" in line
        assert path.read_bytes() == before
    assert drivers.run(options).status == 0
    undisturbed.check(options)
