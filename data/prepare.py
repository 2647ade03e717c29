"""Make, inspect, convert or verify the pickles that the train scripts read.

python data/prepare.py synthetic mosi
python data/prepare.py inspect mosi_data.pkl
python data/prepare.py convert mosi_data.pkl --to mosi
python data/prepare.py verify
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this is run as a script

from data.conversion import convert, write_pickle
from data.corpora import CORPORA
from data.files import InputError, printable
from data.formats import read
from data.inspection import as_json, inspect, table, verify
from data.synthetic import synthetic
from search.options import Parser, run_script

FOLDER = Path("./data")  # where the train scripts look, too

Commands = argparse._SubParsersAction


def main(words: Sequence[str] | None = None) -> None:
    """Runs a subcommand of the command line, or of a list of words."""
    flags = Parser(
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    commands = flags.add_subparsers(required=True, metavar="COMMAND")
    for add in (_add_synthetic, _add_inspect, _add_convert, _add_verify):
        add(commands)
    options = flags.parse_args(words)
    options.run(options)


def _add_synthetic(commands: Commands) -> None:
    command = commands.add_parser(
        "synthetic",
        help="make synthetic data sets",
        description="Make synthetic data sets of the official layout and sizes. They are random "
        "numbers with a planted interaction of the three modalities: they show that the scripts "
        "work, and say nothing about any corpus.",
    )
    _add_names(command)
    command.add_argument("--output_path", type=Path, default=FOLDER, help="default: ./data")
    command.add_argument("--seed", type=_seed, default=0, help="of the numbers (default: 0)")
    _add_force(command)
    command.set_defaults(run=run_synthetic)


def _add_inspect(commands: Commands) -> None:
    command = commands.add_parser(
        "inspect",
        help="show what data files hold, and which script can use them",
        description="Show the layout, arrays, NaN and infinite values, padding, constant columns "
        "and labels of data files, and which train script can use them or how to convert them.",
    )
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="or folder of .h5")
    command.add_argument("--json", action="store_true", help="print JSON in place of tables")
    command.set_defaults(run=run_inspect)


def _add_verify(commands: Commands) -> None:
    command = commands.add_parser(
        "verify",
        help="compare a folder's files with the official ones",
        description="Compare sizes and checksums with the official pickles', and try whether the "
        "train scripts can use what else is there. Exit status 1 if anything is wrong.",
    )
    command.add_argument("folder", nargs="?", type=Path, default=FOLDER, help="default: ./data")
    command.set_defaults(run=run_verify)


def _add_convert(commands: Commands) -> None:
    command = commands.add_parser(
        "convert",
        help="convert another layout to the train scripts'",
        description="Convert a pickle of MulT, MultiBench or MMSA, MFN's folder of .h5 files, or "
        "named arrays (.npz, or a folder of .npy) to the layout that the train scripts read.",
    )
    command.add_argument("source", type=Path, metavar="FILE_OR_DIR")
    command.add_argument("--to", required=True, choices=list(CORPORA), help="the data set")
    command.add_argument("-o", "--output_path", type=Path, default=FOLDER, help="default: ./data")
    command.add_argument(
        "--average",
        choices=("all", "words"),
        default="all",
        help="audio and video: over all steps, padding included as in the release, or over the "
        "words alone (default: all)",
    )
    command.add_argument(
        "--scale",
        choices=("none", "max"),
        default="none",
        help="max: divide each audio and video feature by its largest magnitude in train",
    )
    _add_force(command)
    command.set_defaults(run=run_convert)


def _add_names(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        help=f"{', '.join(CORPORA)} (default: all)",
    )


def _add_force(command: argparse.ArgumentParser) -> None:
    command.add_argument("--force", action="store_true", help="replace files that exist")


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


def _targets(options: argparse.Namespace) -> dict[str, Path]:
    """Returns the files to write, of which none exists unless --force is given."""
    names = list(dict.fromkeys(options.names or CORPORA))
    for name in names:
        if name not in CORPORA:
            raise InputError(f"expected {', '.join(CORPORA)}, got {name!r}")
    targets = {name: options.output_path / f"{name}.pkl" for name in names}
    for target in targets.values():
        _refuse_existing(target, options.force)
    return targets


def _refuse_existing(target: Path, force: bool) -> None:
    if target.exists() and not force:
        raise InputError(f"{target}: expected no such file yet, but it exists; --force replaces it")


def run_synthetic(options: argparse.Namespace) -> None:
    """Writes the synthetic data sets that the options name."""
    for name, target in _targets(options).items():
        corpus = CORPORA[name]
        write_pickle(target, synthetic(corpus, options.seed))
        print(f"{target}: synthetic, {' / '.join(map(str, corpus.examples))} examples")


def run_inspect(options: argparse.Namespace) -> None:
    """Prints what the files hold; a file that can't be read ends it, after the others."""
    reports, errors = [], []
    for path in options.files:
        try:
            reports.append(inspect(read(path)))
            if not options.json:
                print(table(reports[-1]), end="\n\n")
        except InputError as error:
            errors.append(str(error))
    if options.json:
        print(json.dumps([as_json(report) for report in reports], indent=1))
    if errors:
        raise InputError("; ".join(errors))


def run_verify(options: argparse.Namespace) -> None:
    """Prints a verdict on each file of a folder, and exits with 1 if one is wrong."""
    verdicts = list(verify(options.folder))
    for verdict in verdicts:
        text = f"{'ok   ' if verdict.right else 'WRONG'} {verdict.path}: {verdict.text}"
        print(printable(text))
    if not all(verdict.right for verdict in verdicts):
        sys.exit(1)


def run_convert(options: argparse.Namespace) -> None:
    """Writes one data set, made from another layout."""
    target = options.output_path / f"{options.to}.pkl"
    _refuse_existing(target, options.force)
    found, corpus = read(options.source), CORPORA[options.to]
    data, notes = convert(found, corpus, options.average, options.scale)
    write_pickle(target, data)
    print("\n".join(map(printable, [*notes, f"{target}: train_{options.to}.py can use it"])))


if __name__ == "__main__":
    run_script(main)
