"""Real processes: how they start where little is allowed, how they end, and what they leave."""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
from conftest import ROOT, Options
from drivers import children
from test_search import command, rows

import train_mosi
from search import temporary
from search.signals import ENDING
from search.temporary import OwnFolder
from utils import InputError

pytestmark = pytest.mark.slow
COUNT = 5000  # settings: more than are trained before an end


@pytest.fixture
def folder() -> Iterator[Path]:
    """The folder of temporary files: a path that is short enough for sockets."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        yield Path(folder)


class Running:
    """A search in a process group of its own, with children, which is ended by signals."""

    def __init__(
        self,
        options: Options,
        environment: Mapping[str, str],
        before: Callable[[], object] | None = None,
    ) -> None:
        self.process = subprocess.Popen(
            command("mosi", {**options, "jobs": 2, "settings": COUNT}),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
            env=os.environ | environment,
            preexec_fn=before,
        )

    def __enter__(self) -> Running:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(ProcessLookupError):  # it has ended
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.communicate()

    def train(self, count: int) -> None:
        """Waits until so many settings are finished."""
        assert self.process.stdout
        for line in self.process.stdout:
            if re.match(rf" *{count} .*\ds\b", line):
                return
        raise AssertionError(f"it ended before: {self.process.communicate()[1]}")

    def ended(self, number: int) -> None:
        """Sends a signal to all of its processes, and sees that it ends by that in good order."""
        os.killpg(self.process.pid, number)
        output, errors = self.process.communicate(timeout=60)  # none has its output open then
        assert (self.process.returncode, errors) == (128 + number, "")
        assert "the best settings by validation" in output
        assert output.endswith("\nit was interrupted; the same command goes on with it\n")


def test_an_interrupted_search_keeps_its_rows_and_goes_on_to_the_same_ones(
    options: Options, folder: Path, tmp_path: Path
) -> None:
    with Running(options, {"TMPDIR": str(folder)}) as running:
        running.train(1)
        running.ended(signal.SIGINT)
    assert not list(folder.iterdir())
    path = tmp_path / "results" / "results_mosi_1.csv"
    names = {path.name, "results_mosi_1.json", "model_mosi_1.pt"}
    assert {file.name for file in tmp_path.glob("*/*")} == names
    kept = path.read_bytes()
    assert 1 <= len(rows(path)) < COUNT
    assert train_mosi.main(options) == path
    assert path.read_bytes().startswith(kept)
    assert rows(train_mosi.main({**options, "run_id": 2})).items() <= rows(path).items()


def test_a_script_that_still_imports_ends_at_once_without_a_word(tmp_path: Path) -> None:
    code = "import os, time\nos.kill(os.getpid(), int(os.environ['NUMBER']))\ntime.sleep(60)"
    for name in ("numpy", "torch"):
        (tmp_path / f"{name}.py").write_text(code)
    files = (path for pattern in ("*.py", "[!.t]*/*.py") for path in ROOT.glob(pattern))
    scripts = [path for path in files if "    run_script(main)" in path.read_text()]
    assert len(scripts) == 12
    for script, number in zip(scripts, itertools.cycle(ENDING), strict=False):
        done = subprocess.run(
            [sys.executable, str(script)],
            capture_output=True,
            text=True,
            timeout=50,
            env={**os.environ, "PYTHONPATH": str(tmp_path), "NUMBER": str(int(number))},
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN),  # as `&` does
        )
        assert (done.returncode, done.stdout, done.stderr) == (128 + number, "", ""), script


def test_a_search_under_nohup_outlives_its_terminal_and_hears_sigquit(
    options: Options, folder: Path
) -> None:
    def ignore() -> None:
        for number in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):
            signal.signal(number, signal.SIG_IGN)

    with Running(options, {"TMPDIR": str(folder)}, ignore) as running:
        running.train(1)
        os.killpg(running.process.pid, signal.SIGHUP)
        running.train(20)
        running.ended(signal.SIGQUIT)
    assert not list(folder.iterdir())


def test_ctrl_c_ends_a_search_whose_children_are_stopped(options: Options, folder: Path) -> None:
    with Running(options, {"TMPDIR": str(folder)}) as running:
        running.train(1)
        for process in children(running.process.pid):
            os.kill(process, signal.SIGSTOP)
        os.kill(running.process.pid, signal.SIGINT)
        running.process.communicate(timeout=20)  # all have ended: none has its output open
        assert running.process.returncode == 130
    assert not list(folder.iterdir())


def test_what_a_killed_search_leaves_is_removed_by_the_next_one_which_ends_with_its_terminal(
    options: Options, folder: Path
) -> None:
    with Running(options, {"TMPDIR": str(folder)}) as killed:
        killed.train(1)
        killed.process.kill()
        killed.process.communicate(timeout=20)
    (left,) = folder.iterdir()
    with Running({**options, "run_id": "next"}, {"TMPDIR": str(folder)}) as running:
        running.train(1)
        (own,) = folder.iterdir()
        assert own != left
        running.ended(signal.SIGHUP)
    assert not list(folder.iterdir())


def test_only_what_is_proved_to_be_dead_is_removed(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    in_use, dead = OwnFolder(0), OwnFolder(0)
    os.close(dead.lock)  # as the end of its process does
    (folder / "lmf-12345678").mkdir()
    (folder / "lmf-ofothers").mkdir()
    (folder / "lmf-ofothers" / "file").touch()
    (folder / "lmf-afileof8").touch()
    new = OwnFolder(0)
    left = {in_use.path.name, new.path.name, "lmf-ofothers", "lmf-afileof8"}
    assert {path.name for path in folder.iterdir()} == left
    for own in (in_use, new):
        own.close()


def test_where_no_temporary_folder_is_fit_a_line_says_what_is(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(temporary, "_FALLBACKS", (str(folder / "missing"),))
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    with pytest.raises(InputError, match=r"path of at most 10 characters.*set TMPDIR to one"):
        OwnFolder(80)


def test_a_search_runs_with_a_long_tmpdir_and_few_open_files_at_first(
    options: Options, folder: Path
) -> None:
    long = folder / ("x" * 120)
    long.mkdir()
    done = subprocess.run(
        command("mosi", {**options, "jobs": 12, "settings": 12, "epochs": 1}),
        capture_output=True,
        text=True,
        env={**os.environ, "TMPDIR": str(long)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (40, 1000)),
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert not list(long.iterdir())


def test_more_workers_than_open_files_are_refused_with_one_line(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    for files, jobs, said in (
        (64, 40, r"at most \d .*, got 40; give fewer, or"),
        (20, 1, "more .*"),
    ):
        monkeypatch.setattr(resource, "getrlimit", lambda _, files=files: (files, files))
        with pytest.raises(InputError, match=rf"^--jobs: expected {said} raise the limit"):
            train_mosi.main({**options, "jobs": jobs, "settings": 40})
