"""Reads results_*.csv back, also as other programs save it: its columns, and its rows as arrays."""

from __future__ import annotations

import contextlib
import csv
import io
import math
from array import array
from collections.abc import Iterator, Sequence
from operator import itemgetter
from pathlib import Path
from typing import NamedTuple

import numpy as np

from data.files import InputError, open_regular
from search.columns import MOST_EPOCHS, RUN_COLUMNS, STATUSES, Columns
from training.setting import Setting, parse_value

LARGEST = float(np.finfo(np.float32).max)  # of what training in float32 can report


class Table(NamedTuple):
    """The rows of a CSV as arrays, each (setting, seed) once: a million of them take 70 MB.

    Shape:
        places are (hyperparameters, rows), seeds and pruned (rows,), scores (columns, rows).
    """

    values: list[list[float]]  # of each hyperparameter, in the order in which the file has them
    places: np.ndarray  # where each row's values stand in `values`
    seeds: np.ndarray
    scores: np.ndarray  # the columns that were asked for; without a final validation loss, NaN
    pruned: np.ndarray

    def rows(self) -> Iterator[tuple[Setting, int, tuple[float, ...]]]:
        """Yields each row's setting, seed and scores."""
        for place, seed, scores in zip(self.places.T, self.seeds, self.scores.T, strict=True):
            setting = map(list.__getitem__, self.values, place)
            yield Setting._make(setting), int(seed), tuple(scores.tolist())

    def where(self, chosen: np.ndarray) -> Table:
        """Returns the rows of a mask: (rows,)."""
        rows = (array[..., chosen] for array in self[1:])
        return Table(self.values, *rows)

    def numbers(self) -> np.ndarray:
        """Returns a number for each row, the same for the same setting only: (rows,)."""
        sizes = [max(1, len(known)) for known in self.values]
        if math.prod(sizes) < 2**63:
            return np.asarray(np.ravel_multi_index(tuple(self.places), sizes))
        return np.unique(self.places, axis=1, return_inverse=True)[1].reshape(-1)


def first_line(path: Path) -> list[str]:
    """Returns the fields of a CSV's first line; none if it is no CSV."""
    try:
        with _open(path) as file:
            return [name.strip() for name in next(csv.reader([file.readline()]), [])]
    except csv.Error:
        return []


def line_end(path: Path) -> str:
    r"""Returns how a CSV's first line ends: "\n", "\r\n" or "\r"; "" if it has no end."""
    with _open(path) as file:
        line = file.readline()
    return line[len(line.rstrip("\r\n")) :]


def read_header(path: Path, columns: Columns) -> list[str]:
    """Returns a CSV's columns, in the file's order; a user's own ones may be among them.

    Raises:
        InputError: One of the data set's columns is missing, or there twice.
    """
    header, expected = first_line(path), columns.all()
    missing = [column for column in expected if column not in header]
    if missing or any(header.count(column) > 1 for column in expected):
        extra = [
            name for i, name in enumerate(header) if name not in expected or name in header[:i]
        ]
        raise InputError(
            f"{path}: expected the columns of this data set once each, separated by commas; "
            f"missing: {_listed(missing)}; unknown: {_listed(extra)}; name another file, or choose "
            "another --run_id"
        )
    return header


def read_table(
    path: Path, header: Sequence[str], columns: Columns, kept: Sequence[str] = ()
) -> Table:
    """Returns a CSV's rows, each value checked; a last line without an end is left out.

    Args:
        path: The CSV.
        header: Its columns.
        columns: The data set's.
        kept: Which scores the table is to have, or also "Epochs": all scores if none is named.

    Raises:
        InputError: A line is not understood, or contradicts another; it is named.
    """
    scores = columns.scores()
    kept_places = list(map([*scores, "Epochs"].index, kept or scores))
    names = (Setting._fields, RUN_COLUMNS, scores)
    setting_of, run_of, scores_of = (itemgetter(*map(header.index, group)) for group in names)
    codes = [_Codes(name) for name in Setting._fields]
    places, seeds, values, pruned = array("i"), array("q"), array("d"), array("b")
    for line, fields in _numbered_rows(path):
        try:
            if len(fields) != len(header):
                raise ValueError(f"{len(fields)} values")
            places.extend(map(dict.__getitem__, codes, setting_of(fields)))
            seed, status, *numbers = map(str.strip, run_of(fields))
            seeds.append(_parse_whole("Seed", seed, 0, 2**63 - 1))
            parsed = _parse_scores(status, columns, scores_of(fields))
            parsed.append(_parse_epochs(int(STATUSES[status]), *numbers))
            values.extend(map(parsed.__getitem__, kept_places))
            pruned.append(status == "pruned")
        except ValueError as error:
            raise InputError(
                f"{path}, line {line}: expected a row of {len(header)} values as the train "
                f"scripts write them, got {','.join(fields)[:60]!r} ({error}); mend or remove it"
            ) from None
    rows = (
        np.array(places).reshape(-1, len(codes)).T,
        np.array(seeds),
        np.array(values).reshape(-1, len(kept_places)).T,
        np.array(pruned, dtype=bool),
    )
    table = _without_repetitions(path, Table([list(column.known) for column in codes], *rows))
    table.scores[0, table.pruned] = math.nan
    return table


