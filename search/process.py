"""A worker process: how the driver sees it, and what it does."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import pickle
import signal
import tempfile
import threading
import traceback
from collections.abc import Iterator, Sequence
from multiprocessing import connection, forkserver, parent_process, resource_tracker
from typing import NamedTuple

import torch

from search.jobs import Trainer, out_of_memory, pickled, set_torch_up
from search.messages import Epoch, Failed, OutOfMemory, Ready, Unfit
from search.signals import ENDING
from training.result import Data, Result
from training.stacked import Job
from utils import InputError, Split

CONTEXT = multiprocessing.get_context("forkserver")
_PART = 2**20  # bytes of a message, read at once


class Worker:
    """A worker process, as the driver sees it."""

    def __init__(self, trainer: Trainer, file: connection.Connection, device: str) -> None:
        self.device = device
        self.started = False
        self.ready = False  # for jobs
        self.jobs: list[Job] = []  # those that it was given and has not finished
        self.unread = bytearray()
        self.connection, theirs = connection.Pipe()
        arguments = (theirs, trainer, file, device)
        self.process = CONTEXT.Process(target=_work, args=arguments, daemon=True)
        _wake_helpers()
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
        """Whether it waits for jobs."""
        return self.ready and not self.jobs

    def give(self, jobs: list[Job]) -> None:
        """Has it train these jobs."""
        self.jobs, self.ready = list(jobs), False
        with contextlib.suppress(ConnectionError):  # it died; reading from it will tell
            self.connection.send(jobs)

    def receive(self) -> Iterator[object]:
        """Yields the messages that have come, and whether the worker died.

        Waits for nothing, as a worker may be stopped or killed amid a message: what has come of
        one is kept until the rest comes.
        """
        part = b""
        with contextlib.suppress(OSError):
            part = os.read(self.connection.fileno(), _PART)
        if not part:
            yield Died("")
            return
        self.unread += part
        while (message := _first_message(self.unread)) is not None:
            try:
                yield pickle.loads(message)
            except Exception as error:
                yield Died(f"its worker sent what can't be read: {error!r}")
                return

    def ending(self) -> str:
        """Returns how it ended."""
        code = self.process.exitcode or 0
        how = signal.Signals(-code).name if code < 0 else f"status {code}"
        return f"its worker ended with {how}"


class Died(NamedTuple):
    """Takes the place of a message of a worker that is gone, or that can't be understood."""

    reason: str


def _first_message(unread: bytearray) -> bytes | None:
    """Takes a message out, if it is whole: its length comes first, as `Connection` writes it."""
    end = 4 + int.from_bytes(unread[:4], "big")
    if len(unread) < end:
        return None
    message = bytes(unread[4:end])
    del unread[:end]
    return message


def end_workers(workers: Sequence[Worker]) -> None:
    """Kills them, and waits until they have ended."""
    for worker in workers:
        worker.process.kill()
    _wake_helpers()
    for worker in workers:
        worker.process.join()
        worker.connection.close()


def _wake_helpers() -> None:
    """Has multiprocessing's processes go on if they were stopped: one forks and joins workers."""
    pids = forkserver._forkserver._forkserver_pid, resource_tracker._resource_tracker._pid  # pyright: ignore
    for process in filter(None, pids):
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGCONT)


def saved(data: Data) -> connection.Connection:
    """Returns the data in a file without a name: nothing is left of it, however a process ends.

    The file is held as a connection is, as multiprocessing hands these on to a process.
    """
    try:
        with tempfile.TemporaryFile() as file:
            torch.save([split[:] for split in data], file)
            file.flush()
            return connection.Connection(os.dup(file.fileno()))
    except (OSError, RuntimeError) as error:
        cause = error if isinstance(error, OSError) else error.__context__  # torch covers it up
        raise InputError(
            f"the workers' copy of the data can't be written to a temporary file: {cause}; free "
            "space there, or set TMPDIR to another folder"
        ) from None


def _work(
    driver: connection.Connection, trainer: Trainer, file: connection.Connection, device: str
) -> None:
    """The worker process: trains what comes through the pipe until it is killed."""
    for number in ENDING:  # the driver ends its workers
        signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    set_torch_up()
    if device != "cpu":  # else new streams and graphs would be the first GPU's
        torch.cuda.set_device(device)

    def tell(message: Result | Epoch | Ready | OutOfMemory | Unfit | Failed) -> None:
        driver.send_bytes(pickled(message))

    try:
        path = f"/dev/fd/{file.fileno()}"
        splits = torch.load(path, mmap=device == "cpu", weights_only=True)
        data = Data(*(Split(*parts) for parts in splits)).to(device)
        tell(Ready())
        while True:
            trainer.train(driver.recv(), data, tell)
            tell(Ready())
    except (EOFError, ConnectionError):
        return  # the driver is gone
    except Exception as error:
        if reason := out_of_memory(error):
            tell(OutOfMemory(reason))
        elif isinstance(error, InputError):
            tell(Unfit(str(error)))
        else:
            tell(Failed(traceback.format_exc()))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
    os._exit(1)
