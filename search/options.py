"""The command line that the three train scripts share."""

from __future__ import annotations

import argparse
import importlib.util
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NoReturn

import torch

from search.signals import ending_at_signals
from utils import InputError

HYPERPARAMS_FILE = Path(__file__).parent.parent / "hyperparams.txt"


class Parser(argparse.ArgumentParser):
    """Flags whose errors are one line, as all bad input is."""

    def error(self, message: str) -> NoReturn:
        """Raises InputError, in place of printing the usage and exiting."""
        raise InputError(message)


class _Help(argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str:
        help_ = action.help or ""
        default = action.default
        if default is None or default is False or default == argparse.SUPPRESS:
            return help_
        return f"{help_} (default: %(default)s)"


def whole(text: str) -> int:
    """Returns a whole number of at least 1, for argparse."""
    if not text.strip().isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 1, got {text!r}")
    return int(text)


def _seed(text: str) -> int:
    if not text.strip().isdecimal():
        raise argparse.ArgumentTypeError(f"expected a whole number of at least 0, got {text!r}")
    return int(text)


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


def parser(
    description: str | None, name: str, epochs: int, output_dim: int
) -> argparse.ArgumentParser:
    """Returns the flags that all three scripts have, with one data set's defaults.

    Args:
        description: Of the script.
        name: Of the data set; it is put into the file names.
        epochs: Default of --epochs.
        output_dim: Default of --output_dim.
    """
    flags = Parser(
        description=description,
        formatter_class=_Help,
        allow_abbrev=False,
    )
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
        type=whole,
        help="sequence length: longer ones are cut, shorter ones padded (default: the file's)",
    )
    group.add_argument("--seed", type=_seed, default=0, help="of the draws and the training")
    group = flags.add_argument_group("search")
    group.add_argument(
        "--settings",
        type=whole,
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
        "--repeats", type=whole, default=1, help="seeds per setting: seed, seed + 1, ..."
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
        type=whole,
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
        type=whole,
        help="settings that a worker trains together; 1: the reference path (default: by size)",
    )
    group.add_argument("--verbose", action="store_true", help="print every epoch (default: no)")
    return flags


def read_options(
    flags: argparse.ArgumentParser, options: Mapping[str, object] | None
) -> argparse.Namespace:
    """Returns the options of the command line, or those of a dict of flags.

    Raises:
        InputError: A flag is unknown or its value makes no sense.
    """
    words = None if options is None else list(_words(options))
    read = flags.parse_args(words)
    if read.grid and read.hyperparams:
        raise InputError("--grid and --hyperparams: expected one of them, got both")
    if read.repeats > 1000:
        raise InputError(f"--repeats: expected at most 1000 seeds per setting, got {read.repeats}")
    if read.cluster and not importlib.util.find_spec("ray"):
        raise InputError(
            "--cluster: expected Ray, which is not installed; "
            "python -m pip install -r requirements-cluster.txt"
        )
    if read.cuda and not read.cluster:
        check_cuda()
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
    try:
        with ending_at_signals():
            main()
    except InputError as error:
        message = " ".join(str(error).split())
        print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
