"""Reads results_*.csv back, also as other programs save it: columns, rows, the best settings."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, NoReturn, TextIO, TypeVar

import numpy as np

from search.columns import STATUSES, Columns
from training.setting import Setting, parse_value
from utils import InputError

_ENCODING = "utf-8-sig"  # a spreadsheet may have put a byte order mark in front
_BLOCK = 256  # rows that are parsed at a time: more fall out of the processor's cache
Parsed = TypeVar("Parsed")


class Table(NamedTuple):
    """The rows of a CSV as arrays, each (setting, seed) once: a million of them take 70 MB.

    Attributes:
        values: Each hyperparameter's values, in the order in which the file first has them.
        places: Where each row's values stand in `values`.
        seeds: Each row's seed.
        scores: The columns that were asked for; NaN where a setting diverged or failed.

    Shape:
        places are (hyperparameters, rows), seeds (rows,), scores (columns, rows).
    """

    values: list[list[float]]
    places: np.ndarray
    seeds: np.ndarray
    scores: np.ndarray

    def rows(self) -> Iterator[tuple[Setting, int, tuple[float, ...]]]:
        """Yields each row's setting, seed and scores."""
        for place, seed, scores in zip(self.places.T, self.seeds, self.scores.T, strict=True):
            setting = map(list.__getitem__, self.values, place)
            yield Setting._make(setting), int(seed), tuple(scores.tolist())

    def where(self, chosen: np.ndarray) -> Table:
        """Returns the rows of a mask: (rows,)."""
        return Table(
            self.values, self.places[:, chosen], self.seeds[chosen], self.scores[:, chosen]
        )

    def numbers(self) -> np.ndarray:
        """Returns a number for each row, the same for the same setting only: (rows,)."""
        sizes = [max(1, len(known)) for known in self.values]
        if math.prod(sizes) < 2**63:
            return np.asarray(np.ravel_multi_index(tuple(self.places), sizes))
        return np.unique(self.places, axis=1, return_inverse=True)[1].reshape(-1)


def first_line(path: Path) -> list[str]:
    """Returns the fields of a CSV's first line; none if it is no CSV.

    Raises:
        InputError: The file can't be read.
    """
    try:
        with path.open(newline="", encoding=_ENCODING, errors="replace") as file:
            return next(csv.reader([file.readline()]), [])
    except csv.Error:
        return []
    except OSError as error:
        raise InputError(f"{path}: can't be read: {error.strerror}") from None


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
            f"missing: {_some(missing)}; unknown: {_some(extra)}; name another file, or choose "
            "another --run_id"
        )
    return header


def read_table(path: Path, header: Sequence[str], scores: Sequence[str]) -> Table:
    """Returns a CSV's rows; a last line without an end is left out.

    Args:
        path: The CSV.
        header: Its columns.
        scores: Which columns to read beside the setting and the seed, the validation loss first.

    Raises:
        InputError: A line is not understood, or contradicts another; it is named.
    """
    parser = _Parser(header, scores)
    numbered = _numbered_rows(path)
    while block := list(islice(numbered, _BLOCK)):
        try:
            parser.parse([fields for _, fields in block])
        except ValueError:
            _refuse(path, _Parser(header, scores), block)
    return _without_repetitions(path, parser.table())


def _numbered_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of each row's first line, and its fields; blank ones are left out."""
    line = 1
    with path.open(newline="", encoding=_ENCODING, errors="replace") as file:
        lines = csv.reader(chain.from_iterable(_whole_lines(file)), strict=True)
        try:
            next(lines, None)
            line = lines.line_num + 1
            for fields in lines:
                if any(fields):
                    yield line, fields
                line = lines.line_num + 1
        except csv.Error as error:
            raise InputError(
                f"{path}, line {line}: expected a row of CSV ({error}); mend or remove the line"
            ) from None


def _whole_lines(file: TextIO) -> Iterator[list[str]]:
    while lines := file.readlines(2**20):
        if not lines[-1].endswith(("\n", "\r")):
            lines.pop()
        yield lines


