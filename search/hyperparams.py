"""Reads hyperparams.txt: settings with names, a table per data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from data.corpora import CORPORA
from data.files import InputError, open_regular
from training.setting import Setting, parse_value

HYPERPARAMS_FILE = Path(__file__).parent.parent / "hyperparams.txt"
_LARGEST = 2**24  # bytes


def read_hyperparams(path: Path, data_set: str, names: Sequence[str] = ()) -> dict[str, Setting]:
    """Returns the settings that a file like hyperparams.txt lists for a data set, by name.

    The file has a table per data set: a line with its name, such as [pom], a line of column names
    (name, then the hyperparameters in the order of the CSV files), a line per setting. From # on
    a line is comment.

    Args:
        path: The file.
        data_set: Whose table.
        names: Only the settings of these names (IEMOCAP: the emotions); all if empty.

    Raises:
        InputError: A line is not understood, or there is no such setting.
    """
    tables: dict[str, dict[str, Setting]] = {}
    table: dict[str, Setting] | None = None
    columns, headed = ["name", *Setting._fields], False
    for number, line in enumerate(_lines(path), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        try:
            if words[0].startswith("["):
                table, headed = _new_table(words, tables, data_set), False
            elif table is None:
                raise InputError("expected a table's name, such as [pom], before anything else")
            elif headed:
                _add_row(words, table)
            elif words != columns:
                raise InputError(f"expected the columns {' '.join(columns)}; got {' '.join(words)}")
            else:
                headed = True
        except InputError as error:
            raise InputError(f"{path}, line {number}: {error}") from None
    found = tables.get(data_set, {})
    missing = [name for name in names if name not in found]
    if missing or not found:
        raise InputError(
            f"{path}: expected a setting for {' and '.join(missing) or data_set}, got none; "
            f"add a row to its table [{data_set}]"
        )
    return {name: found[name] for name in names or found}


def _lines(path: Path) -> list[str]:
    with open_regular(path, "expected a text file of settings, got none") as file:
        content = file.read(_LARGEST + 1)
    try:
        lines = content.decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: expected a text file of settings, got: {error}") from None
    if len(content) > _LARGEST:
        raise InputError(f"{path}: expected a file of settings of at most {_LARGEST:,} bytes")
    return lines


def _new_table(
    words: list[str], tables: dict[str, dict[str, Setting]], data_set: str
) -> dict[str, Setting]:
    name, names = words[0].strip("[]"), dict.fromkeys((*CORPORA, data_set))
    if words != [f"[{name}]"] or name not in names:
        known = ", ".join(f"[{name}]" for name in names)
        raise InputError(f"expected one of {known}, got {' '.join(words)!r}")
    if name in tables:
        raise InputError(f"expected one table per data set, got [{name}] again")
    return tables.setdefault(name, {})


def _add_row(words: list[str], table: dict[str, Setting]) -> None:
    name, *texts = words
    if len(texts) != len(Setting._fields):
        raise InputError(
            f"expected a name and {len(Setting._fields)} values, got {len(words)} words"
        )
    setting = Setting._make(map(parse_value, Setting._fields, texts))
    if name in table:
        raise InputError(f"expected each name once in a table, got {name!r} again")
    table[name] = setting
