"""Where settings are trained: worker processes on this machine, one thread or one GPU each."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import resource
import signal
import tempfile
import threading
import traceback
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import connection, forkserver, parent_process, reduction, resource_tracker
from multiprocessing.util import Finalize
from pathlib import Path
from typing import IO, NamedTuple, Protocol

import torch

from search.jobs import (
    ATTEMPTS,
    POLL_SECONDS,
    Retries,
    Trainer,
    out_of_memory,
    pickled,
    set_torch_up,
)
from search.messages import Epoch, Failed, OutOfMemory, Progress, Ready
from search.signals import ENDING, holding_signals_back
from search.temporary import OwnFolder
from training.result import Data, Result
from training.stacked import Job
from utils import InputError, Split

PRELOADED = ("search.workers", "sklearn.metrics")
_CONTEXT = multiprocessing.get_context("forkserver")
_SOCKET = len("/pymp-12345678/listener-12345678")  # where multiprocessing puts its socket
_OPEN_FILES = 65_536  # as many as there may be, if the machine allows it
_FILES_PER_WORKER = 3  # in the driver: a connection and two pipes
_SPARE_FILES = 32


def prepare() -> None:
    """Starts the process that workers are forked from; it imports torch while the data load.

    Raises:
        InputError: This process can't have worker processes.
    """
    if multiprocessing.current_process().daemon:
        raise InputError(
            "main() was called in a daemonic process, which can't start worker processes; "
            "start that one with daemon=False"
        )
    _raise_file_limit()
    _CONTEXT.set_forkserver_preload(list(PRELOADED))
    try:
        with holding_signals_back():
            resource_tracker.ensure_running()
        with holding_signals_back(), _settings_of_forkserver():
            forkserver.ensure_running()
    except OSError as error:
        raise InputError(f"worker processes can't be prepared: {error}") from None


def _raise_file_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, _OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        with contextlib.suppress(OSError, ValueError):  # macOS allows less than it says
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


@contextlib.contextmanager
def _settings_of_forkserver() -> Iterator[None]:
    """Says where its socket lies, and where it finds what it is to import from any directory."""
    folders = tempfile.tempdir, os.environ.get("PYTHONPATH")
    tempfile.tempdir = str(_folder().path)
    paths = (str(Path(__file__).parent.parent), folders[1])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    try:
        yield
    finally:
        tempfile.tempdir = folders[0]
        os.environ.pop("PYTHONPATH")
        if folders[1] is not None:
            os.environ["PYTHONPATH"] = folders[1]


@functools.cache
def _folder() -> OwnFolder:
    """Makes the folder of multiprocessing's sockets: for as long as this process."""
    folder = OwnFolder(_SOCKET)
    Finalize(None, folder.remove, exitpriority=-200)  # after multiprocessing's own, -100
    return folder


class LocalBackend:
    """Worker processes on this machine, one per device ("cpu" or "cuda:N")."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = devices
        self.workers: list[_Worker] = []
        self.retries = Retries()
        self.failed_starts = 0  # in a row

    def slots(self) -> int:
        """Returns how many chunks are trained at a time."""
        return len(self.devices)

    def train(
        self, chunks: Iterator[list[Job]], trainer: Trainer, data: Data
    ) -> Generator[Progress]:
        """Yields results as they come, or None after a while without one.

        Chunks are drawn as workers fall idle. Jobs of a worker that died or ran out of memory are
        trained again, each alone; one that took down ATTEMPTS workers is reported as failed.
        Closing the generator ends the workers at once.

        Args:
            chunks: Jobs that go to one worker together.
            trainer: What the workers do with them.
            data: Shared between the workers, not copied.

        Raises:
            InputError: There is no room for the data in the folder of temporary files, or workers
                can't be started.
            RuntimeError: A worker raised an exception; it is shown with the worker's own traceback.
        """
        _check_file_limit(len(self.devices))
        with _saved(data) as file:
            start = functools.partial(_Worker, trainer, _Inherited(file))
            try:
                for device in self.devices:
                    self.workers.append(start(device))
                while self._give(chunks):
                    yield from self._receive(start)
            finally:
                _end(self.workers)

    def _give(self, chunks: Iterator[list[Job]]) -> bool:
        """Gives idle workers what there is to train; returns whether any is still at work."""
        for worker in self.workers:
            if worker.idle and (jobs := self.retries.next_of(chunks)):
                worker.give(jobs)
        return not all(worker.idle for worker in self.workers)

    def _receive(self, start: Callable[[str], _Worker]) -> Iterator[Progress]:
        """Yields what has come within a while."""
        readable = connection.wait([w.connection for w in self.workers], POLL_SECONDS)
        if not readable:
            yield None
        for worker in [worker for worker in self.workers if worker.connection in readable]:
            match worker.receive():
                case _Died(reason):
                    yield from self._replace(worker, reason, start)
                case Ready():
                    assert not worker.jobs, "a trainer tells a result for each job"
                    worker.ready = worker.started = True
                    self.failed_starts = 0
                case OutOfMemory(reason):
                    worker.reason = reason
                case Failed(text):
                    raise RuntimeError(f"a worker failed:\n{text}")
                case Result() as result if (result.setting, result.seed) in worker.jobs:
                    worker.jobs.remove((result.setting, result.seed))
                    yield result
                case Epoch() as epoch:
                    yield epoch
                case other:
                    reason = f"its worker sent what makes no sense: a {type(other).__name__}"
                    yield from self._replace(worker, reason, start)

    def _replace(
        self, worker: _Worker, reason: str, start: Callable[[str], _Worker]
    ) -> Iterator[Result]:
        """Puts another worker in a dead one's place, unless that had nothing left to do."""
        _end([worker])
        place = self.workers.index(worker)
        if worker.idle:
            del self.workers[place]
            return
        reason = reason or worker.reason or worker.ending()
        if not worker.started:
            self.failed_starts += 1
            if self.failed_starts >= ATTEMPTS:
                raise InputError(
                    f"worker processes can't start: {ATTEMPTS} in a row ended ({reason}); free "
                    "memory, or give fewer --jobs; a script that calls main() needs the guard if "
                    "__name__ == '__main__'"
                )
        yield from self.retries.worker_lost(worker.jobs, reason)
        self.workers[place] = start(worker.device)


