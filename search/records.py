"""What a search writes: results_*.csv, results_*.json and model_*.pt, by one writer at a time.

Nothing finished is lost: a row is on the disk before the next one is awaited, a better model
replaces the old one at once or not at all, and a run that was cut off is taken up from its rows.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import math
import os
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypedDict

import numpy as np
import torch
from filelock import FileLock, Timeout

from search.columns import STATUSES, Columns
from search.leaderboard import Row
from search.table import Table, read_header, read_table
from training.result import Result
from training.setting import Setting, parse_value
from utils import InputError

_LONGEST_LINE = 2**16  # bytes
_WORDS = " ".join(["", *STATUSES, "nan", "inf"])  # what stands in rows beside digits


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


def write_atomically(path: Path, write: Callable[[Path], object]) -> None:
    """Replaces a file by what `write` puts at the path it is given, wholly or not at all."""
    part = _part(path)
    try:
        write(part)
        with part.open("rb+") as file:
            os.fsync(file.fileno())
        part.replace(path)
        _sync_folder(path.parent)
    except OSError as error:
        raise InputError(
            f"{path}: can't be written: {error.strerror or error}; free space there, or name "
            "another folder"
        ) from None
    finally:
        _remove(part)


def _part(path: Path) -> Path:
    return path.with_name(path.name + ".part")


def _remove(path: Path) -> None:
    with contextlib.suppress(OSError):  # missing, or in a folder that has become read-only
        path.unlink()


def _sync_folder(folder: Path) -> None:
    """Makes sure that names in a folder outlast a power cut, as the files' content does."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno != errno.EINVAL:  # from some network file systems, which need no fsync here
            raise
    finally:
        os.close(descriptor)


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
        self._line_end = "\n"
        self._size = 0  # of the CSV

    def __enter__(self) -> Records:
        with contextlib.ExitStack() as closing:
            for path in (self.csv_path, self.model_path):
                make_folder(path.parent)
                self._lock(path, closing)
            self._open(closing)
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _lock(self, path: Path, closing: contextlib.ExitStack) -> None:
        lock = FileLock(f"{path}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise InputError(
                f"{path}: another process is training this run; wait for it, or choose another "
                "--run_id"
            ) from None
        except OSError as error:
            raise InputError(f"{path}: can't be locked: {error}") from None
        closing.callback(lock.release)
        closing.callback(_remove, Path(lock.lock_file))  # before the release: see FileLock

    def _open(self, closing: contextlib.ExitStack) -> None:
        for path in (self.json_path, self.model_path):
            _remove(_part(path))  # of a process that was killed
        try:
            begun = _starts_with_other_text(self.csv_path, ",".join(self._header))
            stored = self._stored_provenance(begun)
            self.provenance = stored or self.provenance
            self._check_model()
            if stored is None:
                text = json.dumps(self.provenance, indent=2) + "\n"
                write_atomically(self.json_path, lambda part: part.write_text(text))
            self._file = closing.enter_context(self.csv_path.open("ab+", buffering=0))
            if not begun:
                self._file.truncate(0)
                _sync_folder(self.csv_path.parent)
        except OSError as error:
            raise InputError(
                f"{self.csv_path}: can't be read and written: {error.strerror}"
            ) from None
        if not begun:
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

    def read(self) -> Table:
        """Returns the rows of earlier commands; rows can be added after that.

        Raises:
            InputError: A line is not understood; it is named, and the file is left as it is.
        """
        self._header = read_header(self.csv_path, self.columns)
        scores = (self.columns.valid_loss, self.columns.headline)
        table = read_table(self.csv_path, self._header, scores)
        losses = table.scores[0]
        least = table.where(losses == np.min(losses, initial=math.inf, where=~np.isnan(losses)))
        for setting, seed, (loss, score) in least.rows():
            self._note_best(Row(setting, seed, loss, score))
        if self.best and not self.model_path.exists():
            loss, setting, seed = self.best
            raise InputError(
                f"{self.model_path}: the model of the best row ({self.columns.valid_loss} "
                f"{printed(loss)}, seed {seed}, {' '.join(setting.texts())}) is missing; bring it "
                f"back, or remove that row from {self.csv_path} to have it trained again"
            )
        self._cut_torn_line()
        return table

    def _cut_torn_line(self) -> None:
        """Removes what a process that was cut off left of a last line, and nothing else."""
        with self.csv_path.open(newline="", encoding="utf-8", errors="replace") as file:
            header = file.readline()
            self._line_end = header[len(header.rstrip("\r\n")) :]
        self._size = self._file.seek(0, os.SEEK_END)
        self._file.seek(max(0, self._size - _LONGEST_LINE))
        end = self._file.read()
        end = end[1 + max(end.rfind(b"\n"), end.rfind(b"\r")) :]
        if not end:
            return
        torn = end.decode("utf-8", "replace")
        if not self._is_torn_row(torn):
            with self.csv_path.open(newline="", encoding="utf-8", errors="replace") as file:
                line = sum(1 for _ in file)
            raise InputError(
                f"{self.csv_path}, line {line}: expected a line end; add one if the line is whole, "
                f"or remove the line, got {torn[-60:]!r}"
            )
        print(f"{self.csv_path}: a last line that was not finished is cut off: {torn}")
        self._size -= len(end)
        self._file.truncate(self._size)

    def _is_torn_row(self, text: str) -> bool:
        *whole, last = text.split(",")
        return (
            len(whole) < len(self._header) - 1
            and all(map(self._fits, self._header, whole))
            and bool(re.fullmatch(r"[-+.e\d]*", last) or f" {last}" in _WORDS)
        )

    def _fits(self, column: str, text: str) -> bool:
        """Returns whether this could be written to a column."""
        try:
            if column in Setting._fields:
                parse_value(column, text)
            elif column == "Status":
                return text in STATUSES
            elif column in self.columns.all():
                float(text)
            else:
                return text == ""
        except ValueError:
            return False
        return True

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
            content = io.BytesIO()  # to a full disk torch.save would only say "unexpected pos"
            torch.save(checkpoint, content)
            write_atomically(self.model_path, lambda part: part.write_bytes(content.getvalue()))
        self._write([texts.get(column, "") for column in self._header])
        return row

    def _write(self, fields: Sequence[str]) -> None:
        line = (",".join(fields) + self._line_end).encode()
        try:
            if not self._is_as_left():
                raise InputError(
                    f"{self.csv_path}: another program changed it while it was written to; run "
                    "the same command again, which trains again what the file lacks"
                )
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # else the torn line is cut off at the next start
                self._file.truncate(self._size)
            raise InputError(
                f"{self.csv_path}: can't be written: {error.strerror}; finished rows are intact: "
                "mend that, and run the same command again"
            ) from None
        self._size += len(line)

    def _is_as_left(self) -> bool:
        """Returns whether the path still leads to the open file, and nobody else wrote to it."""
        try:
            now = os.stat(self.csv_path)
        except FileNotFoundError:
            return False
        return now.st_size == self._size and os.path.samestat(now, os.fstat(self._file.fileno()))


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


def _short(before: object, now: object) -> str:
    if isinstance(before, list) and isinstance(now, list):
        changed = [str(item) for item in (*before, *now) if (item in before) != (item in now)]
        return f"({', '.join(changed) or 'in another order'})"
    return f"(then {before}, now {now})"
