"""Where settings are trained on a Ray cluster: a task per chunk, on a core or a GPU of its own.

What tasks tell comes through a mailbox, an actor on the head node: Ray's client (ray://) can't read
the results of a task that is still running. Ray is optional: requirements-cluster.txt.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import math
import os
import pickle
import secrets
import shutil
import signal
import socket
import tempfile
import textwrap
import threading
import time
import traceback
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import joblib
import torch

from search import mailbox as posting
from search.jobs import (
    ATTEMPTS,
    POLL_SECONDS,
    Epoch,
    Retries,
    Trainer,
    letter,
    out_of_memory,
    set_torch_up,
)
from training.result import Data, Result
from training.stacked import Job
from utils import InputError, Split

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle
    from ray.remote_function import RemoteFunction

_LOOK_SECONDS = 5.0  # how old the number of the cluster's cores may be
_WAIT_SECONDS = 20.0  # without a running task, until a line says so
_MANY = 100_000  # tasks may be putting letters into the mailbox at a time
_HEAD = {"node:__internal_head__": 0.001}  # the resource that Ray gives its head node alone


def work(
    number: int,
    jobs: list[Job],
    trainer: Trainer,
    arrays: list[ObjectRef],
    mailbox: ActorHandle,
    device: str,
    version: str,
) -> str | None:
    """The task: trains the jobs, telling that it begins, each result, and an error.

    Returns why it could not go on, if memory ran out.
    """

    def tell(message: Result | Epoch | int | Exception) -> None:
        posted = mailbox.put.remote(letter(message))
        posted.future().result()  # ray.get would lend this task's core to another one

    tell(number)
    try:
        _check(device, version)
        set_torch_up()
        trainer.train(jobs, _data(arrays[0], device), tell)
    except InputError as error:
        tell(error)
    except Exception as error:
        if reason := out_of_memory(error):
            return reason
        tell(RuntimeError(f"a worker failed:\n{traceback.format_exc()}"))
    return None


def _check(device: str, version: str) -> None:
    where = f"a worker on {socket.gethostname()}: expected"
    if _release(torch.__version__) != version:
        raise InputError(
            f"{where} torch {version}, as where the search runs, got {torch.__version__}; install "
            "requirements-cluster.txt there"
        )
    if device == "cuda" and not torch.cuda.is_available():
        raise InputError(
            f"{where} a GPU that torch can use, found none; install a CUDA build of torch there, "
            "and its driver"
        )


def _release(version: str) -> str:
    return version.partition("+")[0]


@functools.lru_cache(maxsize=1)  # a process works on many tasks
def _data(arrays: ObjectRef, device: str) -> Data:
    import ray

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor written to
        splits = [Split(*map(torch.from_numpy, parts)) for parts in ray.get(arrays)]
    return Data(*splits).to(device)


class _Lost(InputError):
    """The cluster doesn't answer any more."""


