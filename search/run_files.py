"""How the files of a run are called."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from data.files import InputError

_LONGEST_NAME = 200  # bytes: file systems take 255, and endings come to it


class RunFiles(NamedTuple):
    """The files of one run: its rows, how they come about, its best model."""

    csv: Path
    json: Path
    model: Path

    @classmethod
    def named(
        cls, results: Path, models: Path, signature: str, emotion: str | None, run_id: str
    ) -> RunFiles:
        """Returns the files of the run that these words name, in these folders.

        Raises:
            InputError: The name is too long.
        """
        name = "_".join(filter(None, (signature, emotion, run_id)))
        if len(os.fsencode(name)) > _LONGEST_NAME:
            raise InputError(
                f"--signiture and --run_id: expected at most {_LONGEST_NAME} bytes together, as "
                f"they become part of file names, got {len(os.fsencode(name))}"
            )
        return cls.of(results / f"results_{name}.csv", models)

    @classmethod
    def of(cls, csv: Path, models: Path) -> RunFiles:
        """Returns the files that belong to a CSV, given the folder of the models."""
        name = csv.stem.removeprefix("results_")
        return cls(csv, csv.with_suffix(".json"), models / f"model_{name}.pt")
