"""The worker processes: what becomes of settings when workers die or fail."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from conftest import tiny_arrays

from search import jobs, workers
from search.jobs import Epoch, Trainer
from search.workers import train_locally
from training.result import Data, Result, failed
from training.setting import Setting
from training.stacked import Job
from utils import Split

SETTING = Setting(3, 3, 4, 0.0, 0.0, 0.0, 0.001, 0.001, 1, 4, 0.0)
JOBS = [(SETTING._replace(rank=rank), 0) for rank in range(1, 7)]


class Pretending:
    """Stands in for a trainer: reports each job at once where it ran; some attempts go wrong.

    Args:
        marks: Where each attempt leaves a file.
        fault: What happens to the job of rank 2: "death", "memory", "error", "standstill" or "".
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
                self.go_wrong()
            tell(failed(setting, seed, f"by {workers.__file__}"))

    def go_wrong(self) -> None:
        if self.fault == "death":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.fault == "memory":
            torch.empty(2**50)
        if self.fault == "error":
            raise ZeroDivisionError("a fault of ours")
        while self.fault == "standstill":
            time.sleep(1)

    def attempts(self, rank: int) -> int:
        return len(list(self.marks.glob(f"{rank} *")))


@pytest.fixture(autouse=True)
def _prepared() -> None:
    workers.prepare()


def tiny_data() -> Data:
    return Data(
        *(
            Split(*(torch.from_numpy(array).float() for array in arrays.values()))
            for arrays in tiny_arrays("mosi").values()
        )
    )


def run(trainer: Pretending, chunks: Iterator[list[Job]]) -> list[Result]:
    messages = train_locally(chunks, cast(Trainer, trainer), tiny_data(), ["cpu", "cpu"])
    return [message for message in messages if isinstance(message, Result)]


def reasons(results: list[Result]) -> dict[int, str]:
    """Returns what came of each rank; none may have come twice."""
    assert len({result.setting for result in results}) == len(results)
    return {result.setting.rank: result.reason for result in sorted(results)}


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize(
    ("fault", "sign"), [("death", "SIGKILL"), ("memory", "ran out of memory: [enforce fail")]
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
    found = reasons(run(trainer, ([job] for job in JOBS)))
    assert found == dict.fromkeys(range(1, 7), f"by {workers.__file__}")
    assert trainer.attempts(2) == 2


def test_an_exception_in_a_worker_is_shown_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed.*ZeroDivisionError: a fault"):
        run(Pretending(tmp_path, "error"), ([job] for job in JOBS))
