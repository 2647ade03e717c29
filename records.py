"""What a search writes: results_*.csv, results_*.json and model_*.pt, by one writer at a time.

Nothing finished is lost: a row is on the disk before the next one is awaited, a better model
replaces the old one at once or not at all, and a run that was cut off is taken up from its rows.
"""

from __future__ import annotations

import csv
import heapq
import json
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, TypedDict

import torch
from filelock import FileLock, Timeout

from grid import parse_value
from training import Result, Setting
from utils import InputError

RUN_COLUMNS = ("Seed", "Status", "Best Epoch", "Epochs", "Seconds")
STATUSES = ("ok", "diverged", "failed")


class Provenance(TypedDict):
    """How a run's rows come about; a run only goes on while all of "fixed" stays the same."""

    data_set: str
    emotion: str | None
    data_file: str
    fixed: dict[str, object]
    versions: dict[str, str]
    command: list[str]
    started: str


def printed(value: float) -> str:
    """Returns a number as it stands in the CSV files."""
    return f"{value:.6g}"


class Row(NamedTuple):
    """What a search reads back of one row."""

    setting: Setting
    seed: int
    valid_loss: float  # NaN unless the status is ok
    test_score: float


class Columns(NamedTuple):
    """The columns of a data set's CSV after the hyperparameters.

    Attributes:
        valid_loss: The validation loss, by which settings are ranked.
        release: The release's other columns, in its order.
        own: Scores that the release doesn't have.
        headline: The one test score that is shown for a setting.
    """

    valid_loss: str
    release: tuple[str, ...]
    own: tuple[str, ...]
    headline: str

    def all(self) -> list[str]:
        """Returns every column of the file, in order."""
        return [*Setting._fields, self.valid_loss, *self.release, *RUN_COLUMNS, *self.own]


class Standing(NamedTuple):
    """A setting's place on the leaderboard; settings compare by their mean validation loss."""

    mean_valid_loss: float  # infinite if a seed diverged
    setting: Setting
    valid_losses: tuple[float, ...]
    test_scores: tuple[float, ...]


