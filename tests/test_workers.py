"""The worker processes: what becomes of settings when workers die or fail."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import cast

import pytest
import torch
from conftest import tiny_arrays

import workers
from training import Data, Result, Setting, failed
from utils import Split
from workers import Epoch, Job, Trainer, train_locally

SETTING = Setting(3, 3, 4, 0.0, 0.0, 0.0, 0.001, 0.001, 1, 4, 0.0)
JOBS = [(SETTING._replace(rank=rank), 0) for rank in range(1, 7)]


class Pretending:
    """Stands in for a trainer: reports each job at once, and dies or raises at others.

    Args:
        deadly: The rank that kills the worker.
        marks: Where each attempt leaves a file.
        mercy: How many attempts kill; later ones succeed.
        faulty: The rank that raises an exception.
    """

    def __init__(self, marks: Path, deadly: int = 0, mercy: int = 99, faulty: int = 0) -> None:
        self.marks, self.deadly, self.mercy, self.faulty = marks, deadly, mercy, faulty

    def train(
        self, jobs: Sequence[Job], data: Data, tell: Callable[[Result | Epoch], None]
    ) -> None:
        assert [len(split) for split in data] == [23, 9, 11]
        assert torch.get_num_threads() == 1
        for setting, seed in jobs:
            (self.marks / f"{setting.rank} {os.urandom(8).hex()}").touch()
            if setting.rank == self.deadly and self.attempts(setting.rank) <= self.mercy:
                os.kill(os.getpid(), signal.SIGKILL)
            if setting.rank == self.faulty:
                raise ZeroDivisionError("a fault of ours")
            tell(failed(setting, seed, "only pretending"))

    def attempts(self, rank: int) -> int:
        return len(list(self.marks.glob(f"{rank} *")))


@pytest.fixture(autouse=True)
def _prepared() -> None:
    workers.prepare()


def run(trainer: Pretending, chunks: Iterator[list[Job]]) -> list[Result]:
    data = Data(
        *(
            Split(*(torch.from_numpy(array).float() for array in arrays.values()))
            for arrays in tiny_arrays("mosi").values()
        )
    )
    messages = train_locally(chunks, cast(Trainer, trainer), data, ["cpu", "cpu"])
    return [message for message in messages if isinstance(message, Result)]


def reasons(results: list[Result]) -> dict[int, str]:
    """Returns what came of each rank; none may have come twice."""
    assert len({result.setting for result in results}) == len(results)
    return {result.setting.rank: result.reason for result in sorted(results)}


@pytest.mark.parametrize("size", [1, 3])
def test_a_setting_that_kills_its_worker_is_given_up_and_the_others_are_trained(
    size: int, tmp_path: Path
) -> None:
    trainer = Pretending(tmp_path, deadly=2)
    found = reasons(run(trainer, (JOBS[i : i + size] for i in range(0, 6, size))))
    reason = found.pop(2)
    assert "SIGKILL" in reason
    assert found == dict.fromkeys((1, 3, 4, 5, 6), "only pretending")
    assert trainer.attempts(2) == workers.ATTEMPTS


def test_a_setting_whose_worker_died_once_is_trained_again(tmp_path: Path) -> None:
    trainer = Pretending(tmp_path, deadly=2, mercy=1)
    found = reasons(run(trainer, ([job] for job in JOBS)))
    assert found == dict.fromkeys(range(1, 7), "only pretending")
    assert trainer.attempts(2) == 2


def test_an_exception_in_a_worker_is_shown_with_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match=r"(?s)a worker failed.*ZeroDivisionError: a fault"):
        run(Pretending(tmp_path, faulty=3), ([job] for job in JOBS))
