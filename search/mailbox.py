"""What a cluster's machines load to pass on a search's tasks and results: nothing that needs torch.

For ray://HOST:PORT, a process of Ray's on the head node loads whatever is sent. It does so in a
thread, where torch's libraries can't always be loaded (then MKL ends the process).
"""

from __future__ import annotations

import asyncio
import contextlib
import pickle
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ray import ObjectRef
    from ray.actor import ActorHandle

_LETTERS = 64  # how many the mailbox holds; tasks wait when it is full


class Mailbox:
    """An actor: what tasks have told and the search has not read."""

    def __init__(self) -> None:
        self.letters: asyncio.Queue[bytes] = asyncio.Queue(_LETTERS)

    async def put(self, letter: bytes) -> None:
        """Takes in a letter, once there is room."""
        await self.letters.put(letter)

    async def take(self, seconds: float) -> list[bytes]:
        """Returns all that is there, after waiting for the first."""
        letters = []
        if self.letters.empty():
            with contextlib.suppress(asyncio.TimeoutError):
                letters.append(await asyncio.wait_for(self.letters.get(), seconds))
        while not self.letters.empty():
            letters.append(self.letters.get_nowait())
        return letters


def work(
    number: int,
    jobs: bytes,
    trainer: bytes,
    arrays: list[ObjectRef],
    mailbox: ActorHandle,
    device: str,
    version: str,
) -> str | None:
    """The task: see `cluster.work`."""
    from search import cluster

    jobs_, trainer_ = pickle.loads(jobs), pickle.loads(trainer)
    return cluster.work(number, jobs_, trainer_, arrays, mailbox, device, version)
