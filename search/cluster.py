"""Where settings are trained on a Ray cluster: a task per chunk, on a core or a GPU of its own.

What tasks tell comes through a mailbox, an actor on the head node: Ray's client (ray://) can't read
the results of a task that is still running. Ray is optional: requirements-cluster.txt.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import pickle
import secrets
import shutil
import signal
import socket
import textwrap
import time
import warnings
from collections.abc import Generator, Iterator
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import joblib
import torch

from search.jobs import ATTEMPTS, POLL_SECONDS, Retries, Trainer
from search.messages import Began, Epoch, Failed, Notice, Progress, Unfit
from search.printing import counted
from search.signals import ending_at_signals, holding_signals_back
from search.task import Mailbox, train_task
from search.temporary import OwnFolder
from training.result import Data, Result
from training.stacked import Job
from utils import InputError

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle
    from ray.remote_function import RemoteFunction

_LOOK_SECONDS = 5.0  # how old the number of the cluster's cores may be
_WAIT_SECONDS = 20.0  # without a running task, until a line says so
_CALLS = 100_000  # of the mailbox that may wait at a time, one per task
_SOCKET = len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store")
_HEAD = {"node:__internal_head__": 0.001}  # the resource that Ray gives its head node alone


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
    with contextlib.closing(OwnFolder(_SOCKET if address == "local" else 0)) as folder:
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(ending_at_signals())  # and without Ray's handlers again
                stack.enter_context(holding_signals_back(signal.SIGHUP, signal.SIGQUIT))
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
                _connect(address, jobs, folder.path)
            yield Cluster(ray, cuda, jobs)
        except _Lost:
            lost = True
            raise
        finally:
            if not lost:  # else Ray may end this process at once, before a line says why
                ray.shutdown()


def _connect(address: str, jobs: int | None, folder: Path) -> None:
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
            "docs/clusters.md says how to start one"
        ) from None


def _reach(address: str) -> None:
    """Raises OSError if nothing answers at the address: Ray would try again for minutes."""
    if address == "auto":
        address = os.environ.get("RAY_ADDRESS", "")
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()


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
        self.failed_starts = 0  # tasks in a row that ended before they began
        self.unfinished: set[Job] = set()
        self.retries = Retries()
        if cuda and not self.slots():
            raise InputError("--cuda: expected a GPU in the Ray cluster, found none")

    def __str__(self) -> str:
        nodes = sum(node["Alive"] for node in self.ray.nodes())
        return f"Ray cluster: {counted(self.slots(), self.resource)}, {counted(nodes, 'node')}"

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
    ) -> Generator[Progress]:
        """Yields results from the cluster, as `LocalBackend.train` does, and lines to be printed.

        Raises:
            InputError: A worker is not fit for this search, or the cluster is lost.
            RuntimeError: A worker raised an exception; it is shown with the worker's traceback.
        """
        ray = self.ray
        needs = {"num_cpus": 0, "num_gpus": 1} if self.device == "cuda" else {"num_cpus": 1}
        task = ray.remote(max_retries=0, **needs)(train_task)
        actor = ray.remote(num_cpus=0, resources=_HEAD, max_concurrency=_CALLS)(Mailbox)
        mailbox = None
        try:
            mailbox = actor.remote()
            arrays = ray.put([[part.numpy() for part in split[:]] for split in data])
            shared = (
                ray.put(ray.cloudpickle.dumps(trainer)),
                [arrays],
                mailbox,
                self.device,
                str(torch.__version__),  # a class of torch's own otherwise
            )
            yield Notice(str(self))
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

    def _receive(self, mailbox: ActorHandle) -> Iterator[Progress]:
        """Yields what has come within a while."""
        wait, tasks = self.ray.wait, list(self.tasks)
        ended, _ = wait(tasks, num_returns=len(tasks), timeout=0)
        posted = mailbox.take.remote(0 if ended else POLL_SECONDS)  # all that those have told
        while not wait([posted], timeout=POLL_SECONDS)[0]:
            yield None
        for message in map(pickle.loads, self.ray.get(posted)):
            match message:
                case Began(number):
                    self.running.add(number)
                    self.failed_starts = 0
                case Unfit(reason):
                    raise InputError(reason)
                case Failed(text):
                    raise RuntimeError(f"a worker failed:\n{text}")
                case Epoch() as epoch:
                    yield epoch
                case Result(setting, seed) as result if (setting, seed) in self.unfinished:
                    self.unfinished.remove((setting, seed))
                    yield result
        for ref in ended:
            yield from self._settle(ref)
        yield self._waiting()

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
            for result in self.retries.worker_lost(left, reason):
                self.unfinished.remove((result.setting, result.seed))
                yield result
            return
        self.retries.jobs += left
        self.failed_starts += 1
        if self.failed_starts > ATTEMPTS * self.room():
            raise InputError(f"no worker can start on the cluster: {reason}")

    def _waiting(self) -> Notice | None:
        """Returns a line when the tasks have been waiting for long."""
        now = time.monotonic()
        if self.running:
            self.ran = now
        if now - self.ran < _WAIT_SECONDS:
            return None
        self.ran = math.inf  # it is said once
        free = self.ray.available_resources().get(self.resource, 0)
        return Notice(f"waiting for a {self.resource}: the cluster has {self.count}, {free:g} free")
