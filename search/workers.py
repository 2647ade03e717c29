"""Where settings are trained: worker processes on this machine, one thread or one GPU each."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import connection, forkserver, parent_process, reduction, resource_tracker
from multiprocessing.context import ForkServerContext, SpawnContext
from typing import IO, NamedTuple, Protocol

import torch

from search.jobs import POLL_SECONDS, Epoch, Retries, Trainer, letter, out_of_memory, set_torch_up
from training.result import Data, Result
from training.stacked import Job
from utils import InputError, Split


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
