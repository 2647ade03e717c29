"""What a search writes: results_*.csv, results_*.json and model_*.pt, by one writer at a time.

Nothing finished is lost: a row is on the disk before the next one is awaited, a better model
replaces the old one at once or not at all, and a run that was cut off is taken up from its rows.
"""

from __future__ import annotations

import contextlib
import errno
import json
import math
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
from filelock import FileLock, Timeout

from data.files import (
    InputError,
    MissingFile,
    make_folder,
    open_regular,
    part_of,
    printable,
    remove,
    sync_folder,
    write_atomically,
)
from search.checkpoint import BestRow, SavedModel, read_model, save_model
from search.columns import Columns, printed
from search.leaderboard import Row
from search.provenance import Pilot, Provenance, conditions, differences, read_provenance
from search.run_files import RunFiles
from search.table import Table, line_end, read_header, read_table
from training.result import Result
from training.setting import Setting, describe


class Records:
    """The files of one run, locked against other processes while it is open."""

    def __init__(self, files: RunFiles, columns: Columns, provenance: Provenance) -> None:
        self.files, self.columns, self.provenance = files, columns, provenance
        self.best: BestRow | None = None  # of the best model so far
        self._header = columns.all()
        self._line_end = "\n"
        self._size = 0  # of the CSV

    def __enter__(self) -> Records:
        with contextlib.ExitStack() as closing:
            for path in (self.files.csv, self.files.model):
                make_folder(path.parent)
                _lock(path, closing)
            with _named_errors(self.files.csv):
                self._open(closing)
            self._closing = closing.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.close()

    def _open(self, closing: contextlib.ExitStack) -> None:
        for path in (self.files.json, self.files.model):
            remove(part_of(path))  # of a process that was killed
        begun = _has_rows(self.files.csv, ",".join(self._header))
        if not begun and _is_link(self.files.csv):
            raise InputError(
                f"{self.files.csv}: is a link, and what it leads to would be overwritten; move it "
                "away, or choose another --run_id"
            )
        stored = self._stored_provenance(begun)
        self.provenance = stored or self.provenance
        if not begun:
            self._check_model()
        if not stored:
            self._write_provenance()
        self._file = closing.enter_context(self.files.csv.open("ab+", buffering=0))
        if not begun:
            self._file.truncate(0)
            sync_folder(self.files.csv.parent)
            self._write(self._header)

    def _write_provenance(self) -> None:
        text = json.dumps(self.provenance, indent=2) + "\n"
        write_atomically(self.files.json, lambda part: part.write_text(text))

    def _stored_provenance(self, begun: bool) -> Provenance | None:
        """Returns what an earlier command wrote; None if a new run can begin in its place."""
        csv, beside = self.files.csv, self.files.json
        try:
            stored = read_provenance(beside)
        except InputError as error:
            if begun:
                raise InputError(
                    f"{error}; it is to say how the rows in {csv} came about: bring it back, "
                    "choose another --run_id, or move those rows away"
                ) from None
            if isinstance(error, MissingFile):
                return None
            raise InputError(
                f"{error}, and it would be overwritten; move it away, or choose another --run_id"
            ) from None
        changed = differences(stored, self.provenance)
        if changed and begun:
            raise InputError(
                f"{csv}: was begun with other conditions: {changed}; "
                "repeat them, or choose another --run_id"
            )
        return None if changed else stored

    def read(self) -> Table:
        """Returns the rows of earlier commands; rows can be added after that.

        Raises:
            InputError: A line is not understood, or the model is not that of the best row; the
                files are left as they are.
        """
        path = self.files.csv
        with _named_errors(path):
            self._size = self._file.seek(0, os.SEEK_END)
            self._header = read_header(path, self.columns)
            self._line_end = line_end(path)
            if not self._line_end:
                raise InputError(f"{path}, line 1: expected a line end after the columns; add it")
            kept = (self.columns.valid_loss, self.columns.headline, "Epochs")
            table = read_table(path, self._header, self.columns, kept)
            losses = table.scores[0]
            rows = table.where(losses == np.nanmin(losses, initial=math.inf)).rows()
            best = ((loss, setting, seed) for setting, seed, (loss, *_) in rows)
            self.best = min(best, default=None)
            self._check_model(table)
            self._check_unchanged()
            self._cut_torn_line()
        return table

    def _check_model(self, table: Table | None = None) -> None:
        """Refuses a model that another run would lose, or that is not that of the best row."""
        path, best = self.files.model, self.best
        model = read_model(path)
        own = model is not None and model.started == self.provenance["started"]
        alike = model is not None and model.conditions == conditions(self.provenance)
        if model and not own and not (best and alike):
            raise InputError(
                f"{path}: is no model of the run in {self.files.csv}, and would be "
                "overwritten; move it away, or choose another --run_id or --model_path"
            )
        if not best or not table:
            return
        written = (row[:2] for row in table.rows())
        if model and own and model.row < best and model.row[1:] not in written:
            print(printable(f"{path}: its row was not written; it is when it is trained again"))
        elif fault := _fault(model, best):
            raise InputError(
                f"{path}: expected the model of the best row ({self.columns.valid_loss} "
                f"{printed(best[0])}, {describe(*best[1:])}), got {fault}; bring that model back, "
                f"or train it under another --run_id with --grid {describe(best[1])} and else the "
                "same flags, and copy its file here"
            )

    def _check_unchanged(self) -> None:
        """Refuses to go on where the path leads to another file, or another program wrote to it."""
        try:
            found = os.stat(self.files.csv)
            same = os.path.samestat(found, os.fstat(self._file.fileno()))
        except FileNotFoundError:
            same = False
        if not same or found.st_size != self._size:
            raise InputError(
                f"{self.files.csv}: another program changed it meanwhile; run the same command "
                "again, which trains again what the file lacks"
            )

    def _cut_torn_line(self) -> None:
        """Cuts off a last line without an end: its row is trained again, and is the same."""
        for length in (2**16, self._size):  # more than a row has; else all there is
            self._file.seek(max(0, self._size - length))
            *whole, torn = re.split(rb"[\r\n]", self._file.read())
            if whole:
                break
        if torn:
            text = torn[:200].decode("utf-8", "replace")
            print(printable(f"{self.files.csv}: a last line without an end is cut off: {text}"))
            self._size -= len(torn)
            self._file.truncate(self._size)

    def add_pilot(self, setting: Setting, pilot: Pilot) -> None:
        """Writes what a pilot had reached beside the rows, before its own one is added."""
        self.provenance.setdefault("pilots", {})[describe(setting)] = pilot
        self._write_provenance()

    def add(self, result: Result, about: Mapping[str, object]) -> Row:
        """Writes one result, and its model if it is the best by validation; returns its row.

        The model's file holds `about` beside the result.
        """
        texts = _texts(result, self.columns)
        loss = float(texts[self.columns.valid_loss]) if result.status == "ok" else math.nan
        candidate = (loss, result.setting, result.seed)
        if not math.isnan(loss) and (self.best is None or candidate < self.best):
            # the model first: a row without its model could not be mended
            save_model(self.files.model, result, about, self.provenance)
            self.best = candidate
        self._write([texts.get(column, "") for column in self._header])
        return Row(result.setting, result.seed, loss, float(texts[self.columns.headline]))

    def _write(self, fields: Sequence[str]) -> None:
        line = (",".join(fields) + self._line_end).encode()
        try:
            self._check_unchanged()
            if self._file.write(line) < len(line):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(self._file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):  # else the torn line is cut off at the next start
                self._file.truncate(self._size)
            raise InputError(
                f"{self.files.csv}: can't be written: {error.strerror}; finished rows are intact: "
                "mend that, and run the same command again"
            ) from None
        self._size += len(line)


