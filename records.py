"""What a search writes: results_*.csv, results_*.json and model_*.pt, by one writer at a time.

Nothing finished is lost: a row is on the disk before the next one is awaited, a better model
replaces the old one at once or not at all, and a run that was cut off is taken up from its rows.
"""

from __future__ import annotations

import contextlib
import csv
import errno
import heapq
import json
import math
import os
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from operator import itemgetter
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
        full = self.seeds == 1 and len(self._best) == self.size
        if full and not row.valid_loss <= self._best[-1].mean_valid_loss:
            return  # as almost all of a million rows
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


def read_header(path: Path, columns: Columns) -> list[str]:
    """Returns a CSV's columns, in the file's order.

    Raises:
        InputError: They are not those of the data set.
    """
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        header = next(csv.reader([file.readline()]), [])
    expected = columns.all()
    if sorted(header) != sorted(expected):
        missing = [column for column in expected if column not in header]
        extra = [column for column in header if column not in expected]
        raise InputError(
            f"{path}: expected the columns of this data set; missing: {_some(missing)}; "
            f"unknown: {_some(extra)}; name another file, or choose another --run_id"
        )
    return header


def read_rows(
    path: Path, header: Sequence[str], scores: Sequence[str]
) -> Iterator[tuple[Setting, int, tuple[float, ...]]]:
    """Yields each row's setting, seed and scores; a last line without an end is left out.

    Args:
        path: The CSV.
        header: Its columns.
        scores: Which columns to read beside the setting and the seed.

    Raises:
        InputError: A line is not understood; it is named, and the column too.
    """
    parse = _row_parser(header, scores)
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        lines = csv.reader(line for line in file if line.endswith("\n"))
        next(lines, None)
        for fields in filter(None, lines):
            try:
                yield parse(fields)
            except ValueError as error:
                raise InputError(
                    f"{path}, line {lines.line_num}: expected a row of {len(header)} values as "
                    f"the train scripts write them, got {','.join(fields)[:60]!r} ({error}); mend "
                    "or remove the line"
                ) from None


def _row_parser(
    header: Sequence[str], scores: Sequence[str]
) -> Callable[[list[str]], tuple[Setting, int, tuple[float, ...]]]:
    place = {column: i for i, column in enumerate(header)}
    known: dict[str, dict[str, float]] = {name: {} for name in Setting._fields}
    hyperparameters = itemgetter(*(place[name] for name in Setting._fields))
    values = itemgetter(place["Seed"], *(place[column] for column in scores), place["Status"])

    def read_setting(texts: Sequence[str]) -> Setting:
        for (name, values), text in zip(known.items(), texts, strict=True):
            if text not in values:
                values[text] = parse_value(name, text)
        return Setting._make(map(dict.__getitem__, known.values(), texts))

    def parse(fields: list[str]) -> tuple[Setting, int, tuple[float, ...]]:
        if len(fields) != len(header):
            raise ValueError(f"{len(fields)} values")
        texts = hyperparameters(fields)
        try:  # a million rows have few different values
            setting = Setting._make(map(dict.__getitem__, known.values(), texts))
        except KeyError:
            setting = read_setting(texts)
        seed, *numbers, status = values(fields)
        if status not in STATUSES:
            raise ValueError(f"Status {status!r}")
        try:
            return setting, int(seed), tuple(map(float, numbers))
        except ValueError:
            raise ValueError(_not_a_number(["Seed", *scores], [seed, *numbers])) from None

    return parse