class _Codes(dict[str, int]):
    """Numbers the texts of a hyperparameter by their values, in the order in which they come up."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.known: dict[float, int] = {}

    def __missing__(self, text: str) -> int:
        value = parse_value(self.name, text)
        self[text] = code = self.known.setdefault(value, len(self.known))
        return code


def _open(path: Path) -> io.TextIOWrapper:
    # a spreadsheet may have put a byte order mark in front
    return io.TextIOWrapper(open_regular(path), "utf-8-sig", errors="replace", newline="")


def _numbered_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of each row's first line, and its fields; blank ones are left out."""
    line = 1
    with _open(path) as file:
        rows = csv.reader((text for text in file if text.endswith(("\n", "\r"))), strict=True)
        try:
            for fields in rows:
                if line > 1 and any(fields):
                    yield line, fields
                line = rows.line_num + 1
        except csv.Error as error:
            raise InputError(
                f"{path}, line {line}: expected a row of CSV ({error}); mend or remove the line"
            ) from None


def _parse_whole(column: str, text: str, least: int, most: int) -> int:
    try:
        if least <= int(text) <= most:
            return int(text)
    except ValueError:
        pass
    raise ValueError(f"{column}: expected a whole number from {least} to {most}, got {text[:40]!r}")


def _parse_epochs(least: int, best_epoch: str, epochs: str, seconds: str) -> int:
    """Returns how many epochs there were, once the numbers beside it make sense."""
    count = _parse_whole("Epochs", epochs, least, MOST_EPOCHS)
    _parse_whole("Best Epoch", best_epoch, least, count)
    if not 0 <= _parse_score("Seconds", seconds) < math.inf:
        raise ValueError(f"Seconds: expected a number from 0, got {seconds[:40]!r}")
    return count


def _parse_scores(status: str, columns: Columns, texts: Sequence[str]) -> list[float]:
    """Returns a row's scores, the validation loss first."""
    if status not in STATUSES:
        raise ValueError(f"Status: {status[:40]!r} is none of {', '.join(STATUSES)}")
    required = (columns.valid_loss, columns.headline) if status == "ok" else ()
    scores = [  # pandas writes nothing for NaN
        _parse_score(column, text if column in required else text or "nan")
        for column, text in zip(columns.scores(), texts, strict=True)
    ]
    if math.isfinite(scores[0]) != STATUSES[status]:
        raise ValueError(f"Status {status} and {columns.valid_loss} don't fit")
    return scores


def _parse_score(column: str, text: str) -> float:
    with contextlib.suppress(ValueError):
        score = float(text)
        if not LARGEST < abs(score) < math.inf:
            return score
    raise ValueError(f"{column}: expected a number as training reports it, got {text[:40]!r}")


def _without_repetitions(path: Path, table: Table) -> Table:
    """Returns each (setting, seed) once; where two rows differ, neither can be trusted."""
    setting = np.unique(table.numbers(), return_inverse=True)[1]
    seed = np.unique(table.seeds, return_inverse=True)[1]
    keys = setting * len(seed) + seed
    _, first, place = np.unique(keys, return_index=True, return_inverse=True)
    first = first[place]  # of the rows with the same setting and seed: (rows,)
    scores = np.nan_to_num(table.scores, nan=-math.inf)
    differ = np.flatnonzero((scores != scores[:, first]).any(axis=0))
    if len(differ):
        lines = [line for line, _ in _numbered_rows(path)]
        raise InputError(
            f"{path}, line {lines[differ[0]]}: expected each setting and seed once, but "
            f"line {lines[first[differ[0]]]} has them with other scores; remove one of the two"
        )
    return table.where(first == np.arange(len(first)))


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
