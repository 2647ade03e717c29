"""What a search prints of its settings: a row for each, no wider than the terminal, and the best.

The hyperparameters that differ between the settings have a column each, under a short name that
the legend explains. Everything else of a setting is in the CSV.
"""

from __future__ import annotations

import math
import shutil
import statistics
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from data.files import printable
from search.columns import Columns
from search.experiment import Plan
from search.grid import Settings
from search.leaderboard import Row, Standing
from search.messages import Epoch
from search.table import Table
from training.result import Result
from training.setting import Setting, describe

SHORT_NAMES = {
    "audio_hidden": "ah",
    "video_hidden": "vh",
    "text_hidden": "th",
    "audio_dropout": "ad",
    "video_dropout": "vd",
    "text_dropout": "td",
    "factor_learning_rate": "flr",
    "learning_rate": "lr",
    "rank": "rank",
    "batch_size": "bs",
    "weight_decay": "wd",
}
assert tuple(SHORT_NAMES) == Setting._fields
_WIDTH = 80  # where the output is no terminal
_COUNT_WIDTH = 4  # more digits shift a row to the right
_SCORE_WIDTH = 6


class _Column(NamedTuple):
    title: str
    width: int


def say(line: str) -> None:
    """Prints a line at once, also into a pipe, with what could steer a terminal escaped."""
    print(printable(line), flush=True)


def counted(count: int, noun: str) -> str:
    """Returns "1 epoch", "2 epochs"."""
    return f"{count:,} {noun}{'s' * (count != 1)}"


class Rows:
    """How a search's settings are printed.

    Args:
        plan: The settings to train.
        earlier: The rows of earlier commands, which may be of other settings.
        columns: The data set's.
        wanted: How many trainings there are to count.
    """

    def __init__(self, plan: Plan, earlier: Table, columns: Columns, wanted: int) -> None:
        self.columns, self.names = columns, plan.names
        self.terminal = shutil.get_terminal_size((_WIDTH, 24)).columns
        values = _values(plan, earlier)
        self.fixed = {name: of_name for name, of_name in values.items() if len(of_name) == 1}
        score, count = _Column("", _SCORE_WIDTH), min(_COUNT_WIDTH, len(str(wanted)))
        valid, test, spread = (score._replace(title=title) for title in ("valid", "test", "±"))
        self.several = len(plan.seeds) > 1
        self.of_result = [_Column("", count), valid, test, _Column("ep", 3), _Column("time", 4)]
        self.of_best = [_Column("", 1), valid, test]
        if self.several:
            self.of_result.append(_Column("seed", max(4, len(str(plan.seeds[-1])))))
            n = _Column("n", len(str(len(plan.seeds))))
            self.of_best = [_Column("", 1), valid, spread, test, spread, n]
        self.room = self.terminal - max(map(_width, (self.of_result, self.of_best))) - 1
        varied = [
            _Column(SHORT_NAMES[name], max(map(len, [SHORT_NAMES[name], *map(short, of_name)])))
            for name, of_name in values.items()
            if len(of_name) > 1
        ]
        self.shown = [] if self.names else list(_that_fit(varied, self.room))
        self.left_out = [] if self.names else varied[len(self.shown) :]

    def legend(self) -> Iterator[str]:
        """Yields what the columns mean, in lines."""
        meanings = {"valid": self.columns.valid_loss, "test": self.columns.headline}
        meanings["ep"] = "epochs"
        if self.several:
            meanings |= {"±": "standard deviation over n seeds"}
        if self.names:
            meanings["name"] = "as in the file of settings"
        full = {shown: name for name, shown in SHORT_NAMES.items()}
        meanings |= {title: full[title] for title, _ in self.shown if full[title] != title}
        yield from self._wrapped((f"{key}: {text}" for key, text in meanings.items()), "; ")
        if self.left_out:
            missing = (full[title] for title, _ in self.left_out)
            yield from self._wrapped(["only in the CSV, for want of room:", *missing])
        if self.fixed and not self.names:
            pairs = (f"{name}={short(value)}" for name, (value,) in self.fixed.items())
            yield from self._wrapped(["the same in all:", *pairs])

    def head(self, best: bool = False) -> str:
        """Returns the columns' titles."""
        columns = self.of_best if best else self.of_result
        shown = [_Column("name", 0)] if self.names else self.shown
        return _joined([*columns, *shown], [title for title, _ in (*columns, *shown)])

    def result(self, count: int, result: Result, row: Row) -> Iterator[str]:
        """Yields a finished training's row, the count first, and why it failed if it did."""
        scores = [score(row.valid_loss), score(row.test_score)]
        if result.status != "ok":
            valid = score(result.valid_loss) if result.status == "pruned" else ""
            scores = [valid, result.status]
        texts = [str(count), *scores, str(result.epochs), _seconds(result.seconds)]
        yield self._row(self.of_result, [*texts, str(result.seed)], result.setting)
        if result.reason:
            yield f"     failed: {result.reason}"

    def epoch(self, message: Epoch) -> str:
        """Returns the line of an epoch."""
        front = f"epoch {message.epoch}  train {score(message.train_loss)}  "
        front += f"valid {score(message.valid_loss)}"
        if self.several:
            front += f"  seed {message.seed}"
        return f"{front}  {self._setting(message.setting, self.terminal - len(front) - 2)}"

    def best(self, place: int, standing: Standing) -> str:
        """Returns the row of one of the best settings."""
        texts = [str(place)]
        for values in (standing.valid_losses, standing.test_scores):
            spread = statistics.stdev(values) if len(values) > 1 else math.nan
            texts += [score(statistics.fmean(values)), score(spread)][: 1 + self.several]
        texts += [str(len(standing.valid_losses))] * self.several
        return self._row(self.of_best, texts, standing.setting)

    def _row(self, columns: Sequence[_Column], texts: Sequence[str], setting: Setting) -> str:
        front = _joined(columns, texts[: len(columns)])
        return f"{front} {self._setting(setting, self.room)}".rstrip()

    def _setting(self, setting: Setting, room: int) -> str:
        if self.names:
            name = self.names.get(setting) or describe(setting)
            return name if len(name) <= room else f"{name[: room - 3]}..."
        values = dict(zip(SHORT_NAMES.values(), setting, strict=True))
        return _joined(self.shown, [short(values[title]) for title, _ in self.shown])

    def _wrapped(self, words: Iterable[str], between: str = " ") -> Iterator[str]:
        """Yields lines of these words, none of which is split."""
        line = ""
        for word in words:
            if line and len(line + between + word + between.rstrip()) > self.terminal:
                yield f"{line}{between}".rstrip()
                line = f"  {word}"
            else:
                line += between * bool(line) + word
        yield line


