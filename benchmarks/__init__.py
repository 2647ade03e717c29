"""Measurements: each file is a script, `python benchmarks/NAME.py`, from any folder."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from data.files import write_atomically


def write_csv(path: Path, rows: Iterable[Sequence[object]]) -> None:
    """Writes a table, its header first."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    write_atomically(path, lambda part: part.write_text(text.getvalue(), encoding="utf-8"))