class _Codes(dict[str, int]):
    """Numbers the texts of a column by their values, in the order in which these come up."""

    def __init__(self, parse: Callable[[str], float]) -> None:
        self.parse = parse
        self.known: dict[float, int] = {}

    def __missing__(self, text: str) -> int:
        self[text] = code = self.known.setdefault(self.parse(text), len(self.known))
        return code


class _Parser:
    """Parses rows column by column: a million rows in few steps of Python each."""

    def __init__(self, header: Sequence[str], scores: Sequence[str]) -> None:
        self.header = header
        self.codes = {name: _Codes(partial(parse_value, name)) for name in Setting._fields}
        self.places = {name: array("i") for name in Setting._fields}
        self.seeds = array("q")
        self.scores = {column: array("d") for column in scores}
        self.valid_loss = scores[0]

    def parse(self, rows: Sequence[Sequence[str]]) -> None:
        """Takes in some rows.

        Raises:
            ValueError: One of them is not understood; if it is the only one, this says why.
        """
        texts = list(zip(*rows, strict=True))
        if len(texts) != len(self.header):
            raise ValueError(f"{len(texts)} values")
        columns = dict(zip(self.header, texts, strict=True))
        for name, codes in self.codes.items():
            self.places[name].fromlist(list(map(codes.__getitem__, columns[name])))
        self.seeds.fromlist(_parsed("Seed", _seed, columns["Seed"]))
        trained = _parsed("Status", STATUSES.__getitem__, columns["Status"])
        for column, scores in self.scores.items():
            texts = columns[column]
            if "" in texts:  # pandas writes nothing for nan
                pairs = zip(texts, trained, strict=True)
                texts = [text if text or ok else "nan" for text, ok in pairs]
            scores.fromlist(_parsed(column, float, texts))
        if list(map(math.isfinite, self.scores[self.valid_loss][-len(rows) :])) != trained:
            raise ValueError(f"Status {columns['Status'][0]} and {self.valid_loss} don't fit")

    def table(self) -> Table:
        """Returns all rows that were taken in."""
        return Table(
            [list(codes.known) for codes in self.codes.values()],
            np.array(list(self.places.values())),
            np.array(self.seeds),
            np.array(list(self.scores.values())),
        )


def _seed(text: str) -> int:
    seed = int(text)
    if abs(seed) >= 2**63:
        raise ValueError(f"expected fewer digits, got {text!r}")
    return seed


def _parsed(column: str, parse: Callable[[str], Parsed], texts: Sequence[str]) -> list[Parsed]:
    try:
        return list(map(parse, texts))
    except (KeyError, ValueError) as error:
        raise ValueError(f"{column}: {error}") from None


def _refuse(path: Path, parser: _Parser, block: list[tuple[int, list[str]]]) -> NoReturn:
    for line, fields in block:
        try:
            parser.parse([fields])
        except ValueError as error:
            raise InputError(
                f"{path}, line {line}: expected a row of {len(parser.header)} values as the train "
                f"scripts write them, got {','.join(fields)[:60]!r} ({error}); mend or remove the "
                "line"
            ) from None
    raise AssertionError("one of them is not understood")


def _without_repetitions(path: Path, table: Table) -> Table:
    """Returns each (setting, seed) once; where two rows differ, neither can be trusted."""
    if not len(table.seeds):
        return table
    numbers = table.numbers()
    order = np.lexsort((table.seeds, numbers))
    before, after = order[:-1], order[1:]
    again = (numbers[before] == numbers[after]) & (table.seeds[before] == table.seeds[after])
    if not again.any():
        return table
    before, after = before[again], after[again]
    scores = np.nan_to_num(table.scores, nan=-math.inf)
    differ = np.flatnonzero((scores[:, before] != scores[:, after]).any(axis=0))
    if len(differ):
        lines = [line for line, _ in _numbered_rows(path)]
        raise InputError(
            f"{path}, line {lines[after[differ[0]]]}: expected each setting and seed once, but "
            f"line {lines[before[differ[0]]]} has them with other scores; remove one of the two"
        )
    once = np.ones(len(order), dtype=bool)
    once[after] = False
    return table.where(once)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return (", ".join(names[:5]) or "none") + more
