"""data/files.py: nothing hangs, nothing is written through a link, nothing is left half-written."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from data.files import InputError, MissingFile, open_regular, printable, write_atomically


@pytest.mark.parametrize("kind", ["pipe", "folder", "device", "socket", "link to a pipe"])
def test_only_regular_files_are_opened(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "a"
    if kind == "device":
        path = Path("/dev/zero")
    elif kind == "folder":
        path.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as made:
            made.bind(str(path))
    else:
        os.mkfifo(path)
        if kind.startswith("link"):
            path = tmp_path / "link"
            path.symlink_to("a")
    with pytest.raises(InputError, match="expected a file, got a"):
        open_regular(path)


def test_a_file_behind_a_link_is_opened_and_a_missing_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"content")
    (tmp_path / "link").symlink_to("a")
    with open_regular(tmp_path / "link") as file:
        assert file.read() == b"content"
    with pytest.raises(MissingFile, match="none: look elsewhere"):
        open_regular(tmp_path / "none", "look elsewhere")
    for odd in ("a\ud800b", "x" * 300):
        with pytest.raises(InputError):
            open_regular(tmp_path / odd)


def test_a_link_set_while_writing_is_not_taken(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "a"
    victim.write_text("precious")
    path.write_text("before")

    def replaced(part: Path) -> None:
        part.unlink()
        part.symlink_to(victim)

    with pytest.raises(InputError, match="another process is writing it"):
        write_atomically(path, replaced)
    assert (path.read_text(), victim.read_text()) == ("before", "precious")


def test_files_keep_the_modes_that_the_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", lambda part: part.write_text("new"))
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_what_steers_a_terminal_is_escaped_and_the_rest_is_left() -> None:
    assert printable("é 日本 a|b <i> \\x") == "é 日本 a|b <i> \\x"
    assert printable("\x1b]0;x\x07 \x9b2J a\nb\r \udcff \u202e\u2028") == (
        "\\x1b]0;x\\x07 \\x9b2J a\\nb\\r \\udcff \\u202e\\u2028"
    )
