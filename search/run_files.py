"""How the files of a run are called."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple


class RunFiles(NamedTuple):
    """The files of one run: its rows, how they come about, its best model."""

    csv: Path
    json: Path
    model: Path

    @classmethod
    def named(cls, name: str, results: Path, models: Path) -> RunFiles:
        """Returns the files of the run of this name in these folders."""
        return cls.of(results / f"results_{name}.csv", models)

    @classmethod
    def of(cls, csv: Path, models: Path) -> RunFiles:
        """Returns the files that belong to a CSV, given the folder of the models."""
        name = csv.stem.removeprefix("results_")
        return cls(csv, csv.with_suffix(".json"), models / f"model_{name}.pt")
