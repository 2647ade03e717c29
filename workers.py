"""Where settings are trained: worker processes on this machine, one thread or one GPU each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Sequence
from functools import partial
from multiprocessing import connection, forkserver, parent_process
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import NamedTuple

import torch

from layout import Sizes, sizes
from stacked import Job, fit_stacked
from training import Data, Limits, Result, Setting, Task, failed, fit
from utils import Split

ATTEMPTS = 3  # how often a setting may take its worker down before it is given up
_CHUNK_STACKS = 4  # how many stacks' worth of settings a worker is given at once
_DRAWN_AHEAD = 24  # chunks' worth of settings that are drawn to sort them by size
POLL_SECONDS = 0.2  # how long the driver may be deaf to Ctrl-C


class Epoch(NamedTuple):
    """One epoch's losses, told while a setting trains."""

    setting: Setting
    seed: int
    epoch: int
    train_loss: float
    valid_loss: float


class Trainer(NamedTuple):
    """What a worker needs to know beside its jobs and the data."""

    task: Task
    limits: Limits
    stack: int | None  # how many settings train together; None: by size; 1: the reference path
    verbose: bool

    def train(
        self, jobs: Sequence[Job], data: Data, tell: Callable[[Result | Epoch], None]
    ) -> None:
        """Trains the jobs, telling each result as soon as it is there."""

        def on_epoch(setting: Setting, seed: int, epoch: int, train: float, valid: float) -> None:
            tell(Epoch(setting, seed, epoch, train, valid))

        listener = on_epoch if self.verbose else None
        if self.stack == 1:
            for setting, seed in jobs:
                one = partial(listener, setting, seed) if listener else None
                tell(fit(setting, seed, data, self.task, self.limits, on_epoch=one))
            return
        for result in fit_stacked(
            jobs, data, self.task, self.limits, slots=self.stack, on_epoch=listener
        ):
            tell(result)


def chunks(
    jobs: Iterator[Job], count: int, workers: int, stack: Callable[[Sizes], int]
) -> Iterator[list[Job]]:
    """Yields the jobs in chunks of settings that can train together, drawing few in advance.

    Args:
        jobs: What there is to train; only what the chunks need is drawn.
        count: How many jobs there are.
        workers: How many workers share them; the last chunks are smaller, to end together.
        stack: How many settings of a size train together.
    """
    waiting: dict[Sizes, list[Job]] = {}
    drawn = 0
    while True:
        fullest = max(waiting, key=lambda size: len(waiting[size]), default=None)
        enough = 1 if fullest is None else _CHUNK_STACKS * stack(fullest)
        most = max(1, min(enough, (count + 2 * workers - 1) // (2 * workers)))
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


def prepare() -> None:
    """Starts the process that workers are forked from; it imports torch while the data load."""
    context = _context()
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["workers", "sklearn.metrics"])
        with _ignoring_interrupts():
            forkserver.ensure_running()


def train_locally(
    chunks: Iterator[list[Job]], trainer: Trainer, data: Data, devices: Sequence[str]
) -> Generator[Result | Epoch | None]:
    """Yields results from one worker process per device, as they come, or None after a while.

    Chunks are drawn as workers fall idle. Jobs of a worker that died are trained again, each
    alone; one that took down ATTEMPTS workers is reported as failed. Closing the generator ends
    the workers at once.

    Args:
        chunks: Jobs that go to one worker together.
        trainer: What the workers do with them.
        data: Shared between the workers, not copied.
        devices: "cpu" or "cuda:N", one per worker.

    Raises:
        RuntimeError: A worker raised an exception; it is shown with the worker's own traceback.
    """
    with tempfile.TemporaryDirectory(prefix="lmf-") as folder:
        data_file = Path(folder) / "data.pt"
        torch.save([split[:] for split in data], data_file)
        workers = [_Worker(trainer, data_file, device) for device in devices]
        try:
            yield from _drive(
                workers, chunks, lambda dead: _Worker(trainer, data_file, dead.device)
            )
        finally:
            for worker in workers:
                worker.end()


class _Worker:
    """A worker process, as the driver sees it."""

    def __init__(self, trainer: Trainer, data_file: Path, device: str) -> None:
        self.device = device
        self.ready = False
        self.jobs: list[Job] = []  # those that it was given and has not finished
        self.connection, theirs = connection.Pipe()
        arguments = (theirs, trainer, data_file, device)
        self.process = _context().Process(target=_work, args=arguments, daemon=True)
        with _ignoring_interrupts():
            self.process.start()
        theirs.close()

    def give(self, jobs: list[Job]) -> None:
        self.jobs = list(jobs)
        with contextlib.suppress(BrokenPipeError):  # it died; reading from it will tell
            self.connection.send(jobs)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.connection.close()


def _drive(
    workers: list[_Worker],
    chunks: Iterator[list[Job]],
    replace: Callable[[_Worker], _Worker],
) -> Iterator[Result | Epoch | None]:
    again: list[Job] = []  # jobs whose worker died
    deaths: Counter[Job] = Counter()
    idle: list[_Worker] = []
    while True:
        while idle and (chunk := [again.pop()] if again else next(chunks, None)):
            idle.pop().give(chunk)
        if len(idle) == len(workers) and not again:
            return
        readable = connection.wait([worker.connection for worker in workers], POLL_SECONDS)
        if not readable:
            yield None
        for worker in [worker for worker in workers if worker.connection in readable]:
            try:
                message = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                yield from _bury(worker, deaths, again)
                workers[workers.index(worker)] = replace(worker)
                continue
            if isinstance(message, str):
                raise RuntimeError(f"a worker failed:\n{message}")
            if isinstance(message, Result):
                worker.jobs.remove((message.setting, message.seed))
            if message is None:
                worker.ready = True
                idle.append(worker)
            else:
                yield message


def _bury(worker: _Worker, deaths: Counter[Job], again: list[Job]) -> Iterator[Result]:
    """Decides what becomes of a dead worker's jobs; yields those that are given up."""
    worker.end()
    code = worker.process.exitcode or 0
    reason = f"its worker ended with {signal.Signals(-code).name if code < 0 else f'status {code}'}"
    if not worker.ready:
        raise RuntimeError(
            f"a worker process could not start ({reason}); a script that calls main() needs the "
            "guard if __name__ == '__main__'"
        )
    for job in worker.jobs:
        deaths[job] += 1
        if deaths[job] >= ATTEMPTS:
            yield failed(*job, f"{reason}, {ATTEMPTS} times")
        else:
            again.append(job)


def _work(driver: connection.Connection, trainer: Trainer, data_file: Path, device: str) -> None:
    """The worker process: trains what comes through the pipe until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # Adam's moments of dead units, which would slow it down

    def tell(message: Result | Epoch | str | None) -> None:
        driver.send_bytes(pickle.dumps(message))  # tensors by value, not in shared memory

    try:
        splits = torch.load(data_file, mmap=device == "cpu", weights_only=True)
        data = Data(*(Split(*parts) for parts in splits)).to(device)
        tell(None)
        while True:
            trainer.train(driver.recv(), data, tell)
            tell(None)
    except Exception:
        tell(traceback.format_exc())


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
    os._exit(1)


def _context() -> ForkServerContext | SpawnContext:
    if "forkserver" in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("forkserver")
    return multiprocessing.get_context("spawn")


@contextlib.contextmanager
def _ignoring_interrupts() -> Iterator[None]:
    """Lets processes that are started within it ignore Ctrl-C, which the driver answers alone."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
