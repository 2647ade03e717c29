"""Put results beside the paper's: its table 2, the rank study of its figure 4, what a search says.

python report.py                          # all of results/, into results/report.md
python report.py results/results_mosi_1.csv --output_path /tmp/mosi
python report.py --best_grid results/results_mosi_1.csv   # the best setting, for --grid
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from data.corpora import CORPORA
from data.files import InputError, make_folder, printable, write_atomically
from reporting.runs import Experiments, read_run, read_runs
from reporting.sections import best_grid, report
from search.options import Parser, run_script


def main(words: Sequence[str] | None = None) -> None:
    """Writes and prints the report that the command line's flags, or a list of words, ask for.

    What can't be read is left out, and named.
    """
    options = _flags().parse_args(words)
    if options.best_grid:
        print(best_grid(read_run(options.best_grid, experiments())))
        return
    runs, left_out = read_runs(options.results, experiments())
    if not runs:
        raise InputError(
            "; ".join(left_out)
            or f"{' '.join(map(str, options.results))}: expected results_*.csv with rows in them, "
            "got none; train first, for example: python train_mosi.py --settings 10"
        )
    make_folder(options.output_path)
    text = report(runs, left_out, options.model_path, options.output_path)
    path = options.output_path / "report.md"
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
    print(text)
    for why in left_out:
        print(f"left out: {printable(why)}")
    print(f"report: {printable(str(path))}")


def experiments() -> Experiments:
    """Returns the experiment of each data set, from its train script."""
    return {name: import_module(f"train_{name}").EXPERIMENT for name in CORPORA}


def _flags() -> argparse.ArgumentParser:
    flags = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument(
        "results",
        nargs="*",
        type=Path,
        default=[Path("results")],
        help="results_*.csv, or folders of them (default: results)",
    )
    flags.add_argument(
        "--model_path", type=Path, default=Path("models"), help="folder of the trained models"
    )
    flags.add_argument(
        "--output_path",
        type=Path,
        default=Path("results"),
        help="folder for report.md and its figures (default: results)",
    )
    flags.add_argument(
        "--best_grid",
        type=Path,
        metavar="CSV",
        help="only print the best setting by validation, without its rank, as --grid takes it",
    )
    return flags


if __name__ == "__main__":
    run_script(main)
