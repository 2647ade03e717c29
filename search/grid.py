"""Which settings a search trains: the grid, its random order, and hyperparams.txt."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from training.setting import Setting, parse_value
from utils import InputError, total

Grid = Mapping[str, Sequence[float]]

_BLOCK = 2**16  # positions that are shuffled at a time


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
