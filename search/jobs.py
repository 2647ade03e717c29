"""What a worker trains, and how: the same on this machine and on a cluster."""

from __future__ import annotations

import copyreg
import io
import os
import pickle
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import torch
from threadpoolctl import threadpool_limits

from search.messages import Epoch
from training.parameters import Sizes, sizes
from training.reference import fit
from training.result import Data, Limits, Result, Task, failed
from training.stacked import Job, fit_stacked
from training.warm_up import compile_fast_path

ATTEMPTS = 3  # how often a setting may take its worker down before it is given up
_NO_MEMORY = (  # of the errors for which torch has no class
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
_CHUNK_STACKS = 4  # how many stacks' worth of settings a worker is given at once
_DRAWN_AHEAD = 24  # chunks' worth of settings that are drawn to sort them by size
POLL_SECONDS = 0.2  # how long the driver may be deaf to Ctrl-C


class Trainer(NamedTuple):
    """What a worker needs to know beside its jobs and the data."""

    task: Task
    limits: Limits
    stack: int | None  # how many settings train together; None: by size; 1: the reference path
    verbose: bool  # whether it tells every epoch

    def train(
        self, jobs: Sequence[Job], data: Data, tell: Callable[[Result | Epoch], None]
    ) -> None:
        """Trains the jobs, telling each result as soon as it is there.

        A setting whose numbers overflow fails; the others are trained without it.
        """
        left = list(jobs)

        def note(message: Result | Epoch) -> None:
            if isinstance(message, Result):
                left.remove((message.setting, message.seed))
            tell(message)

        try:
            self._train(jobs, data, note)
        except (OverflowError, RuntimeError) as error:
            if not left or (isinstance(error, RuntimeError) and "overflow" not in str(error)):
                raise
            if len(left) == 1:
                tell(failed(*left[0], str(error)))
                return
            for job in left:  # each alone, to tell which of them it was
                self.train([job], data, tell)

    def _train(
        self, jobs: Sequence[Job], data: Data, tell: Callable[[Result | Epoch], None]
    ) -> None:
        listener = (lambda *losses: tell(Epoch(*losses))) if self.verbose else None
        if self.stack == 1:
            for setting, seed in jobs:
                one = partial(listener, setting, seed) if listener else None
                tell(fit(setting, seed, data, self.task, self.limits, on_epoch=one))
            return
        if data.train.label.device.type == "cpu":
            compile_fast_path()  # on a cluster; workers here were forked from where it was done
        for result in fit_stacked(
            jobs, data, self.task, self.limits, slots=self.stack, on_epoch=listener
        ):
            tell(result)


def chunks(
    jobs: Iterator[Job],
    count: int,
    workers: Callable[[], int],
    stack: Callable[[Sizes], int],
) -> Iterator[list[Job]]:
    """Yields the jobs in chunks of settings that can train together, drawing few in advance.

    Args:
        jobs: What there is to train; only what the chunks need is drawn.
        count: How many jobs there are.
        workers: How many workers share them now; the last chunks of several are smaller, so that
            they end together.
        stack: How many settings of a size train together.
    """
    waiting: dict[Sizes, list[Job]] = {}
    drawn = 0
    while True:
        fullest = max(waiting, key=lambda size: len(waiting[size]), default=None)
        enough = 1 if fullest is None else _CHUNK_STACKS * stack(fullest)
        shares = 2 * workers() if workers() > 1 else 1  # one alone needs none to end together
        most = max(1, min(enough, -(-count // shares)))
        if drawn < _DRAWN_AHEAD * most and (fullest is None or len(waiting[fullest]) < most):
            job = next(jobs, None)
            if job:
                waiting.setdefault(sizes(job[0]), []).append(job)
                drawn += 1
                continue
        if fullest is None:
            return
        chunk = waiting[fullest][:most]
        del waiting[fullest][:most]
        if not waiting[fullest]:
            del waiting[fullest]
        drawn -= len(chunk)
        count -= len(chunk)
        yield chunk


class Retries:
    """The jobs whose workers died: each is trained again alone, up to a bound."""

    def __init__(self) -> None:
        self.jobs: list[Job] = []
        self.deaths: Counter[Job] = Counter()

    def next_of(self, chunks: Iterator[list[Job]]) -> list[Job] | None:
        """Returns what a worker is to train next, if there is anything."""
        return [self.jobs.pop()] if self.jobs else next(chunks, None)

    def worker_lost(self, jobs: Sequence[Job], reason: str) -> Iterator[Result]:
        """Decides what becomes of a lost worker's jobs; yields those that are given up."""
        for job in jobs:
            self.deaths[job] += 1
            if self.deaths[job] >= ATTEMPTS:
                yield failed(*job, f"{reason}, {ATTEMPTS} times")
            else:
                self.jobs.append(job)


def out_of_memory(error: BaseException) -> str | None:
    """Returns why a worker counts as dead if memory ran out, None if the error is another."""
    error = error.__cause__ or error  # a capture says what to do when it fails, whatever the cause
    text = str(error)
    kind = isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError))
    if kind or (isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY)):
        return f"its worker ran out of memory: {text.partition(chr(10))[0]}"
    return None


class _Pickler(pickle.Pickler):
    """Writes tensors as arrays: by value, and at a tenth of the time of torch's own way."""

    dispatch_table = copyreg.dispatch_table | {
        torch.Tensor: lambda tensor: (torch.from_numpy, (tensor.numpy(),))
    }


def pickled(message: object) -> bytes:
    """Returns a message as workers send it, for `pickle.loads`."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(message)
    return buffer.getvalue()


def set_torch_up() -> None:
    """Makes torch and BLAS compute as all workers do, which rows depend on.

    Source:
        torch's notes on TF32, on by default in cuDNN, and on nn.LSTM, which is deterministic on
        CUDA with this workspace only.
    """
    torch.backends.cudnn.allow_tf32 = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2")
    torch.set_float32_matmul_precision("highest")
    torch.set_num_threads(1)
    threadpool_limits(1)  # whatever the environment says: small products suffer from threads
    torch.set_flush_denormal(True)  # Adam's moments of dead units, which would slow it down
