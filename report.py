"""Put results beside the paper's: its table 2, the rank study of its figure 4, what a search says.

python report.py                          # all of results/, into results/report.md
python report.py results/results_mosi_1.csv --output_path /tmp/mosi
python report.py --best_grid results/results_mosi_1.csv   # the best setting, for --grid
"""

from __future__ import annotations

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from data.corpora import CORPORA
from data.files import InputError, make_folder, printable, write_atomically
from data.kinds import command
from reporting.figures import FORMATS
from reporting.runs import Experiments, read_run, read_runs
from reporting.sections import best_grid, report
from search.options import Parser, folder, run_script


def main(words: Sequence[str] | None = None) -> None:
    """Writes and prints the report that the command line's flags, or a list of words, ask for.

    What can't be read is left out, and named.
    """
    options = _flags().parse_args(words)
    if options.best_grid:
        print(best_grid(read_run(options.best_grid, experiments())))
        return
    results = options.results or [Path("results")]
    runs, left_out = read_runs(results, experiments())
    if not runs:
        raise InputError(
            "; ".join(left_out)
            or f"{' '.join(map(str, results))}: expected results_*.csv with rows in them, "
            f"got none; train first, for example: {command('train_mosi.py')} --settings 10"
        )
    make_folder(options.output_path)
    text = report(runs, left_out, options.model_path, options.output_path, options.format)
    path = options.output_path / "report.md"
    write_atomically(path, lambda part: part.write_text(text, encoding="utf-8"))
    print(text)
    for why in left_out:
        print(f"left out: {printable(why)}")
    print(f"report: {printable(str(path))}")


def experiments() -> Experiments:
    """Returns the experiment of each data set, from its train script."""
    return {name: import_module(f"train_{name}").EXPERIMENT for name in CORPORA}


def _flags() -> Parser:
    flags = Parser(description=__doc__)
    add = flags.add_argument
    add(
        "results", nargs="*", type=Path, help="results_*.csv, or folders of them (default: results)"
    )
    add("--model_path", type=folder, default=Path("models"), help="folder of the trained models")
    add("--output_path", type=folder, default=Path("results"), help="folder for report.md, figures")
    add("--format", choices=FORMATS, default=FORMATS[0], help="of the figures")
    add(
        "--best_grid",
        type=Path,
        metavar="CSV",
        help="only print the best setting by validation, as --grid takes it",
    )
    return flags


if __name__ == "__main__":
    run_script(main)
