"""Markdown, and the one place where text of other files is escaped for it."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from urllib.parse import quote

from data.files import printable

_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;"}
_SPECIAL = re.compile(r"[&<>\\`*\[\]|$~#!]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")

Row = tuple[str, list[str]]  # a label and the cells after it


def markdown(text: str) -> str:
    """Returns any text, such as a file's name, as Markdown in one line that shows just it."""
    return _SPECIAL.sub(lambda found: _ENTITIES.get(found[0], f"\\{found[0]}"), printable(text))


def table(header: Sequence[str], rows: Iterable[Row]) -> str:
    """Returns a table of cells that are Markdown already."""
    lines = [
        header,
        ["---", *["---:"] * (len(header) - 1)],
        *([label, *cells] for label, cells in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def image(text: str, path: Path) -> str:
    """Returns an image that lies beside the report, or a link to it where it is a PDF."""
    link = f"[{markdown(text)}]({quote(os.fsencode(path.name))})"
    return link if path.suffix == ".pdf" else f"!{link}"