def _not_a_number(columns: Sequence[str], texts: Sequence[str]) -> str:
    for column, text in zip(columns, texts, strict=True):
        try:
            (int if column == "Seed" else float)(text)
        except ValueError as error:
            return f"{column}: {error}"
    raise AssertionError("all of them are numbers")


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
            make_folder(folder)
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
        begun = _starts_with_other_text(self.csv_path, ",".join(self._header))
        stored = self._stored_provenance(begun)
        self.provenance = stored or self.provenance
        self._check_model()
        if stored is None:
            text = json.dumps(self.provenance, indent=2) + "\n"
            write_atomically(self.json_path, lambda part: part.write_text(text))
        try:
            self._file = self.csv_path.open("ab+", buffering=0)
        except OSError as error:
            raise InputError(f"{self.csv_path}: can't be written: {error.strerror}") from None
        self._cut_torn_line()
        if self._file.tell() == 0:
            self._write(self._header)

    def _stored_provenance(self, begun: bool) -> Provenance | None:
        """Returns what an earlier command wrote; None if a new run can begin in its place."""
        try:
            stored: Provenance = json.loads(self.json_path.read_text())
            before = {key: stored[key] for key in ("data_set", "emotion")} | stored["fixed"]
        except (OSError, ValueError, KeyError, TypeError):
            if not begun:
                return None
            raise InputError(
                f"{self.csv_path}: has no {self.json_path.name} beside it that says how its rows "
                "came about; choose another --run_id, or move the file away"
            ) from None
        now = {key: self.provenance[key] for key in ("data_set", "emotion")}
        now |= self.provenance["fixed"]
        keys = [key for key in {**before, **now} if before.get(key) != now.get(key)]
        if not keys:
            return stored
        if not begun:
            return None
        differences = ", ".join(f"{key} {_short(before.get(key), now.get(key))}" for key in keys)
        raise InputError(
            f"{self.csv_path}: was begun with other conditions: {differences}; "
            "repeat them, or choose another --run_id"
        )

    def _check_model(self) -> None:
        """Refuses a model that another run wrote: this run would overwrite it."""
        if not self.model_path.exists():
            return
        try:
            checkpoint = torch.load(self.model_path, map_location="cpu", weights_only=True)
            own = checkpoint["provenance"]["started"] == self.provenance["started"]
        except Exception:  # other files make torch.load raise anything
            own = False
        if not own:
            raise InputError(
                f"{self.model_path}: is no model of the run in {self.csv_path}, and would be "
                "overwritten; move it away, or choose another --run_id or --model_path"
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
        self._header = read_header(self.csv_path, self.columns)
        scores = (self.columns.valid_loss, self.columns.headline)
        for setting, seed, (valid_loss, test_score) in read_rows(
            self.csv_path, self._header, scores
        ):
            row = Row(setting, seed, valid_loss, test_score)
            self._note_best(row)
            yield row
        if self.best and not self.model_path.exists():
            loss, setting, seed = self.best
            raise InputError(
                f"{self.model_path}: the model of the best row ({self.columns.valid_loss} "
                f"{printed(loss)}, seed {seed}, {' '.join(setting.texts())}) is missing; bring it "
                f"back, or remove that row from {self.csv_path} to have it trained again"
            )

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
            checkpoint = {**_checkpoint(result), **about, "provenance": dict(self.provenance)}
            write_atomically(self.model_path, lambda part: torch.save(checkpoint, part))
        self._write([texts[column] for column in self._header])
        return row

    def _write(self, fields: Sequence[str]) -> None:
        size = self._file.seek(0, os.SEEK_END)
        line = (",".join(fields) + "\n").encode()
        try:
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # else the torn line is cut off at the next start
                self._file.truncate(size)
            raise InputError(
                f"{self.csv_path}: can't be written: {error.strerror}; finished rows are intact: "
                "mend that, and run the same command again"
            ) from None


def _starts_with_other_text(path: Path, header: str) -> bool:
    """Returns whether a file holds anything but the header of a CSV, or a torn piece of it."""
    if not path.exists():
        return False
    with path.open("rb") as file:
        text = file.read(len(header) + 2)
    return not f"{header}\n".encode().startswith(text)


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


def make_folder(folder: Path) -> None:
    """Makes a folder if it is missing.

    Raises:
        InputError: It can't be made or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder to write to, got: {error.strerror}"
        ) from None
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError(f"{folder}: expected a folder to write to, but it is not writable")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more


def _short(before: object, now: object) -> str:
    if isinstance(before, list) and isinstance(now, list):
        changed = [str(item) for item in (*before, *now) if (item in before) != (item in now)]
        return f"({', '.join(changed) or 'in another order'})"
    return f"(then {before}, now {now})"
