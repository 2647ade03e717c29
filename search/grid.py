"""Which settings a search trains: all of a grid, in the random order of a seed."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Iterator, Mapping, Sequence

import numpy as np

from training.randomness import mix
from training.setting import Setting, parse_value
from utils import InputError, total

Grid = Mapping[str, Sequence[float]]

_BLOCK = 2**16  # positions that are shuffled at a time
_PERMUTED = 16  # at most so many are permuted by numpy
_MOST_SETTINGS = 2**120  # the halves of a position are numbers of at most 64 bits


class Settings(Sequence[Setting]):
    """All settings of a grid, made when asked for: nine million of them take no memory.

    Attributes:
        size: How many there are; `len` can't tell from 2**63 on.
    """

    def __init__(self, grid: Grid) -> None:
        self.grid = {name: list(grid[name]) for name in Setting._fields}
        self.size = stride = total(self.grid)
        self._places: list[dict[float, int]] = []  # what each value adds to a setting's position
        for values in self.grid.values():
            stride //= len(values)
            self._places.append({value: i * stride for i, value in enumerate(values)})

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, position: int) -> Setting:
        if not 0 <= position < self.size:
            raise IndexError(position)
        chosen = []
        for values in reversed(self.grid.values()):
            position, digit = divmod(position, len(values))
            chosen.append(values[digit])
        return Setting._make(reversed(chosen))

    def positions(self, values: Sequence[Sequence[float]], places: np.ndarray) -> np.ndarray:
        """Returns the positions of many settings at once: (n,), -1 for those not in the grid.

        Args:
            values: What each hyperparameter can be.
            places: Where in `values` each setting's are: (hyperparameters, n).
        """
        found = np.zeros(places.shape[1], dtype=np.int64 if self.size < 2**63 else object)
        known = np.ones(places.shape[1], dtype=bool)
        for place, of_hyperparameter, column in zip(self._places, values, places, strict=True):
            steps = [place.get(value, -1) for value in of_hyperparameter]
            column = np.array(steps, dtype=found.dtype)[column]
            known &= (column >= 0).astype(bool)
            found = found + column
        return np.where(known, found, -1)


def shuffled(count: int, seed: int) -> Iterator[np.ndarray]:
    """Yields 0 ... count - 1, each once, in a random order, in blocks and without a list of them.

    The blocks are of int64, or of Python's numbers where these are too large for it.

    Source:
        A Feistel network permutes the numbers of 2b bits, four rounds as in Luby, Rackoff, "How to
        construct pseudorandom permutations", 1988; numbers beyond count are passed over. On few
        numbers four rounds are not uniform: these are permuted by numpy.
    """
    if count <= _PERMUTED:
        yield np.random.default_rng(seed).permutation(count)
        return
    bits = math.ceil((count - 1).bit_length() / 2)
    mask = np.uint64(2**bits - 1)
    for start in range(0, 4**bits, _BLOCK):
        block = np.arange(start, min(start + _BLOCK, 4**bits), dtype=np.uint64)
        left, right = block >> np.uint64(bits), block & mask
        for key in np.random.SeedSequence(seed).generate_state(4, np.uint64):
            left, right = right, left ^ (mix(right + key) & mask)
        if count < 2**63:
            block = left << np.uint64(bits) | right
            yield block[block < count].astype(np.int64)
        else:
            block = left.astype(object) << bits | right.astype(object)
            yield block[(block < count).astype(bool)]


def narrow(
    grid: Grid, choices: Sequence[str], without: Collection[str] = ()
) -> dict[str, list[float]]:
    """Returns the grid with the values of some hyperparameters replaced.

    Args:
        grid: All hyperparameters and their values.
        choices: Each NAME=VALUE[,VALUE...], as --grid takes them.
        without: Modalities that are left out: their hyperparameters keep one value, the first.

    Raises:
        InputError: A choice is not of this form, or is made twice; or the grid is too large.
    """
    written = " ".join(choices)
    meant = re.sub(r" *([,=]) *", r"\1", written)
    if meant != written:
        raise InputError(f"--grid: expected no spaces: --grid {meant}; got --grid {written}")
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
    narrowed = {name: chosen.get(name, list(values)) for name, values in grid.items()}
    for name in narrowed:
        if name.partition("_")[0] in without:
            del narrowed[name][1:]
    if total(narrowed) > _MOST_SETTINGS:
        raise InputError(f"--grid: expected at most 2**120 settings, got {total(narrowed):.0e}")
    return narrowed
