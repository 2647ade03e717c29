"""The command line that the three train scripts share."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib.util
import os
import re
import sys
import textwrap
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import torch

from data.files import InputError, printable
from model import MODALITIES
from search.hyperparams import HYPERPARAMS_FILE
from search.output import OutputError, checked_output, open_standard_streams
from search.signals import ending_at_signals

_LARGEST_SEED = 2**63 - 1  # as seeds are kept
_REPEATS = 1000
_PILOTS = 10
LEFT_OUT: dict[str, Any] = {"nargs": "+", "action": "extend", "choices": MODALITIES}  # --without


class _Help(argparse.RawDescriptionHelpFormatter):
    """Fills prose to the terminal's width, and leaves commands as they are.

    Each flag's help gets its least value, where that is above 1, and its default.
    """

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = []
        for part in re.split(r"\n(?=\n|- |    |python |make )", text.strip()):
            if not part.startswith(("    ", "python ", "make ")):
                blank, hanging = "\n" * part.startswith("\n"), "  " * part.startswith("- ")
                part = blank + textwrap.fill(
                    " ".join(part.split()), width, subsequent_indent=hanging
                )
            lines.append(part)
        return "\n".join(lines)

    def _get_help_string(self, action: argparse.Action) -> str:
        text, default = action.help or "", action.default
        bounds = action.type.keywords if isinstance(action.type, partial) else {}
        if (least := bounds.get("least", 1)) > 1:
            text += f", at least {least}"
        if default is False or default in (None, argparse.SUPPRESS):
            return text
        words = default if isinstance(default, (list, tuple)) else [default]
        return f"{text} (default: {' '.join(map(str, words))})".replace("%", "%%")


class Parser(argparse.ArgumentParser):
    """The flags of a script: what is wrong with them is told in one line, as all bad input is."""

    def __init__(self, **rest: Any) -> None:
        super().__init__(**{"formatter_class": _Help, "allow_abbrev": False, **rest})

    def error(self, message: str) -> NoReturn:
        """Raises InputError, in place of printing the usage and exiting."""
        if message.startswith("unrecognized arguments: "):
            for word in message.split():
                name, known = word.partition("=")[0], self._option_string_actions
                if name.startswith("-") and (close := difflib.get_close_matches(name, known, 1)):
                    raise InputError(f"{message}; did you mean {close[0]}?")
        raise InputError(message)


def whole_between(least: int, most: int) -> Callable[[str], int]:
    """Returns what reads a whole number of these bounds, for argparse."""
    return partial(_whole, least=least, most=most)


def _whole(text: str, least: int, most: int) -> int:
    if re.fullmatch(r"\s*[0-9]{1,20}\s*", text) and least <= int(text) <= most:
        return int(text)
    raise argparse.ArgumentTypeError(
        f"expected a whole number from {least} to {most:,}, got {text!r}"
    )


whole = whole_between(1, 10**9)


def folder(text: str) -> Path:
    """Returns a folder's path, for argparse: "" is the mark of a variable that was not set."""
    if not text:
        raise argparse.ArgumentTypeError("expected a folder, got ''; a dot stands for this one")
    return Path(text)


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