def _check_file_limit(workers: int) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = (limit - len(os.listdir("/dev/fd")) - _SPARE_FILES) // _FILES_PER_WORKER
    if limit != resource.RLIM_INFINITY and workers > room:
        raise InputError(
            f"--jobs: expected at most {max(room, 0)} worker processes, as {limit} files may be "
            f"open here, got {workers}; give fewer, or raise the limit (ulimit -n)"
        )


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


class _Died(NamedTuple):
    """Takes the place of a message of a worker that is gone, or that can't be understood."""

    reason: str


class _Worker:
    """A worker process, as the driver sees it."""

    def __init__(self, trainer: Trainer, data_file: _Inherited, device: str) -> None:
        self.device = device
        self.started = False
        self.ready = False  # for jobs
        self.reason = ""  # why it is about to end
        self.jobs: list[Job] = []  # those that it was given and has not finished
        self.connection, theirs = connection.Pipe()
        arguments = (theirs, trainer, data_file, device)
        self.process = _CONTEXT.Process(target=_work, args=arguments, daemon=True)
        _wake_forkserver()
        try:
            with theirs:
                self.process.start()
        except (OSError, EOFError) as error:
            self.connection.close()
            raise InputError(
                f"a worker process can't be started: {error}; give fewer --jobs, or free memory"
            ) from None

    @property
    def idle(self) -> bool:
        return self.ready and not self.jobs

    def give(self, jobs: list[Job]) -> None:
        self.jobs, self.ready = list(jobs), False
        with contextlib.suppress(ConnectionError):  # it died; reading from it will tell
            self.connection.send(jobs)

    def receive(self) -> object:
        """Returns a message; a part of one is all that can come of a worker that was killed."""
        try:
            return self.connection.recv()
        except (EOFError, OSError):
            return _Died("")
        except Exception as error:
            return _Died(f"its worker sent what can't be read: {error!r}")

    def ending(self) -> str:
        code = self.process.exitcode or 0
        return (
            f"its worker ended with {signal.Signals(-code).name if code < 0 else f'status {code}'}"
        )


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.kill()
    _wake_forkserver()
    for worker in workers:
        worker.process.join()
        worker.connection.close()


def _wake_forkserver() -> None:
    """Has the process that workers are forked from go on if it was stopped: it starts and joins."""
    process = forkserver._forkserver._forkserver_pid  # pyright: ignore
    if process:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def _work(driver: connection.Connection, trainer: Trainer, data_file: str, device: str) -> None:
    """The worker process: trains what comes through the pipe until it is killed."""
    for number in ENDING:  # the driver ends its workers
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_torch_up()

    def tell(message: Result | Epoch | Ready | OutOfMemory | Failed) -> None:
        driver.send_bytes(pickled(message))

    try:
        splits = torch.load(data_file, mmap=device == "cpu", weights_only=True)
        data = Data(*(Split(*parts) for parts in splits)).to(device)
        tell(Ready())
        while True:
            trainer.train(driver.recv(), data, tell)
            tell(Ready())
    except (EOFError, ConnectionError):
        return  # the driver is gone
    except Exception as error:
        reason = out_of_memory(error)
        tell(OutOfMemory(reason) if reason else Failed(traceback.format_exc()))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
    os._exit(1)
