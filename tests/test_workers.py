"""The worker processes: what becomes of settings when workers die or fail."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import os
import pickle
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterable, Sequence
from multiprocessing import forkserver
from pathlib import Path
from typing import cast

import pytest
import torch
from conftest import ROOT, tiny_data

from search import jobs, workers
from search.jobs import Trainer
from search.messages import Epoch, Progress
from search.process import CONTEXT
from search.workers import LocalBackend
from training.result import Data, Result, failed
from training.setting import Setting
from training.stacked import Job
from utils import InputError

SETTING = Setting(3, 3, 4, 0.0, 0.0, 0.0, 0.001, 0.001, 1, 4, 0.0)
LARGE = {"weight": torch.zeros(100_000)}  # more than a pipe holds
JOBS = [(SETTING._replace(rank=rank), 0) for rank in range(1, 7)]
ALONE = [[job] for job in JOBS]


class Pretending:
    """Stands in for a trainer: reports each job at once where it ran; some attempts go wrong.

    Args:
        marks: Where each attempt leaves a file.
        fault: What happens to the job of rank 2: "death", "half a message", "a stop"
            (amid a message), "no message", "nonsense", "memory", "error", "bad input",
            "standstill" (until there is a mark "go on") or "".
        times: How many attempts at it go wrong.
    """

    def __init__(self, marks: Path, fault: str = "", times: int = 99) -> None:
        self.marks, self.fault, self.times = marks, fault, times

    def train(
        self, jobs: Sequence[Job], data: Data, tell: Callable[[Result | Epoch], None]
    ) -> None:
        from torch.backends import cudnn  # here, as Ray can't send a function that holds it

        assert [len(split) for split in data] == [23, 9, 11]
        assert torch.get_num_threads() == 1
        assert not cudnn.allow_tf32
        for setting, seed in jobs:
            (self.marks / f"{setting.rank} {os.urandom(8).hex()}").touch()
            if setting.rank == 2 and self.attempts(2) <= self.times:
                self.go_wrong(tell)
            tell(failed(setting, seed, f"by {workers.__file__}")._replace(state_dict=LARGE))

    def go_wrong(self, tell: Callable[[Result | Epoch], None]) -> None:
        if self.fault in ("half a message", "a stop", "no message", "nonsense"):
            driver = inspect.getclosurevars(tell).nonlocals["driver"]
            if self.fault in ("half a message", "a stop"):
                os.write(driver.fileno(), struct.pack("!i", 1000) + bytes(500))
                stop = self.fault == "a stop"
                os.kill(os.getpid(), signal.SIGSTOP if stop else signal.SIGKILL)
            driver.send_bytes(b"\x80" if self.fault == "no message" else pickle.dumps("done"))
        if self.fault == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "memory":
            torch.empty(2**50)
        if self.fault == "error":
            raise ZeroDivisionError("a fault of ours")
        if self.fault == "bad input":
            raise InputError("expected another machine")
        while self.fault == "standstill" and not (self.marks / "go on").exists():
            time.sleep(0.01)

    def attempts(self, rank: int) -> int:
        return len(list(self.marks.glob(f"{rank} *")))


@pytest.fixture(autouse=True)
def _prepared() -> None:
    workers.prepare()


def begin(
    trainer: Pretending, chunks: Iterable[list[Job]], backend: LocalBackend | None = None
) -> Generator[Progress]:
    backend = backend or LocalBackend(["cpu", "cpu"])
    return backend.train(iter(chunks), cast(Trainer, trainer), tiny_data())


def run(trainer: Pretending, chunks: Iterable[list[Job]]) -> list[Result]:
    return [message for message in begin(trainer, chunks) if isinstance(message, Result)]


def reasons(results: list[Result]) -> dict[int, str]:
    """Returns what came of each rank; none may have come twice."""
    assert len({result.setting for result in results}) == len(results)
    return {result.setting.rank: result.reason for result in sorted(results)}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("fault", "sign"),
    [
        ("death", "SIGKILL"),
        ("half a message", "SIGKILL"),
        ("no message", "can't be read"),
        ("nonsense", "makes no sense: a str"),
        ("memory", "ran out of memory: [enforce fail"),
    ],
)
def test_a_setting_that_takes_its_worker_down_is_given_up_and_the_others_are_trained(
    fault: str, sign: str, size: int, tmp_path: Path
) -> None:
    trainer = Pretending(tmp_path, fault)
    found = reasons(run(trainer, (JOBS[i : i + size] for i in range(0, 6, size))))
    assert sign in found.pop(2)
    assert found == dict.fromkeys((1, 3, 4, 5, 6), f"by {workers.__file__}")
    assert trainer.attempts(2) == jobs.ATTEMPTS


def test_a_setting_whose_worker_died_once_is_trained_again(tmp_path: Path) -> None:
    trainer = Pretending(tmp_path, "death", times=1)
    found = reasons(run(trainer, ALONE))
    assert found == dict.fromkeys(range(1, 7), f"by {workers.__file__}")
    assert trainer.attempts(2) == 2


@pytest.mark.parametrize(
    ("fault", "error", "said"),
    [
        ("error", RuntimeError, r"(?s)a worker failed.*ZeroDivisionError: a fault"),
        ("bad input", InputError, r"^expected another machine$"),
    ],
)
def test_an_exception_in_a_worker_ends_the_search_with_its_traceback_or_what_to_do(
    fault: str, error: type[Exception], said: str, tmp_path: Path
) -> None:
    with pytest.raises(error, match=said):
        run(Pretending(tmp_path, fault), ALONE)


def test_an_idle_worker_that_dies_does_not_end_the_search(tmp_path: Path) -> None:
    trainer = Pretending(tmp_path, "standstill")
    backend = LocalBackend(["cpu", "cpu"])
    results, killed = [], None
    for message in begin(trainer, ALONE[:3], backend):
        if isinstance(message, Result):
            results.append(message)
        idle = [worker for worker in backend.workers if worker.idle]
        if len(results) == 2 and idle and not killed:
            (killed,) = idle
            killed.process.kill()
        if killed and killed not in backend.workers:  # it has been noticed
            (tmp_path / "go on").touch()
    assert killed
    assert reasons(results) == dict.fromkeys((1, 2, 3), f"by {workers.__file__}")
    assert trainer.attempts(2) == 1


class DyingAtStart(Pretending):
    """Takes down the worker processes that it comes to, those with these numbers."""

    def __init__(self, marks: Path, numbers: Sequence[int]) -> None:
        super().__init__(marks, "death", times=1)
        self.numbers = numbers

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        for number in itertools.count():
            with contextlib.suppress(FileExistsError):
                (self.marks / f"start {number}").touch(exist_ok=False)
                break
        if number in self.numbers:
            os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("numbers", [(0,), (0, 1), (2,), (2, 3)])
def test_workers_that_die_at_their_start_are_replaced(
    numbers: Sequence[int], tmp_path: Path
) -> None:
    found = reasons(run(DyingAtStart(tmp_path, numbers), ALONE))
    assert found == dict.fromkeys(range(1, 7), f"by {workers.__file__}")
    assert len(list(tmp_path.glob("start *"))) == 3 + len(numbers)


def test_where_no_worker_can_start_a_line_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"can't start: 3 in a row ended \(.*SIGKILL\); free"):
        run(DyingAtStart(tmp_path, range(100)), ALONE)


def test_a_forkserver_that_was_stopped_keeps_nothing_from_starting_or_ending(
    tmp_path: Path,
) -> None:
    trainer = Pretending(tmp_path, "death", times=1)
    results = []
    for message in begin(trainer, ALONE):
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGSTOP)  # pyright: ignore
        if isinstance(message, Result):
            results.append(message)
    assert len(reasons(results)) == len(JOBS)


def test_a_worker_that_is_stopped_amid_a_message_holds_nothing_up(tmp_path: Path) -> None:
    trainer = Pretending(tmp_path, "a stop")
    messages = begin(trainer, ALONE)
    results = []
    for message in messages:
        if isinstance(message, Result):
            results.append(message)
        if message is None and len(results) == len(JOBS) - 1:
            break
    messages.close()
    assert set(reasons(results)) == {1, 3, 4, 5, 6}


def test_what_a_cluster_s_head_loads_needs_no_torch() -> None:
    code = "import search.task, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_workers_start_with_all_that_is_to_be_loaded_from_any_directory(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    code = f"import sys; print([name in sys.modules for name in {workers.PRELOADED}])"
    script.write_text(
        f"""
if __name__ == "__main__":
    import sys
    sys.path.insert(0, {str(ROOT)!r})
    from search import process, workers
    workers.prepare()
    process = process.CONTEXT.Process(target=exec, args=({code!r},))
    process.start()
    process.join()
"""
    )
    done = subprocess.run(
        [sys.executable, str(script)], cwd=tmp_path, capture_output=True, text=True
    )
    assert (done.stdout, done.stderr) == ("[True, True]\n", "")


def test_a_daemonic_process_is_told_that_it_can_t_have_workers(tmp_path: Path) -> None:
    said = tmp_path / "said"
    code = f"""
from pathlib import Path
from search.workers import prepare
from utils import InputError
try:
    prepare()
except InputError as error:
    Path({str(said)!r}).write_text(str(error))
"""
    process = CONTEXT.Process(target=exec, args=(code,), daemon=True)  # imports nothing for it
    process.start()
    process.join()
    assert process.exitcode == 0
    assert said.read_text().startswith("main() was called in a daemonic process")
