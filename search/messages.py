"""What workers tell the search: one class for each thing that they say."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from training.result import Result
    from training.setting import Setting


class Ready(NamedTuple):
    """The worker waits for jobs."""


class Began(NamedTuple):
    """A task on a cluster is running."""

    number: int


class Epoch(NamedTuple):
    """One epoch's losses, told while a setting trains."""

    setting: Setting
    seed: int
    epoch: int
    train_loss: float
    valid_loss: float


class OutOfMemory(NamedTuple):
    """A worker's last message: it ends, and its jobs are trained again."""

    reason: str


class Unfit(NamedTuple):
    """The worker's machine can't train this search."""

    reason: str


class Failed(NamedTuple):
    """The worker raised an exception that it should not have raised."""

    traceback: str


class Notice(NamedTuple):
    """A line for the user."""

    line: str


Progress: TypeAlias = "Result | Epoch | Notice | None"  # what a back end yields; None: nothing new
