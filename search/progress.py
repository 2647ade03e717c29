"""How far a search is: the epochs that it has trained, of an estimate of those that it will have.

At the bottom of a terminal that is a bar; where there is none, a line a minute.
"""

from __future__ import annotations

import time

from tqdm import tqdm

from search.printing import say
from training.result import Result
from training.stacked import Job

LINE_SECONDS = 60.0  # between lines where there is no bar
_BOUNDED = (
    "{desc}: {percentage:3.0f}%|{bar}| {n_fmt} of about {total_fmt} epochs, "
    "{rate_noinv_fmt}, {remaining} left"
)
_ENDLESS = "{desc}, {n_fmt} epochs, {rate_noinv_fmt}"


class Estimate:
    """Epochs trained, and about how many it will have been at the end.

    A training that has not ended is taken to need as many as those that have ended on average.
    Where workers don't tell their epochs, as on a cluster, epochs count when a training ends.

    Args:
        left: How many trainings are left.
        most: How many epochs one of them can take.
        expected: How many it takes as long as none has ended; 0: the most.
    """

    def __init__(self, left: int, most: int, expected: float = 0) -> None:
        self.left, self.most, self.expected = left, most, expected or most
        self.trained = 0  # those of trainings that have not ended included
        self._running: dict[Job, int] = {}  # their epochs so far
        self._ended = self._ended_epochs = 0  # in this phase

    def start_phase(self) -> None:
        """Has the average be that of the trainings that end from now on, once there are any."""
        self._ended = self._ended_epochs = 0

    def take_epoch(self, job: Job, epoch: int) -> None:
        """Notes that a training has come to this epoch; one whose worker was lost begins anew."""
        self.trained += epoch - self._running.get(job, 0)
        self._running[job] = epoch

    def take_end(self, result: Result) -> None:
        """Notes that a training has ended."""
        job = result.setting, result.seed
        self.take_epoch(job, result.epochs)
        del self._running[job]
        self.left -= 1
        if result.epochs:
            self._ended += 1
            self._ended_epochs += result.epochs
            self.expected = self._ended_epochs / self._ended

    @property
    def total(self) -> int:
        """All epochs at the end, about: at least one more of each training that can have one."""
        running = sum(self._running.values())
        expected = max(self.left, round(self.left * self.expected - running))
        return self.trained + min(expected, self.left * self.most - running)


class Display:
    """What shows an estimate while a search trains.

    Args:
        estimate: What to show.
        finished: How many trainings earlier commands had finished.
        endless: Whether no end is to be foreseen.
    """

    def __init__(self, estimate: Estimate, finished: int, endless: bool) -> None:
        self.estimate, self.endless = estimate, endless
        self.wanted = finished + estimate.left
        self.bar = tqdm(
            desc=self._description(),
            total=None if endless else estimate.total,
            bar_format=_ENDLESS if endless else _BOUNDED,
            unit="",
            smoothing=0,
            dynamic_ncols=True,
            disable=None,
        )
        self.started = self.said = time.monotonic()

    def close(self) -> None:
        """Leaves the bar as it is."""
        self.bar.close()

    def say(self, line: str) -> None:
        """Prints a line above the bar."""
        with self.bar.external_write_mode():
            say(line)

    def show(self) -> None:
        """Shows how far the search is, if it is time to."""
        if self.bar.disable:
            if time.monotonic() - self.said >= LINE_SECONDS:
                self.said = time.monotonic()
                say(self._line())
            return
        self.bar.set_description_str(self._description(), refresh=False)
        if not self.endless:
            self.bar.total = self.estimate.total
        self.bar.update(self.estimate.trained - self.bar.n)

    def _description(self) -> str:
        return f"{self.wanted - self.estimate.left:,} of {self.wanted:,} trained"

    def _line(self) -> str:
        estimate, seconds = self.estimate, time.monotonic() - self.started
        rate = estimate.trained / seconds if seconds else 0.0
        line = f"{self._description()}, {estimate.trained:,}"
        if not self.endless:
            line += f" of about {estimate.total:,}"
        line += f" epochs, {rate:.3g} a second"
        if rate and not self.endless:
            left = (estimate.total - estimate.trained) / rate
            line += f", {tqdm.format_interval(round(left))} left"
        return line
