"""Pruning: a setting stops early where it is behind the first ones of the draw, the pilots.

Pilots are trained to their end. Any other setting stops after an epoch of the rule if its best
validation loss so far is above a quantile of theirs at that epoch. So its row follows from seed,
draw, pilots and rule, whatever else is trained, when and where.

Source:
    The median stopping rule of Golovin et al., "Google Vizier", KDD 2017, and Optuna's
    PercentilePruner; there the group to compare with grows, here it is fixed.
"""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Iterator, Sequence, Set
from typing import TypeAlias

from data.files import InputError
from search.experiment import Plan
from search.printing import counted
from search.provenance import Pilot
from search.records import Records
from search.table import Table
from training.result import Result
from training.setting import describe

Rule: TypeAlias = Sequence[tuple[int, float]]
Stops: TypeAlias = tuple[tuple[int, float], ...]

RULE: Rule = ((5, 1 / 2), (10, 1 / 4))  # epochs, and the quantile of the pilots to be reached


def pilot_of(result: Result, rule: Rule = RULE) -> Pilot:
    """Returns what a pilot reached: one that ended before an epoch, its best until then."""
    losses = [valid_loss for _, valid_loss in result.history]
    best = [min(losses[:epoch]) for epoch, _ in rule] if result.status == "ok" else []
    return Pilot(epochs=result.epochs, best_losses=best)


def stops(pilots: Sequence[Pilot], rule: Rule = RULE) -> Stops:
    """Returns the rule's epochs, and the best validation loss above which settings stop there.

    The q-quantile of P losses is the floor(qP)-th smallest, at least the first.
    """
    found = []
    for i, (epoch, quantile) in enumerate(rule):
        losses = [one["best_losses"][i] if one["best_losses"] else math.inf for one in pilots]
        place = max(1, math.floor(quantile * len(losses)))
        found.append((epoch, sorted(losses)[place - 1]))
    return tuple(found)


def pruning_condition(plan: Plan, pilots: int) -> dict[str, str]:
    """Returns in words what pruned rows depend on, for the JSON; nothing without pilots."""
    if not pilots:
        return {}
    draw = "\n".join(map(describe, plan.first(pilots).chosen()))
    rule = ", ".join(f"{quantile:g} at epoch {epoch}" for epoch, quantile in RULE)
    digest = hashlib.sha256(draw.encode()).hexdigest()[:8]
    return {"pruning": f"by {pilots} pilots of draw {digest}, quantiles {rule}"}


class Pruning:
    """One run's pilots, and what their pruning came to. Without pilots, nothing is pruned."""

    def __init__(self, plan: Plan, pilots: int, records: Records) -> None:
        self.plan, self.records = plan, records
        self.pilots = plan.first(min(pilots, plan.count))
        self.settings = {setting: describe(setting) for setting in self.pilots.chosen()}
        self.trainings = self.epochs = self.pruned = self.pruned_epochs = 0

    @property
    def reached(self) -> dict[str, Pilot]:
        """What the pilots reached that are finished, by their descriptions."""
        return self.records.provenance.get("pilots", {})

    @property
    def mean_epochs(self) -> float:
        """How many epochs a finished training took on average; 0 if there is none."""
        return self.epochs / max(1, self.trainings)

    def take_in(self, table: Table, done: Set[int]) -> None:
        """Takes in what earlier commands finished: rows, and the numbers that the plan gives them.

        Raises:
            InputError: What a finished pilot reached is not in the JSON.
        """
        epochs, pruned = table.scores[2], table.pruned
        self.trainings, self.epochs = len(epochs), int(epochs.sum())
        self.pruned, self.pruned_epochs = int(pruned.sum()), int(epochs[pruned].sum())
        first = self.plan.seeds[0]
        left = {setting for setting, seed in self.pilots.jobs_left(done) if seed == first}
        for setting, described in self.settings.items():
            pilot = self.reached.get(described)
            if setting not in left and (
                not pilot or len(pilot["best_losses"]) not in (0, len(RULE))
            ):
                raise InputError(
                    f"{self.records.files.json}: expected what the pilot {described} reached, got "
                    "none; bring that file back, or remove the pilot's row: it is trained again"
                )

    def phases(self, left: int, done: Set[int], epochs: int) -> Iterator[tuple[int, Stops, str]]:
        """Yields what is left to train: the pilots, and once these are there, the others.

        Each part is a number of trainings, where they stop early, and a line that says it.
        Nothing can be pruned where settings end by themselves after `epochs` that are too few.
        """
        if not self.settings:
            yield left, (), ""
            return
        first = RULE[0][0]
        idle = f"nothing is pruned: that begins after epoch {first}; give more --epochs than that"
        others = self.plan.count - self.pilots.count
        pilots_left = len(self.settings) * len(self.plan.seeds) - self.pilots.count_done(done)
        if pilots_left:
            line = f"pilots: the first {len(self.settings):,} settings are trained to their end"
            line += "; there are no others to be pruned" * (not others)
            yield pilots_left, (), line if epochs > first else idle
        if left == pilots_left:
            return
        bounds = stops([self.reached[described] for described in self.settings.values()])
        reached = [(epoch, bound) for epoch, bound in bounds if epoch < epochs]
        shown = ", ".join(f"{bound:.4f} after epoch {epoch}" for epoch, bound in reached)
        line = f"the other {others:,} settings stop at a best validation loss above {shown}"
        if all(math.isinf(bound) for _, bound in reached):
            line = "nothing is pruned: too few pilots have a validation loss"
        if not reached:
            line = "" if pilots_left else idle
        yield left - pilots_left, bounds, line

    def add(self, result: Result) -> None:
        """Takes in a result whose row is to be written next: what a pilot reached is stored."""
        self.trainings += 1
        self.epochs += result.epochs
        if result.status == "pruned":
            self.pruned += 1
            self.pruned_epochs += result.epochs
        if result.seed == self.plan.seeds[0] and result.setting in self.settings:
            self.records.add_pilot(result.setting, pilot_of(result))

    def summary(self) -> str:
        """Returns how many trainings were pruned, and about what share of epochs that saved."""
        line = f"pruned: {self.pruned:,} of {counted(self.trainings, 'training')}"
        if not self.pruned:
            return line
        mean = statistics.fmean(pilot["epochs"] for pilot in self.reached.values())
        saved = max(0, self.pruned * mean - self.pruned_epochs)
        return (
            f"{line}, which saved about {saved / (saved + self.epochs):.0%} of the epochs (an "
            f"estimate: the pilots trained for {mean:.1f} on average)"
        )
