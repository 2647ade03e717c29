"""The command line that the three train scripts share."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from data.files import InputError, printable
from search.hyperparams import HYPERPARAMS_FILE
from search.output import OutputError, checked_output, open_standard_streams
from search.signals import ending_at_signals

_LARGEST_SEED = 2**63 - 1  # as seeds are kept
_REPEATS = 1000


class _Help(argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        help_ = action.help or ""
        default = action.default
        if default is None or default is False or default == argparse.SUPPRESS:
            return help_
        return f"{help_} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """The flags of a script: what is wrong with them is told in one line, as all bad input is."""

    def __init__(
        self,
        *,
        formatter_class: type[argparse.HelpFormatter] = _Help,
        allow_abbrev: bool = False,
        **rest: Any,
    ) -> None:
        super().__init__(formatter_class=formatter_class, allow_abbrev=allow_abbrev, **rest)

    def parse_args(
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> argparse.Namespace:
        """Returns what the words, or those of the command line, say."""
        options, unknown = self.parse_known_args(args, namespace or argparse.Namespace())
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}{self._meant(unknown)}")
        return options

    def _meant(self, unknown: Sequence[str]) -> str:
        names = [word.partition("=")[0] for word in unknown if word.startswith("-")]
        for name in names:
            known = difflib.get_close_matches(name, self._option_string_actions, 1)
            if known:
                return f"; did you mean {known[0]}?"
        return ""

    def error(self, message: str) -> NoReturn:
        """Raises InputError, in place of printing the usage and exiting."""
        raise InputError(message)


def whole_between(least: int, most: int) -> Callable[[str], int]:
    """Returns what reads a whole number of these bounds, for argparse."""

    def read(text: str) -> int:
        digits = text.strip()
        if digits.isdecimal() and len(digits) <= 20 and least <= int(digits) <= most:
            return int(digits)
        raise argparse.ArgumentTypeError(
            f"expected a whole number from {least} to {most:,}, got {text!r}"
        )

    return read


whole = whole_between(1, 10**9)


def _switch(text: str) -> bool:
    if text.lower() not in ("true", "false"):
        raise argparse.ArgumentTypeError(f"expected True or False, got {text!r}")
    return text.lower() == "true"


def _name(text: str) -> str:
    if not text or set(text) & set("/\\\0") or text.startswith("."):
        raise argparse.ArgumentTypeError(f"expected a part of a file name, got {text!r}")
    return text


def _address(text: str) -> str:
    if text not in ("auto", "local") and not re.fullmatch(r"ray://[^/\s]+:\d+", text):
        raise argparse.ArgumentTypeError(f"expected auto, local or ray://HOST:PORT, got {text!r}")
    return text


def parser(description: str | None, name: str, epochs: int, output_dim: int) -> Parser:
    """Returns the flags that all three scripts have, with one data set's defaults.

    Args:
        description: Of the script.
        name: Of the data set; it is put into the file names.
        epochs: Default of --epochs.
        output_dim: Default of --output_dim.
    """
    flags = Parser(description=description)
    group = flags.add_argument_group("files")
    group.add_argument("--data_path", default="./data", help="folder of the pickles")
    group.add_argument("--model_path", default="./models", help="folder for trained models")
    group.add_argument("--output_path", default="./results", help="folder for the result files")
    group.add_argument("--run_id", type=_name, default="1", help="keeps runs' files apart")
    group.add_argument(
        "--signiture",
        "--signature",
        type=_name,
        default=name,
        help="a comment that goes into the file names",
    )
    group = flags.add_argument_group("training")
    group.add_argument("--epochs", type=whole, default=epochs, help="most epochs per setting")
    group.add_argument(
        "--patience",
        type=whole,
        default=20,
        help="epochs without a better validation loss before a setting stops",
    )
    group.add_argument("--output_dim", type=whole, default=output_dim, help="outputs of the model")
    group.add_argument(
        "--max_len",
        type=whole_between(1, 10_000),
        help="sequence length: longer ones are cut, shorter ones padded (default: the file's)",
    )
    group.add_argument(
        "--seed",
        type=whole_between(0, _LARGEST_SEED),
        default=0,
        help="of the draws and the training",
    )
    group = flags.add_argument_group("search")
    group.add_argument(
        "--settings",
        type=whole_between(1, 10**8),
        help="how many settings to train (default: all)",
    )
    group.add_argument(
        "--grid",
        nargs="+",
        metavar="NAME=VALUE[,VALUE...]",
        help="values of some hyperparameters, in place of the released grid's (default: those)",
    )
    group.add_argument(
        "--hyperparams",
        nargs="?",
        const=str(HYPERPARAMS_FILE),
        metavar="FILE",
        help="train the settings that a file lists (default: no; without FILE: hyperparams.txt)",
    )
    group.add_argument(
        "--repeats",
        type=whole_between(1, _REPEATS),
        default=1,
        help="seeds per setting: seed, seed + 1, ...",
    )
    group = flags.add_argument_group("machine")
    group.add_argument(
        "--cuda",
        type=_switch,
        nargs="?",
        const=True,
        default=False,
        metavar="True|False",
        help="train on the GPUs (default: False)",
    )
    group.add_argument(
        "--jobs",
        type=whole_between(1, 100_000),
        help="worker processes, or tasks on the cluster (default: one per core, or per GPU)",
    )
    group.add_argument(
        "--cluster",
        type=_address,
        metavar="auto|local|ray://HOST:PORT",
        help="train on a Ray cluster: the running one, one started here, or that of an address "
        "(default: no)",
    )
    group.add_argument(
        "--stack",
        type=whole_between(1, 10_000),
        help="settings that a worker trains together; 1: the reference path (default: by size)",
    )
    group.add_argument("--verbose", action="store_true", help="print every epoch (default: no)")
    return flags


def read_options(flags: Parser, options: Mapping[str, object] | None) -> argparse.Namespace:
    """Returns the options of the command line, or those of a dict of flags.

    Raises:
        InputError: A flag is unknown or its value makes no sense.
    """
    words = None if options is None else list(_words(options))
    read = flags.parse_args(words)
    if read.grid and read.hyperparams:
        raise InputError("--grid and --hyperparams: expected one of them, got both")
    if read.seed + read.repeats - 1 > _LARGEST_SEED:
        raise InputError(
            f"--seed: expected at most {_LARGEST_SEED - read.repeats + 1} with --repeats "
            f"{read.repeats}, got {read.seed}"
        )
    if read.cluster and not importlib.util.find_spec("ray"):
        raise InputError(
            "--cluster: expected Ray, which is not installed; "
            "python -m pip install -r requirements-cluster.txt"
        )
    if read.cuda and not read.cluster:
        check_cuda()
    try:
        os.getcwd()
    except OSError as error:
        raise InputError(
            f"expected a working directory, from which workers can start, got none "
            f"({error.strerror}); change to a folder that exists"
        ) from None
    return read


def check_cuda() -> None:
    """Raises InputError where torch can use no GPU."""
    if not torch.cuda.is_available():
        raise InputError(
            "--cuda: expected a GPU that torch can use, found none; "
            "leave --cuda out, or install a CUDA build of torch and its driver"
        )


def _words(options: Mapping[str, object]) -> Iterator[str]:
    for name, value in options.items():
        if value is None or (value is False and name != "cuda"):
            continue
        yield f"--{name}"
        if isinstance(value, (list, tuple)):
            yield from map(str, value)
        elif value is not True:
            yield str(value)


def run_script(main: Callable[[], object]) -> None:
    """Runs a script's main; bad input ends it with one line and exit status 2."""
    open_standard_streams()
    status = 0
    with checked_output(drops=False):
        try:
            _run_and_flush(main)
        except InputError as error:
            _complain(str(error))
            status = 2
        except OutputError as error:
            if error.errno != errno.EPIPE:  # its reader wanted no more, as `head` does
                _complain(f"the output can't be written: {error.strerror}; free space there")
            status = 1
        except KeyboardInterrupt:
            status = 130
    if status:
        sys.exit(status)


def _run_and_flush(main: Callable[[], object]) -> None:
    try:
        with ending_at_signals():
            main()
    except SystemExit:
        sys.stdout.flush()
        raise
    sys.stdout.flush()


def _complain(message: str) -> None:
    line = printable(" ".join(message.split()))
    print(f"{Path(sys.argv[0]).name}: {line}", file=sys.stderr)
