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

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

from data.conversion import Choices, convert, train_command, write_pickle
from data.corpora import CORPORA, OWN
from data.files import InputError, printable
from data.formats import read
from data.inspection import as_json, inspect, table, verify
from data.synthetic import marked, synthetic
from search.options import LEFT_OUT, Parser, folder, left_out, run_script, whole_between

FOLDER = Path("./data")  # where the train scripts look, too


def main(words: Sequence[str] | None = None) -> None:
    """Runs a subcommand of the command line, or of a list of words."""
    options = _flags().parse_args(words)
    options.run(options)


def _flags() -> Parser:
    flags = Parser(description=__doc__)
    commands = flags.add_subparsers(required=True, metavar="COMMAND")

    command = commands.add_parser(
        "synthetic",
        help="make synthetic data sets",
        description="Make synthetic data sets of the official layout and sizes. They are random\n"
        "numbers with a planted interaction of the three modalities: they show that\n"
        "the scripts work, and say nothing about any corpus.",
    )
    names = f"{', '.join(CORPORA)} (default: all)"
    command.add_argument("names", nargs="*", metavar="NAME", help=names)
    command.add_argument("--output_path", type=folder, default=FOLDER, help="folder to write to")
    seed = whole_between(0, 2**63 - 1)
    command.add_argument("--seed", type=seed, default=0, help="of the numbers")
    command.add_argument("--force", action="store_true", help="replace files that exist")
    command.set_defaults(run=run_synthetic)

    command = commands.add_parser(
        "inspect",
        help="show what data files hold, and which script can use them",
        description="Show the layout, arrays, NaN and infinite values, padding, constant columns\n"
        "and labels of data files, and which script can use them or how to convert them.",
    )
    command.add_argument("files", nargs="+", type=Path, metavar="FILE", help="or folder")
    command.add_argument("--json", action="store_true", help="print JSON in place of tables")
    command.set_defaults(run=run_inspect)

    command = commands.add_parser(
        "convert",
        help="convert another layout to the train scripts'",
        description="Convert pickles of MulT, MultiBench, MMSA, MISA or MAG-BERT, MFN's folder of\n"
        ".h5 files, or named arrays (.npz, .pt, a folder of .npy or .pkl) to the layout that\n"
        "the train scripts read.",
    )
    command.add_argument("source", type=Path, metavar="FILE_OR_DIR")
    to = "the data set; own: one with labels of your own (docs/own-data.md)"
    command.add_argument("--to", required=True, choices=[*CORPORA, OWN.name], help=to)
    command.add_argument(
        "-o", "--output_path", type=folder, default=FOLDER, help="folder to write to"
    )
    command.add_argument(
        "--average",
        choices=("all", "words"),
        default="all",
        help="audio and video: over all steps, padding included as in the release, or over the "
        "words alone",
    )
    command.add_argument(
        "--scale",
        choices=("none", "max"),
        default="none",
        help="max: divide each audio and video feature by its largest magnitude in train",
    )
    command.add_argument(
        "--embedding",
        type=Path,
        metavar="FILE",
        help="word vectors, as glove.840B.300d.txt, for texts that are words (MISA, MAG-BERT)",
    )
    without = "a modality, or two, that the file lacks or is to lose"
    command.add_argument("--without", **LEFT_OUT, help=without)
    command.add_argument("--force", action="store_true", help="replace files that exist")
    command.set_defaults(run=run_convert)

    command = commands.add_parser(
        "verify",
        help="compare a folder's files with the official ones",
        description="Compare sizes and checksums with the official pickles', and try whether the\n"
        "train scripts can use what else is there. Exit status 1 if anything is wrong.",
    )
    command.add_argument("folder", nargs="?", type=folder, default=FOLDER, help="of the files")
    command.set_defaults(run=run_verify)
    return flags


def _target(name: str, options: argparse.Namespace) -> Path:
    """Returns the file to write, which doesn't exist unless --force is given."""
    target = options.output_path / f"{name}.pkl"
    if target.exists() and not options.force:
        raise InputError(f"{target}: expected no such file yet, but it exists; --force replaces it")
    return target


def run_synthetic(options: argparse.Namespace) -> None:
    """Writes the synthetic data sets that the options name."""
    if unknown := set(options.names) - set(CORPORA):
        raise InputError(f"expected {', '.join(CORPORA)}, got {min(unknown)!r}")
    targets = {name: _target(name, options) for name in options.names or CORPORA}
    for name, target in targets.items():
        corpus = CORPORA[name]
        write_pickle(target, marked(synthetic(corpus, options.seed)))
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
    target = _target(options.to, options)
    found, corpus = read(options.source), CORPORA.get(options.to, OWN)
    without = tuple(left_out(options.without))
    choices = Choices(options.average, options.scale, options.embedding, without)
    data, notes = convert(found, corpus, choices)
    write_pickle(target, data)
    train = train_command(corpus, target.parent, without)
    print("\n".join(map(printable, [*notes, f"{target}: written; now: {train}"])))


if __name__ == "__main__":
    run_script(main)
