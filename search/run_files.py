"""How the files of a run are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from data.files import InputError

_LONGEST_NAME = 200  # bytes: file systems take 255, and endings come to it


def run_name(signature: str, emotion: str | None, run_id: str) -> str:
    """Returns what a run is called in the names of its files.

    Raises:
        InputError: It is too long.
    """
    name = "_".join(filter(None, (signature, emotion, run_id)))
    if len(os.fsencode(name)) > _LONGEST_NAME:
        raise InputError(
            f"--signiture and --run_id: expected at most {_LONGEST_NAME} bytes together, as they "
            f"become part of file names, got {len(os.fsencode(name))}"
        )
    return name


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