def short(value: float) -> str:
    """Returns a hyperparameter's value in few characters, to three digits: 64, .15, 3e-4."""
    if isinstance(value, int):
        return str(value)
    plain = f"{value:.3g}"
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    digits = mantissa.rstrip("0").rstrip(".")
    return min(plain.removeprefix("0") or "0", f"{digits}e{int(exponent)}", key=len)


def score(value: float) -> str:
    """Returns a score in six characters as long as it is of a usual size, "" for NaN."""
    if math.isnan(value):
        return ""
    return f"{value:.4f}" if abs(value) < 10 else f"{value:.5g}"


def _seconds(seconds: float) -> str:
    return f"{seconds:.1f}s" if seconds < 9.95 else f"{seconds:.0f}s"


def _values(plan: Plan, earlier: Table) -> Mapping[str, set[float]]:
    """Returns which values each hyperparameter has."""
    settings = plan.settings
    planned = (
        settings.grid.values() if isinstance(settings, Settings) else zip(*settings, strict=True)
    )
    return {
        name: {*of_name, *before}
        for name, of_name, before in zip(Setting._fields, planned, earlier.values, strict=True)
    }


def _that_fit(columns: Sequence[_Column], room: int) -> Iterator[_Column]:
    """Yields as many of the columns as there is room for."""
    for column in columns:
        room -= column.width + 1
        if room < -1:
            return
        yield column


def _width(columns: Sequence[_Column]) -> int:
    return sum(column.width + 1 for column in columns) - 1


def _joined(columns: Sequence[_Column], texts: Sequence[str]) -> str:
    return " ".join(
        text.rjust(column.width) for column, text in zip(columns, texts, strict=True)
    ).rstrip()
