"""Where settings are trained: worker processes on this machine, one thread or one GPU each."""

from __future__ import annotations

import contextlib
import copyreg
import io
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
from multiprocessing import connection, forkserver, parent_process, reduction, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import IO, NamedTuple, Protocol

import torch

from training.parameters import Sizes, sizes
from training.reference import Data, Limits, Result, Setting, Task, failed, fit
from training.stacked import Job, fit_stacked
from utils import InputError, Split

ATTEMPTS = 3  # how often a setting may take its worker down before it is given up
_NO_MEMORY = (  # of the errors for which torch has no class
    "DefaultCPUAllocator: can't allocate memory",
    "CUDA error: out of memory",
    "CUBLAS_STATUS_ALLOC_FAILED",
)
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
    jobs: Iterator[Job],
    count: int,
    workers: Callable[[], int],
    stack: Callable[[Sizes], int],
) -> Iterator[list[Job]]:
    """Yields the jobs in chunks of settings that can train together, drawing few in advance.

    Args:
        jobs: What there is to train; only what the chunks need is drawn.
        count: How many jobs there are.
        workers: How many workers share them now; the last chunks are smaller, to end together.
        stack: How many settings of a size train together.
    """
    waiting: dict[Sizes, list[Job]] = {}
    drawn = 0
    while True:
        fullest = max(waiting, key=lambda size: len(waiting[size]), default=None)
        enough = 1 if fullest is None else _CHUNK_STACKS * stack(fullest)
        shares = 2 * max(1, workers())
        most = max(1, min(enough, (count + shares - 1) // shares))
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

    def bury(self, jobs: Sequence[Job], reason: str) -> Iterator[Result]:
        """Decides what becomes of a dead worker's jobs; yields those that are given up."""
        for job in jobs:
            self.deaths[job] += 1
            if self.deaths[job] >= ATTEMPTS:
                yield failed(*job, f"{reason}, {ATTEMPTS} times")
            else:
                self.jobs.append(job)


def out_of_memory(error: BaseException) -> str | None:
    """Returns why a worker counts as dead if memory ran out, None if the error is another."""
    text = str(error)
    kind = isinstance(error, (MemoryError, torch.OutOfMemoryError))
    if kind or (isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY)):
        return f"its worker ran out of memory: {text.partition(chr(10))[0]}"
    return None


class _Pickler(pickle.Pickler):
    """Writes tensors as arrays: by value, and at a tenth of the time of torch's own way."""

    dispatch_table = copyreg.dispatch_table | {
        torch.Tensor: lambda tensor: (torch.from_numpy, (tensor.numpy(),))
    }


def letter(message: object) -> bytes:
    """Returns a message, as workers send it, for `pickle.loads`."""
    buffer = io.BytesIO()
    _Pickler(buffer).dump(message)
    return buffer.getvalue()


def set_torch_up() -> None:
    """Makes torch compute as all workers do, which rows depend on.

    Source:
        torch's notes on TF32, on by default in cuDNN, and on nn.LSTM, which is deterministic on
        CUDA with this workspace only.
    """
    torch.backends.cudnn.allow_tf32 = False
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:2")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # Adam's moments of dead units, which would slow it down


def prepare() -> None:
    """Starts the process that workers are forked from; it imports torch while the data load."""
    context = _context()
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload(["search.workers", "sklearn.metrics"])
        resource_tracker.ensure_running()  # here, as it lets Ctrl-C through when it is started
        with _holding_interrupts_back():
            forkserver.ensure_running()


def train_locally(
    chunks: Iterator[list[Job]], trainer: Trainer, data: Data, devices: Sequence[str]
) -> Generator[Result | Epoch | None]:
    """Yields results from one worker process per device, as they come, or None after a while.

    Chunks are drawn as workers fall idle. Jobs of a worker that died or ran out of memory are
    trained again, each alone; one that took down ATTEMPTS workers is reported as failed. Closing
    the generator ends the workers at once.

    Args:
        chunks: Jobs that go to one worker together.
        trainer: What the workers do with them.
        data: Shared between the workers, not copied.
        devices: "cpu" or "cuda:N", one per worker.

    Raises:
        InputError: There is no room for the data in the folder of temporary files.
        RuntimeError: A worker raised an exception; it is shown with the worker's own traceback.
    """
    with _saved(data) as file:
        data_file = _Inherited(file)
        workers = [_Worker(trainer, data_file, device) for device in devices]
        try:
            yield from _drive(
                workers, chunks, lambda dead: _Worker(trainer, data_file, dead.device)
            )
        finally:
            for worker in workers:
                worker.end()


def _saved(data: Data) -> IO[bytes]:
    """Returns the data in a file without a name: nothing is left of it, however a process ends."""
    try:
        with contextlib.ExitStack() as until_saved:
            file = until_saved.enter_context(tempfile.TemporaryFile())
            torch.save([split[:] for split in data], file)
            file.flush()
            until_saved.pop_all()
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch covers it up
        raise InputError(
            f"the workers' copy of the data can't be written to a temporary file: {cause}; free "
            "space there, or set TMPDIR to another folder"
        ) from None
    return file


class _Inherited(NamedTuple):
    """An open file that turns into a path to it for the process that it is given to."""

    file: IO[bytes]

    def __reduce__(self) -> tuple[Callable[[_Descriptor], str], tuple[_Descriptor]]:
        return _path, (reduction.DupFd(self.file.fileno()),)


class _Descriptor(Protocol):
    def detach(self) -> int: ...


def _path(descriptor: _Descriptor) -> str:
    return f"/dev/fd/{descriptor.detach()}"


class _OutOfMemory(NamedTuple):
    """A worker's last message."""

    reason: str


class _Worker:
    """A worker process, as the driver sees it."""

    def __init__(self, trainer: Trainer, data_file: _Inherited, device: str) -> None:
        self.device = device
        self.ready = False
        self.reason = ""  # why it is about to end
        self.jobs: list[Job] = []  # those that it was given and has not finished
        self.connection, theirs = connection.Pipe()
        arguments = (theirs, trainer, data_file, device)
        self.process = _context().Process(target=_work, args=arguments, daemon=True)
        with _holding_interrupts_back():
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
    retries = Retries()
    idle: list[_Worker] = []
    while True:
        while idle and (chunk := retries.next_of(chunks)):
            idle.pop().give(chunk)
        if len(idle) == len(workers):
            return
        readable = connection.wait([worker.connection for worker in workers], POLL_SECONDS)
        if not readable:
            yield None
        for worker in [worker for worker in workers if worker.connection in readable]:
            try:
                message = worker.connection.recv()
            except (EOFError, ConnectionResetError):
                yield from retries.bury(worker.jobs, _cause_of_death(worker))
                workers[workers.index(worker)] = replace(worker)
                continue
            if isinstance(message, str):
                raise RuntimeError(f"a worker failed:\n{message}")
            if isinstance(message, Result):
                worker.jobs.remove((message.setting, message.seed))
            if message is None:
                worker.ready = True
                idle.append(worker)
            elif isinstance(message, _OutOfMemory):
                worker.reason = message.reason
            else:
                yield message


def _cause_of_death(worker: _Worker) -> str:
    worker.end()
    code = worker.process.exitcode or 0
    ended = f"its worker ended with {signal.Signals(-code).name if code < 0 else f'status {code}'}"
    reason = worker.reason or ended
    if not worker.ready:
        raise RuntimeError(
            f"a worker process could not start ({reason}); a script that calls main() needs the "
            "guard if __name__ == '__main__'"
        )
    return reason


def _work(driver: connection.Connection, trainer: Trainer, data_file: str, device: str) -> None:
    """The worker process: trains what comes through the pipe until it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_torch_up()

    def tell(message: Result | Epoch | _OutOfMemory | str | None) -> None:
        driver.send_bytes(letter(message))

    try:
        splits = torch.load(data_file, mmap=device == "cpu", weights_only=True)
        data = Data(*(Split(*parts) for parts in splits)).to(device)
        tell(None)
        while True:
            trainer.train(driver.recv(), data, tell)
            tell(None)
    except (EOFError, ConnectionError):
        return  # the driver is gone
    except Exception as error:
        reason = out_of_memory(error)
        tell(_OutOfMemory(reason) if reason else traceback.format_exc())


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
def _holding_interrupts_back() -> Iterator[None]:
    """Has Ctrl-C wait, and never reach the processes that are started within it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
