"""The mailbox of a search on a cluster: an actor on the head node, which loads no torch for it."""

from __future__ import annotations

import asyncio
import contextlib

_ROOM = 64  # messages that it holds; tasks wait when it is full


class Mailbox:
    """An actor: what tasks have told and the search has not read, as bytes."""

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
