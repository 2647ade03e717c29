"""What a cluster's processes run: tasks that train jobs, and the mailbox that they tell it to.

For ray://HOST:PORT, a process of Ray's on the head node loads this module, in a thread, where
torch's libraries can't always be loaded (then MKL ends the process). So torch, and all that needs
it, is imported where it is used: in the workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import pickle
import socket
import traceback
import warnings
from typing import TYPE_CHECKING

from search.messages import Began, Epoch, Failed, Unfit

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

    from training.result import Data, Result

_ROOM = 64  # messages that the mailbox holds; tasks wait when it is full


class Mailbox:
    """An actor on the head node: what tasks have told and the search has not read, as bytes."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[bytes] = asyncio.Queue(_ROOM)

    async def put(self, message: bytes) -> None:
        """Takes in a message, once there is room."""
        await self.messages.put(message)

    async def take(self, seconds: float) -> list[bytes]:
        """Returns all that is there, after waiting for the first."""
        messages = []
        if self.messages.empty():
            with contextlib.suppress(asyncio.TimeoutError):
                messages.append(await asyncio.wait_for(self.messages.get(), seconds))
        while not self.messages.empty():
            messages.append(self.messages.get_nowait())
        return messages


def train_task(
    number: int,
    jobs: bytes,
    trainer: bytes,
    arrays: list[ObjectRef],
    mailbox: ActorHandle,
    device: str,
    version: str,
) -> str | None:
    """Trains the jobs, telling the mailbox that it begins, each result, and an error.

    Jobs and trainer come pickled, the data from Ray's store: in a list, so that Ray doesn't read
    them for each task. The version is that of the search's torch.

    Returns:
        Why it could not go on, if memory ran out.
    """
    from search.jobs import out_of_memory, pickled, set_torch_up
    from utils import InputError

    def tell(message: Began | Epoch | Result | Unfit | Failed) -> None:
        posted = mailbox.put.remote(pickled(message))
        posted.future().result()  # ray.get would lend this task's core to another one

    job_list, own_trainer = pickle.loads(jobs), pickle.loads(trainer)
    tell(Began(number))
    try:
        if reason := _unfit(device, version):
            tell(Unfit(f"a worker on {socket.gethostname()}: {reason}"))
            return None
        set_torch_up()
        own_trainer.train(job_list, _data(arrays[0], device), tell)
    except Exception as error:
        if reason := out_of_memory(error):
            return reason
        if isinstance(error, InputError):
            tell(Unfit(f"a worker on {socket.gethostname()}: {error}"))
        else:
            tell(Failed(traceback.format_exc()))
    return None


def _unfit(device: str, version: str) -> str:
    """Returns why this machine can't train what the search's can; "" if it can."""
    import torch

    here, expected = (text.partition("+")[0] for text in (torch.__version__, version))
    if here != expected:
        return (
            f"expected torch {expected}, as where the search runs, got {torch.__version__}; "
            "install requirements-cluster.txt there"
        )
    if device == "cuda" and not torch.cuda.is_available():
        return (
            "expected a GPU that torch can use, found none; install a CUDA build of torch there, "
            "and its driver"
        )
    return ""


@functools.lru_cache(maxsize=1)  # a process works on many tasks
def _data(arrays: ObjectRef, device: str) -> Data:
    import ray
    import torch

    from training.result import Data
    from utils import Split

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The given NumPy array is not writable")  # nor written to
        splits = [Split(*map(torch.from_numpy, parts)) for parts in ray.get(arrays)]
    return Data(*splits).to(device)