def parser(description: str | None, name: str, epochs: int, output_dim: int | None) -> Parser:
    """Returns the flags that all train scripts have, with one data set's defaults.

    The outputs are None where the data say how many there are.
    """
    flags = Parser(description=description)
    add = flags.add_argument_group("files").add_argument
    add("--data_path", type=folder, default="./data", help="folder of the pickles")
    add("--model_path", type=folder, default="./models", help="folder for trained models")
    add("--output_path", type=folder, default="./results", help="folder for the result files")
    add("--run_id", type=_name, default="1", help="keeps runs' files apart")
    signature = "a comment that goes into the file names"
    add("--signiture", "--signature", type=_name, default=name, help=signature)

    add = flags.add_argument_group("training").add_argument
    add("--epochs", type=whole, default=epochs, help="most epochs per setting")
    patience = "epochs without a better validation loss before a setting stops"
    add("--patience", type=whole, default=20, help=patience)
    add("--output_dim", type=whole, default=output_dim, help="outputs of the model")
    max_len = "sequence length: longer ones are cut, shorter ones padded (default: the file's)"
    add("--max_len", type=whole_between(1, 10_000), help=max_len)
    without = "leave a modality, or two, out: with its subnetwork and factor (default: none)"
    add("--without", **LEFT_OUT, help=without)
    seed = whole_between(0, _LARGEST_SEED)
    add("--seed", type=seed, default=0, help="of the draws and the training")

    add = flags.add_argument_group("search").add_argument
    settings = "how many settings to train (default: all)"
    add("--settings", type=whole_between(1, 10**8), help=settings)
    grid = "values of some hyperparameters, in place of the released grid's (default: those)"
    add("--grid", nargs="+", metavar="NAME=VALUE[,VALUE...]", help=grid)
    listed = "train the settings that a file lists (default: no; without FILE: hyperparams.txt)"
    file = str(HYPERPARAMS_FILE)
    add("--hyperparams", nargs="?", const=file, metavar="FILE", help=listed)
    repeats = whole_between(1, _REPEATS)
    add("--repeats", type=repeats, default=1, help="seeds per setting: seed, seed + 1, ...")

    prune = "stop settings early that are behind the first ones, the pilots (default: no)"
    add("--prune", action="store_true", help=prune)
    pilots = f"with --prune: how many settings the others are held against (default: {_PILOTS})"
    add("--pilots", type=whole_between(1, 1000), help=pilots)

    add = flags.add_argument_group("machine").add_argument
    switch = {"nargs": "?", "const": True, "default": False, "metavar": "True|False"}
    add("--cuda", type=_switch, **switch, help="train on the GPUs (default: False)")
    jobs = "worker processes, or tasks on the cluster (default: one per core, or per GPU)"
    add("--jobs", type=whole_between(1, 100_000), help=jobs)
    cluster = (
        "train on a Ray cluster: the running one, one started here, or that of an address "
        "(default: no)"
    )
    add("--cluster", type=_address, metavar="auto|local|ray://HOST:PORT", help=cluster)
    stack = "settings that a worker trains together; 1: the reference path (default: by size)"
    add("--stack", type=whole_between(1, 10_000), help=stack)
    add("--verbose", action="store_true", help="print every epoch (default: no)")
    return flags


def left_out(chosen: Collection[str] | None) -> list[str]:
    """Returns the modalities that --without names, in the order of all.

    Raises:
        InputError: It names all of them.
    """
    modalities = [modality for modality in MODALITIES if modality in (chosen or ())]
    if len(modalities) == len(MODALITIES):
        raise InputError("--without: expected a modality to stay, got all three")
    return modalities


def read_options(flags: Parser, options: Mapping[str, object] | None) -> argparse.Namespace:
    """Returns the options of the command line, or those of a dict of flags.

    Raises:
        InputError: A flag is unknown or its value makes no sense.
    """
    words = None if options is None else list(_words(options))
    read = flags.parse_args(words)
    read.words = sys.argv[1:] if words is None else None  # of the command line
    read.without = left_out(read.without)
    if read.grid and read.hyperparams is not None:
        raise InputError("--grid and --hyperparams: expected one of them, got both")
    if read.prune and read.hyperparams is not None:
        raise InputError("--prune and --hyperparams: expected one of them, got both")
    if read.pilots and not read.prune:
        raise InputError("--pilots: expected --prune too, which is what pilots are for")
    read.pilots = (read.pilots or _PILOTS) if read.prune else 0
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
        if isinstance(value, Mapping):  # a grid
            yield from (f"{key}={','.join(map(str, values))}" for key, values in value.items())
        elif isinstance(value, (list, tuple)):
            yield from map(str, value)
        elif isinstance(value, bytes):
            yield os.fsdecode(value)
        elif isinstance(value, int) and abs(value) >= 2**64:
            raise InputError(f"--{name}: expected a smaller number, got one of over 20 digits")
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
