"""Which settings a search trains: the grid, its random order, and hyperparams.txt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import get_type_hints

import numpy as np

from training.reference import Setting
from utils import InputError, total

Grid = Mapping[str, Sequence[float]]

_TYPES = get_type_hints(Setting)
_BLOCK = 2**16  # positions that are shuffled at a time
_MOST = 2**16  # width, rank or batch size


class Settings(Sequence[Setting]):
    """All settings of a grid, made when asked for: nine million of them take no memory."""

    def __init__(self, grid: Grid) -> None:
        self.grid = {name: list(grid[name]) for name in Setting._fields}
        self._places: list[dict[float, int]] = []  # what each value adds to a setting's position
        stride = total(self.grid)
        for values in self.grid.values():
            stride //= len(values)
            self._places.append({value: i * stride for i, value in enumerate(values)})

    def __len__(self) -> int:
        return total(self.grid)

    def __getitem__(self, position: int) -> Setting:
        if not 0 <= position < len(self):
            raise IndexError(position)
        chosen = []
        for values in reversed(self.grid.values()):
            position, digit = divmod(position, len(values))
            chosen.append(values[digit])
        return Setting._make(reversed(chosen))

    def positions(self, values: Sequence[Sequence[float]], places: np.ndarray) -> np.ndarray:
        """Returns the positions of many settings at once: (n,), negative for those not in the grid.

        Args:
            values: What each hyperparameter can be.
            places: Where in `values` each setting's are: (hyperparameters, n).
        """
        found = np.zeros(places.shape[1], dtype=np.int64)
        for place, known, column in zip(self._places, values, places, strict=True):
            steps = [place.get(value, -len(self)) for value in known]
            found += np.array(steps, dtype=np.int64)[column]
        return found


def shuffled(count: int, seed: int) -> Iterator[np.ndarray]:
    """Yields 0 ... count - 1, each once, in a random order, in blocks and without a list of them.

    Source:
        A Feistel network permutes the numbers of 2b bits, four rounds as in Luby, Rackoff, "How to
        construct pseudorandom permutations", 1988; numbers beyond count are passed over.
    """
    bits = max(1, math.ceil((count - 1).bit_length() / 2))
    mask = np.uint64(2**bits - 1)
    for start in range(0, 4**bits, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, 4**bits), dtype=np.uint64)
        left, right = block >> np.uint64(bits), block & mask
        for key in np.random.SeedSequence(seed).generate_state(4, np.uint64):
            left, right = right, left ^ (_mix(right + key) & mask)
        block = left << np.uint64(bits) | right
        yield block[block < count].astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """Returns 64 random-looking bits for each number (SplitMix64's finaliser)."""
    x = (x ^ x >> np.uint64(30)) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ x >> np.uint64(27)) * np.uint64(0x94D049BB133111EB)
    return x ^ x >> np.uint64(31)


def parse_value(name: str, text: str) -> float:
    """Returns a hyperparameter's value.

    Raises:
        InputError: The text is no number, or one that makes no sense for this hyperparameter.
    """
    whole = _TYPES[name] is int
    try:
        value = int(text) if whole else float(f"{float(text):.15g}")  # as it will be printed
    except ValueError:
        value = math.nan
    least = {"text_hidden": 2, "batch_size": 2}.get(name, 1)
    if whole:
        valid, expected = least <= value <= _MOST, f"a whole number from {least} to {_MOST}"
    elif name.endswith("_dropout"):
        valid, expected = 0 <= value < 1, "a number from 0 to below 1"
    elif name == "weight_decay":
        valid, expected = 0 <= value < math.inf, "a number of at least 0"
    else:
        valid, expected = 0 < value < math.inf, "a number above 0"
    if not valid:
        raise InputError(f"{name}: expected {expected}, got {text!r}")
    return value


def narrow(grid: Grid, choices: Iterable[str]) -> dict[str, list[float]]:
    """Returns the grid with the values of some hyperparameters replaced.

    Args:
        grid: All hyperparameters and their values.
        choices: Each NAME=VALUE[,VALUE...], as --grid takes them.

    Raises:
        InputError: A choice is not of this form, or is made twice.
    """
    chosen: dict[str, list[float]] = {}
    for choice in choices:
        name, equals, texts = choice.partition("=")
        if not equals or name not in Setting._fields:
            raise InputError(
                f"--grid: expected NAME=VALUE[,VALUE...] with NAME one of "
                f"{', '.join(Setting._fields)}; got {choice!r}"
            )
        values = [parse_value(name, text) for text in texts.split(",")]
        if name in chosen or len(set(values)) < len(values):
            raise InputError(f"--grid: expected {name}'s values once each, got some twice")
        chosen[name] = values
    return {name: chosen.get(name, list(values)) for name, values in grid.items()}


def read_hyperparams(path: Path, data_set: str, names: Sequence[str] = ()) -> dict[str, Setting]:
    """Returns the settings that a file like hyperparams.txt lists for a data set, by name.

    The file has a table per data set: a line [mosi], [iemocap] or [pom], a line of column names
    (name, then the hyperparameters in the order of the CSV files), a line per setting. From # on
    a line is comment.

    Args:
        path: The file.
        data_set: Whose table.
        names: Only the settings of these names (IEMOCAP: the emotions); all if empty.

    Raises:
        InputError: A line is not understood, or there is no such setting.
    """
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: expected a text file of settings, got: {error}") from None
    tables: dict[str, dict[str, Setting]] = {}
    table: dict[str, Setting] | None = None
    header: list[str] | None = None
    for number, line in enumerate(lines, 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if words[0].startswith("["):
                table, header = _new_table(words, tables), None
            elif table is None:
                raise InputError("expected a table's name, such as [pom], before anything else")
            elif header is None:
                header = _header(words)
            else:
                name, setting = _row(words)
                if name in table:
                    raise InputError(f"expected each name once in a table, got {name!r} again")
                table[name] = setting
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    found = tables.get(data_set, {})
    missing = [name for name in names if name not in found]
    if missing or not found:
        raise InputError(
            f"{path}: expected a setting for {' and '.join(missing) or data_set}, got none"
            f"{' (none was published for MOSI)' if data_set == 'mosi' else ''}; "
            f"add a row to its table [{data_set}]"
        )
    return {name: found[name] for name in names or found}


def _new_table(words: list[str], tables: dict[str, dict[str, Setting]]) -> dict[str, Setting]:
    name = words[0].strip("[]")
    if words != [f"[{name}]"] or name not in ("mosi", "iemocap", "pom"):
        raise InputError(f"expected [mosi], [iemocap] or [pom], got {' '.join(words)!r}")
    if name in tables:
        raise InputError(f"expected one table per data set, got [{name}] again")
    return tables.setdefault(name, {})


def _header(words: list[str]) -> list[str]:
    expected = ["name", *Setting._fields]
    if words != expected:
        raise InputError(f"expected the columns {' '.join(expected)}; got {' '.join(words)}")
    return words


def _row(words: list[str]) -> tuple[str, Setting]:
    if len(words) != 1 + len(Setting._fields):
        raise InputError(
            f"expected a name and {len(Setting._fields)} values, got {len(words)} words"
        )
    pairs = zip(Setting._fields, words[1:], strict=True)
    return words[0], Setting._make(parse_value(name, text) for name, text in pairs)
