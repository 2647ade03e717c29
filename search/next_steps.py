"""The commands that a search advises at its end: each runs as it is printed, where the user is."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from data.corpora import CORPORA
from data.kinds import quoted, script
from search.run_files import RunFiles


def next_steps(data_set: str, options: argparse.Namespace, files: RunFiles) -> Iterator[str]:
    """Yields what to do with results: a line each."""
    python = quoted(sys.orig_argv[0])  # this one: make train's user may not have activated .venv
    results, models = files.csv.parent, files.model.parent
    to_results = _flag("--output_path", results, "results")
    if data_set in CORPORA:  # the others have no row in the report
        where = f" {quoted(results)}" * bool(to_results)
        flags = _flag("--model_path", models, "models") + to_results
        yield f"report:  {python} {script('report.py')}{where}{flags}"
    data = _flag("--data_path", options.data_path, "data")
    yield f"predict: {python} {script('predict.py')} {quoted(files.model)}{data}{to_results}"


def with_settings(words: Sequence[str], count: int) -> str:
    """Returns the command line of this process with another number of settings."""
    kept, skip = [], False
    for word in words:
        if not skip and not re.match("--settings(=|$)", word):
            kept.append(word)
        skip = word == "--settings"
    command = sys.orig_argv[0], sys.argv[0], *kept, "--settings", str(count)
    return " ".join(map(quoted, command))


def _flag(name: str, folder: Path | str, default: str) -> str:
    """Returns a flag as it follows other words, nothing for its default."""
    return "" if Path(folder) == Path(default) else f" {name} {quoted(folder)}"