def _texts(result: Result, columns: Columns) -> dict[str, str]:
    """Returns what a result's row has in each column."""
    expected = {*columns.release, *columns.own} if result.status == "ok" else set()
    if result.scores.keys() != expected:
        names = sorted(result.scores.keys() ^ expected)
        raise AssertionError(f"in the scores or in the columns, but not in both: {names}")
    return {
        **dict(zip(Setting._fields, result.setting.texts(), strict=True)),
        columns.valid_loss: printed(result.valid_loss),
        **dict.fromkeys((*columns.release, *columns.own), "nan"),
        **{column: printed(score) for column, score in result.scores.items()},
        "Seed": str(result.seed),
        "Status": result.status,
        "Best Epoch": str(result.best_epoch),
        "Epochs": str(result.epochs),
        "Seconds": f"{result.seconds:.3f}",
    }


def _lock(path: Path, closing: contextlib.ExitStack) -> None:
    lock = FileLock(f"{path}.lock")
    try:
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(lock.lock_file)
            if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:  # it would be emptied
                raise InputError(f"{lock.lock_file}: expected no file or link; remove it")
        lock.acquire(timeout=0)
    except Timeout:
        raise InputError(
            f"{path}: another process is training this run; wait for it, or choose another --run_id"
        ) from None
    except OSError as error:
        raise InputError(f"{path}: can't be locked: {error}") from None
    closing.callback(lock.release)
    closing.callback(remove, Path(lock.lock_file))  # before the release: see FileLock


@contextlib.contextmanager
def _named_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: can't be read and written: {error.strerror}") from None


def _has_rows(path: Path, header: str) -> bool:
    """Returns whether a file holds anything but the header of a CSV, or a torn piece of it."""
    try:
        with open_regular(path) as file:
            start = file.read(len(header) + 2)
    except MissingFile:
        return False
    return not f"{header}\n".encode().startswith(start)


def _is_link(path: Path) -> bool:
    return path.is_symlink() or (path.exists() and path.stat().st_nlink > 1)


def _fault(model: SavedModel | None, best: BestRow) -> str:
    """Returns why a model is not that of the best row; nothing if it is."""
    if model is None:
        return "no such file"
    if model.row != best:
        return f"that of {describe(*model.row[1:])}, of {printed(model.row[0])}"
    return "" if model.intact else "other weights or sizes than were saved"