@contextlib.contextmanager
def connected(address: str, cuda: bool, jobs: int | None) -> Iterator[Cluster]:
    """Connects to a Ray cluster, or starts one here, and leaves or ends it.

    Args:
        address: "auto", "local" or "ray://HOST:PORT".
        cuda: Whether a task needs a GPU, in place of a core.
        jobs: How many tasks there may be at a time; None: as the cluster has room for.

    Raises:
        InputError: There is no such cluster, or it has no GPU.
    """
    import ray

    lost = False
    short = "/tmp" if address == "local" else None  # Ray puts sockets there: 107 characters at most
    with tempfile.TemporaryDirectory("", "lmf-", short, ignore_cleanup_errors=True) as folder:
        try:
            with _own_signals(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                _connect(address, cuda, jobs, Path(folder))
            yield Cluster(ray, cuda, jobs)
        except _Lost:
            lost = True
            raise
        finally:
            if not lost:  # else Ray may end this process at once, before a line says why
                ray.shutdown()


def _connect(address: str, cuda: bool, jobs: int | None, folder: Path) -> None:
    import ray
    import ray.exceptions

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # its warning's advice
    here = address == "local"
    if here:
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # else it leaves one in ~
    scripts = folder / "scripts"
    scripts.mkdir()
    root = Path(__file__).parent.parent
    for path in (*root.glob("*.py"), *root.glob("[!.]*/*.py")):
        copy = scripts / path.relative_to(root)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy(path, copy)
    try:
        _reach(address)
        ray.init(
            address,
            num_cpus=(jobs or joblib.cpu_count()) if here else None,
            include_dashboard=False if here else None,
            runtime_env={"working_dir": str(scripts)},
            log_to_driver=False,
            logging_level=logging.CRITICAL,
            _temp_dir=str(folder) if here else None,
        )
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise InputError(
            f"--cluster {address}: expected a running Ray cluster, got: {_line(error)}; "
            "README.md, Clusters, says how to start one"
        ) from None


def _reach(address: str) -> None:
    """Raises OSError if nothing answers at the address: Ray would try again for minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Ends what is done within it at Ctrl-C, and takes Ray's signal handlers away again."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}{'s' * (count != 1)}"


def _line(error: BaseException) -> str:
    return textwrap.shorten(str(error), 300)


class Cluster:
    """A Ray cluster that this process is connected to, and the tasks that it has sent there."""

    def __init__(self, ray: ModuleType, cuda: bool, jobs: int | None) -> None:
        self.ray, self.jobs = ray, jobs
        self.device, self.resource = ("cuda", "GPU") if cuda else ("cpu", "CPU")
        self.looked = -math.inf
        self.tasks: dict[ObjectRef, tuple[int, list[Job]]] = {}  # their numbers and jobs
        self.sent = 0
        self.running: set[int] = set()  # numbers of tasks
        self.ran = time.monotonic()  # when one last was
        self.stillborn = 0  # tasks in a row that ended before they began
        self.unfinished: set[Job] = set()
        self.retries = Retries()
        if cuda and not self.slots():
            raise InputError("--cuda: expected a GPU in the Ray cluster, found none")

    def __str__(self) -> str:
        slots, nodes = self.slots(), sum(node["Alive"] for node in self.ray.nodes())
        return f"Ray cluster: {_some(slots, self.resource)}, {_some(nodes, 'node')}"

    def slots(self) -> int:
        """Returns how many tasks can run at a time, as of a few seconds ago: nodes come and go."""
        if time.monotonic() - self.looked > _LOOK_SECONDS:
            self.count = int(self.ray.cluster_resources().get(self.resource, 0))
            self.looked = time.monotonic()
        return min(self.count, self.jobs or self.count)

    def room(self) -> int:
        """Returns how many tasks there may be: a few wait, for cores that fall idle or join."""
        return self.jobs or self.slots() + self.slots() // 8 + 1

    def train(
        self, chunks: Iterator[list[Job]], trainer: Trainer, data: Data
    ) -> Generator[Result | Epoch | str | None]:
        """Yields results from the cluster, as `train_locally` does, and lines to be printed.

        Args:
            chunks: Jobs that go to one task together; drawn as tasks end.
            trainer: What the tasks do with them.
            data: Put into the object store once.

        Raises:
            InputError: A worker is not fit for this search, or the cluster is lost.
            RuntimeError: A worker raised an exception; it is shown with the worker's traceback.
        """
        ray = self.ray
        needs = {"num_cpus": 0, "num_gpus": 1} if self.device == "cuda" else {"num_cpus": 1}
        task = ray.remote(max_retries=0, **needs)(posting.work)
        actor = ray.remote(num_cpus=0, resources=_HEAD, max_concurrency=_MANY)(posting.Mailbox)
        mailbox = None
        try:
            mailbox = actor.remote()
            arrays = ray.put([[part.numpy() for part in split[:]] for split in data])
            shared = (
                ray.put(ray.cloudpickle.dumps(trainer)),
                [arrays],
                mailbox,
                self.device,
                _release(torch.__version__),
            )
            while self._send(chunks, task, shared):
                yield from self._receive(mailbox)
        except (ray.exceptions.RayError, ConnectionError) as error:
            self.tasks, mailbox = {}, None
            raise _Lost(
                f"the Ray cluster was lost ({_line(error)}); what is finished is kept: "
                "start a cluster, then the same command"
            ) from None
        finally:
            for ref in self.tasks:
                ray.cancel(ref, force=True)
            if mailbox:
                ray.kill(mailbox)

    def _send(
        self, chunks: Iterator[list[Job]], task: RemoteFunction, shared: tuple[object, ...]
    ) -> bool:
        """Fills the room there is; returns whether there are any tasks."""
        while len(self.tasks) < self.room() and (jobs := self.retries.next_of(chunks)):
            self.sent += 1
            self.unfinished.update(jobs)
            ref: ObjectRef = task.remote(self.sent, pickle.dumps(jobs), *shared)  # pyright: ignore
            self.tasks[ref] = self.sent, jobs
        return bool(self.tasks)

    def _receive(self, mailbox: ActorHandle) -> Iterator[Result | Epoch | str | None]:
        """Yields what has come within a while."""
        wait, tasks = self.ray.wait, list(self.tasks)
        ended, _ = wait(tasks, num_returns=len(tasks), timeout=0)
        letters = mailbox.take.remote(0 if ended else POLL_SECONDS)  # all that those have told
        while not wait([letters], timeout=POLL_SECONDS)[0]:
            yield None
        for message in map(pickle.loads, self.ray.get(letters)):
            if isinstance(message, Exception):
                raise message
            if isinstance(message, int):
                self.running.add(message)
                self.stillborn = 0
            elif isinstance(message, Epoch):
                yield message
            elif (job := (message.setting, message.seed)) in self.unfinished:
                self.unfinished.remove(job)
                yield message
        for ref in ended:
            yield from self._settle(ref)
        yield self._notice()

    def _settle(self, ref: ObjectRef) -> Iterator[Result]:
        """Decides what becomes of the unfinished jobs of a task that has ended."""
        errors = self.ray.exceptions
        number, jobs = self.tasks.pop(ref)
        try:
            reason = self.ray.get(ref)
        except errors.RayTaskError as error:
            if isinstance(error.cause, ImportError):
                raise InputError(
                    f"a worker can't load the scripts: {error.cause}; install "
                    "requirements-cluster.txt there, in the version of this machine"
                ) from None
            raise RuntimeError(f"a worker failed:\n{error}") from None
        except errors.RayError as error:
            reason = f"its worker was lost: {_line(error)}"
        left = [job for job in jobs if job in self.unfinished]
        assert reason or not left
        if number in self.running:
            self.running.remove(number)
            for result in self.retries.bury(left, reason):
                self.unfinished.remove((result.setting, result.seed))
                yield result
            return
        self.retries.jobs += left
        self.stillborn += 1
        if self.stillborn > ATTEMPTS * self.room():
            raise RuntimeError(f"no worker can start on the cluster: {reason}")

    def _notice(self) -> str | None:
        """Returns a line when the tasks have been waiting for long."""
        now = time.monotonic()
        if self.running:
            self.ran = now
        if now - self.ran < _WAIT_SECONDS:
            return None
        self.ran = math.inf  # it is said once
        free = self.ray.available_resources().get(self.resource, 0)
        return f"waiting for a {self.resource}: the cluster has {self.count}, {free:g} free"