class Leaderboard:
    """The best settings by mean validation loss over their seeds; test scores don't count."""

    def __init__(self, seeds: int = 1, size: int = 5) -> None:
        self.seeds, self.size = seeds, size
        self._best: list[Standing] = []
        self._unfinished: dict[Setting, list[Row]] = {}

    def add(self, row: Row) -> None:
        """Takes in one finished training."""
        rows = self._unfinished.setdefault(row.setting, [])
        rows.append(row)
        if len(rows) >= self.seeds:
            self._best = heapq.nsmallest(self.size, [*self._best, self._standing(row.setting)])
            del self._unfinished[row.setting]

    def best(self) -> list[Standing]:
        """Returns the best settings, the best first, those with seeds still to come included."""
        standings = [*self._best, *map(self._standing, self._unfinished)]
        return heapq.nsmallest(self.size, standings)

    def _standing(self, setting: Setting) -> Standing:
        rows = sorted(self._unfinished[setting], key=lambda row: row.seed)
        losses = tuple(row.valid_loss for row in rows)
        mean = math.inf if any(map(math.isnan, losses)) else statistics.fmean(losses)
        return Standing(mean, setting, losses, tuple(row.test_score for row in rows))


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces a file by what `write` puts at the path it is given, wholly or not at all."""
    part = path.with_name(path.name + ".part")
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
    except (OSError, RuntimeError) as error:  # torch.save raises RuntimeError on a full disk
        part.unlink(missing_ok=True)
        raise InputError(
            f"{path}: can't be written: {error}; free space there, or name another folder"
        ) from None


class Records:
    """The files of one run, locked against other processes while it is open.

    Args:
        csv_path: results_*.csv; its .json stands beside it.
        model_path: model_*.pt.
        columns: Those of the data set.
        provenance: What is written to the .json.

    Attributes:
        best: Printed validation loss, setting and seed of the best model so far.
    """

    def __init__(
        self, csv_path: Path, model_path: Path, columns: Columns, provenance: Provenance
    ) -> None:
        self.csv_path, self.model_path = csv_path, model_path
        self.json_path = csv_path.with_suffix(".json")
        self.columns = columns
        self.provenance = provenance
        self.best: tuple[float, Setting, int] | None = None
        self._header = columns.all()
        self._lock = FileLock(f"{csv_path}.lock")

    def __enter__(self) -> Records:
        for folder in (self.csv_path.parent, self.model_path.parent):
            _make_folder(folder)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{self.csv_path}: another process is training this run; wait for it, or choose "
                "another --run_id"
            ) from None
        except OSError as error:
            raise InputError(f"{self.csv_path}: can't be locked: {error}") from None
        try:
            self._open()
        except BaseException:
            self._release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        self._release()

    def _release(self) -> None:
        Path(self._lock.lock_file).unlink(missing_ok=True)
        self._lock.release()

    def _open(self) -> None:
        started = self.csv_path.exists() and self.csv_path.stat().st_size > 0
        if started:
            self._check_provenance()
        else:
            text = json.dumps(self.provenance, indent=2) + "\n"
            write_atomically(self.json_path, lambda part: part.write_text(text))
        try:
            self._file = self.csv_path.open("ab+")
        except OSError as error:
            raise InputError(f"{self.csv_path}: can't be written: {error.strerror}") from None
        self._cut_torn_line()
        if self._file.tell() == 0:
            self._write(self._header)

    def _check_provenance(self) -> None:
        try:
            before = json.loads(self.json_path.read_text())["fixed"]
        except (OSError, ValueError, KeyError, TypeError):
            raise InputError(
                f"{self.csv_path}: has no {self.json_path.name} beside it that says how its rows "
                "came about; choose another --run_id, or move the file away"
            ) from None
        now = self.provenance["fixed"]
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if keys:
            differences = ", ".join(
                f"{key} {_short(before.get(key), now.get(key))}" for key in keys
            )
            raise InputError(
                f"{self.csv_path}: was begun with other conditions: {differences}; "
                "repeat them, or choose another --run_id"
            )

    def _cut_torn_line(self) -> None:
        size = self._file.seek(0, os.SEEK_END)
        end, step = size, 4096
        while end > 0:
            self._file.seek(max(0, end - step))
            found = self._file.read(min(step, end)).rfind(b"\n")
            if found >= 0:
                end = max(0, end - step) + found + 1
                break
            end = max(0, end - step)
        if end < size:
            print(f"{self.csv_path}: a last line that was not finished is cut off")
            self._file.truncate(end)
        self._file.seek(0, os.SEEK_END)

    def rows(self) -> Iterator[Row]:
        """Yields the rows of earlier commands, and finds out which of their models is the best.

        Raises:
            InputError: A line is not understood; it is named, and the file is left as it is.
        """
        with self.csv_path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            self._header = self._read_header(next(lines))
            parse = self._row_parser()
            for fields in lines:
                if not fields:
                    continue
                try:
                    row = parse(fields)
                except (ValueError, IndexError) as error:
                    raise InputError(
                        f"{self.csv_path}, line {lines.line_num}: expected a row of "
                        f"{len(self._header)} values as this script writes them, got "
                        f"{','.join(fields)[:60]!r} ({error}); mend or remove the line"
                    ) from None
                self._note_best(row)
                yield row

    def _read_header(self, header: list[str]) -> list[str]:
        expected = self.columns.all()
        if sorted(header) != sorted(expected):
            missing = [column for column in expected if column not in header]
            extra = [column for column in header if column not in expected]
            raise InputError(
                f"{self.csv_path}: expected the columns of this data set; "
                f"missing: {', '.join(missing) or 'none'}; unknown: {', '.join(extra) or 'none'}; "
                "choose another --run_id"
            )
        return header

    def _row_parser(self) -> Callable[[list[str]], Row]:
        place = {column: i for i, column in enumerate(self._header)}
        parts = [(name, place[name], {}) for name in Setting._fields]
        seed, status = place["Seed"], place["Status"]
        valid, test = place[self.columns.valid_loss], place[self.columns.headline]
        width = len(self._header)

        def value(name: str, text: str, known: dict[str, float]) -> float:
            if text not in known:
                known[text] = parse_value(name, text)
            return known[text]

        def parse(fields: list[str]) -> Row:
            if len(fields) != width:
                raise ValueError(f"{len(fields)} values")
            if fields[status] not in STATUSES:
                raise ValueError(f"status {fields[status]!r}")
            setting = Setting._make(value(name, fields[i], known) for name, i, known in parts)
            return Row(setting, int(fields[seed]), float(fields[valid]), float(fields[test]))

        return parse

    def _note_best(self, row: Row) -> bool:
        candidate = (row.valid_loss, row.setting, row.seed)
        if math.isnan(row.valid_loss) or (self.best and candidate >= self.best):
            return False
        self.best = candidate
        return True

    def add(self, result: Result, about: Mapping[str, object]) -> Row:
        """Writes one result, and its model if it is the best by validation; returns its row.

        Args:
            result: What came of a (setting, seed).
            about: What the model's file is to hold beside the result.
        """
        texts = {
            **dict(zip(Setting._fields, result.setting.texts(), strict=True)),
            self.columns.valid_loss: printed(result.valid_loss),
            **dict.fromkeys((*self.columns.release, *self.columns.own), "nan"),
            **{column: printed(score) for column, score in result.scores.items()},
            "Seed": str(result.seed),
            "Status": result.status,
            "Best Epoch": str(result.best_epoch),
            "Epochs": str(result.epochs),
            "Seconds": f"{result.seconds:.3f}",
        }
        row = Row(
            result.setting,
            result.seed,
            float(texts[self.columns.valid_loss]),
            float(texts[self.columns.headline]),
        )
        if self._note_best(row):  # the model first: a row without its model could not be mended
            checkpoint = {**_checkpoint(result), **about}
            write_atomically(self.model_path, lambda part: torch.save(checkpoint, part))
        self._write([texts[column] for column in self._header])
        return row

    def _write(self, fields: Sequence[str]) -> None:
        size = self._file.seek(0, os.SEEK_END)
        try:
            self._file.write((",".join(fields) + "\n").encode())
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            self._file.truncate(size)
            raise InputError(
                f"{self.csv_path}: can't be written: {error.strerror}; finished rows are intact: "
                "mend that, and run the same command again"
            ) from None


def _checkpoint(result: Result) -> dict[str, object]:
    return {
        "state_dict": result.state_dict,
        "setting": result.setting._asdict(),
        "seed": result.seed,
        "valid_loss": result.valid_loss,
        "best_epoch": result.best_epoch,
        "scores": result.scores,
        "history": result.history,
    }


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder to write to, got: {error.strerror}"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: expected a folder to write to, but it is not writable")


def _short(before: object, now: object) -> str:
    if isinstance(before, list) and isinstance(now, list):
        changed = [str(item) for item in (*before, *now) if (item in before) != (item in now)]
        return f"({', '.join(changed) or 'in another order'})"
    return f"(then {before}, now {now})"
