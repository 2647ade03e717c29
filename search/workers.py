"""Where settings are trained: worker processes on this machine, one thread or one GPU each."""

from __future__ import annotations

import contextlib
import functools
import multiprocessing
import os
import resource
import tempfile
from collections.abc import Callable, Generator, Iterator, Sequence
from multiprocessing import connection, forkserver, resource_tracker
from multiprocessing.util import Finalize
from pathlib import Path

from search.jobs import ATTEMPTS, POLL_SECONDS, Retries, Trainer
from search.messages import Epoch, Failed, OutOfMemory, Progress, Ready, Unfit
from search.process import CONTEXT, Died, Worker, end_workers, saved
from search.signals import holding_signals_back
from search.temporary import OwnFolder
from training.compiler import check_numba
from training.result import Data, Result
from training.stacked import Job
from utils import InputError

PRELOADED = ("search.process", "sklearn.metrics")
COMPILED = ("search.preloaded",)  # imports them, and compiles the fast path
_SOCKET = len("/pymp-12345678/listener-12345678")  # where multiprocessing puts its socket
_OPEN_FILES = 65_536  # as many as there may be, if the machine allows it
_FILES_PER_WORKER = 3  # in the driver: a connection and two pipes
_SPARE_FILES = 32


def prepare(compiled: bool = True) -> None:
    """Starts the process that workers are forked from; it imports torch while the data load.

    Args:
        compiled: Whether it compiles the fast path for a CPU, or loads what was compiled before.

    Raises:
        InputError: This process can't have worker processes, or they couldn't compile.
    """
    if compiled:
        check_numba()
    if multiprocessing.current_process().daemon:
        raise InputError(
            "main() was called in a daemonic process, which can't start worker processes; "
            "start that one with daemon=False"
        )
    _raise_file_limit()
    CONTEXT.set_forkserver_preload(list(COMPILED if compiled else PRELOADED))
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
    Finalize(None, folder.close, exitpriority=-200)  # after multiprocessing's own, -100
    return folder


class LocalBackend:
    """Worker processes on this machine, one per device ("cpu" or "cuda:N")."""

    def __init__(self, devices: Sequence[str]) -> None:
        self.devices = devices
        self.workers: list[Worker] = []
        self.start: Callable[[str], Worker]  # on a device
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
        The data are shared, not copied. Closing the generator ends the workers at once.

        Raises:
            InputError: There is no room for the data in the folder of temporary files, or workers
                can't be started, or this machine can't train what was asked for.
            RuntimeError: A worker raised an exception; it is shown with the worker's own traceback.
        """
        _check_file_limit(len(self.devices))
        with saved(data) as file:
            self.start = functools.partial(Worker, trainer, file)
            try:
                for device in self.devices:
                    self.workers.append(self.start(device))
                while self._give(chunks):
                    yield from self._receive()
            finally:
                end_workers(self.workers)
                self.workers = []

    def _give(self, chunks: Iterator[list[Job]]) -> bool:
        """Gives idle workers what there is to train; returns whether any is still at work."""
        for worker in self.workers:
            if worker.idle and (jobs := self.retries.next_of(chunks)):
                worker.give(jobs)
        return not all(worker.idle for worker in self.workers)

    def _receive(self) -> Iterator[Progress]:
        """Yields what has come within a while."""
        readable = connection.wait([w.connection for w in self.workers], POLL_SECONDS)
        if not readable:
            yield None
        for worker in [w for w in self.workers if w.connection in readable]:
            for message in worker.receive():
                match message:
                    case Ready():
                        assert not worker.jobs, "a trainer tells a result for each job"
                        worker.ready = worker.started = True
                        self.failed_starts = 0
                    case Unfit(reason):
                        raise InputError(reason)
                    case Failed(text):
                        raise RuntimeError(f"a worker failed:\n{text}")
                    case Result(setting, seed) as result if (setting, seed) in worker.jobs:
                        worker.jobs.remove((setting, seed))
                        yield result
                    case Epoch() as epoch:
                        yield epoch
                    case OutOfMemory(reason) | Died(reason):
                        yield from self._replace(worker, reason)
                        break
                    case other:
                        reason = f"its worker sent what makes no sense: a {type(other).__name__}"
                        yield from self._replace(worker, reason)
                        break

    def _replace(self, worker: Worker, reason: str) -> Iterator[Result]:
        """Puts another worker in a dead one's place, unless that had nothing left to do."""
        end_workers([worker])
        place = self.workers.index(worker)
        if worker.idle:
            del self.workers[place]
            return
        reason = reason or worker.ending()
        if not worker.started:
            self.failed_starts += 1
            if self.failed_starts >= ATTEMPTS:
                raise InputError(
                    f"worker processes can't start: {ATTEMPTS} in a row ended ({reason}); free "
                    "memory, or give fewer --jobs; a script that calls main() needs the guard if "
                    "__name__ == '__main__'"
                )
        yield from self.retries.worker_lost(worker.jobs, reason)
        self.workers[place] = self.start(worker.device)


def _check_file_limit(workers: int) -> None:
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    room = (limit - len(os.listdir("/dev/fd")) - _SPARE_FILES) // _FILES_PER_WORKER
    if limit != resource.RLIM_INFINITY and workers > room:
        most = f"at most {room} worker processes, as" if room > 0 else "more open files, as only"
        advice = "give fewer, or raise" if room > 0 else "raise"
        raise InputError(
            f"--jobs: expected {most} {limit} files may be open here, got {workers}; {advice} the "
            "limit (ulimit -n)"
        )
