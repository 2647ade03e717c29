"""What is printed: a terminal, a pipe or a disk that can't take it ends no search."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

import pytest
from conftest import Options

import train_mosi
from search.options import run_script
from utils import InputError


def full() -> TextIO:
    return open("/dev/full", "w")


def without_reader() -> TextIO:
    reader, writer = os.pipe()
    os.close(reader)
    return open(writer, "w")


def closed() -> TextIO:
    stream = io.StringIO()
    stream.close()
    return stream


def ascii_only() -> TextIO:
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii")


BAD = pytest.mark.parametrize("make", [full, without_reader, closed, ascii_only, lambda: None])


@BAD
def test_a_search_goes_on_where_nothing_can_be_printed(
    make: Callable[[], TextIO | None], options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    streams = make(), make()
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    path = train_mosi.main({**options, "settings": 2, "repeats": 2, "verbose": True})
    assert (sys.stdout, sys.stderr) == streams
    assert path.read_text().count("\n") == 5
    if isinstance(streams[0], io.TextIOWrapper) and streams[0].encoding == "ascii":
        streams[0].seek(0)
        assert r" \xb1" in streams[0].read()
    for stream in streams:
        if stream:
            stream.close()  # nothing is left in it that can't be written


@pytest.mark.parametrize(
    ("redirection", "status", "errors"),
    [
        ("{script} {flags} <&- >&- 2>&-", 0, ""),
        ("{script} {flags} >/dev/full 2>/dev/full", 0, ""),
        ("{script} {flags} | head -n 1; exit ${{PIPESTATUS[0]}}", 0, ""),
        ("{script} --help >/dev/full", 1, "can't be written: No space left on device"),
        ("{script} --epochs 0 >/dev/full 2>&-", 2, ""),
    ],
)
@pytest.mark.slow
def test_a_script_may_be_started_without_an_output(
    redirection: str, status: int, errors: str, options: Options, tmp_path: Path
) -> None:
    options |= {"settings": 1, "grid": "rank=1"}
    flags = " ".join(f"--{name} '{value}'" for name, value in options.items())
    script = f"'{sys.executable}' '{train_mosi.__file__}'"
    line = redirection.format(script=script, flags=flags)
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, timeout=100)
    assert done.returncode == status
    assert errors in done.stderr
    assert done.stderr.count("\n") == bool(errors)
    if not status:
        assert (tmp_path / "results" / "results_mosi_1.csv").read_text().count("\n") == 2


def failing(error: BaseException) -> Callable[[], None]:
    def main() -> None:
        print("some lines")
        raise error

    return main


@pytest.mark.parametrize(
    ("make", "main", "status", "line"),
    [
        (full, lambda: print("some lines"), 1, "the output can't be written: No space left"),
        (without_reader, lambda: print("some lines"), 1, None),
        (full, failing(SystemExit(0)), 1, "the output can't be written: No space left"),
        (full, failing(InputError("expected this")), 2, "expected this"),
        (full, failing(KeyboardInterrupt()), 130, None),
        (io.StringIO, failing(SystemExit(3)), 3, None),
        (io.StringIO, failing(InputError("two\nlines \x1b[0m")), 2, r"two lines \x1b[0m"),
    ],
)
def test_another_script_says_in_one_line_that_its_output_was_lost(
    make: Callable[[], TextIO],
    main: Callable[[], object],
    status: int,
    line: str | None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stream = make()
    monkeypatch.setattr(sys, "stdout", stream)
    monkeypatch.setattr(sys, "argv", ["report.py"])
    with pytest.raises(SystemExit) as caught:
        run_script(main)
    assert caught.value.code == status
    printed = capsys.readouterr().err
    assert printed.startswith(f"report.py: {line}") if line else printed == ""
    assert printed.count("\n") == bool(line)
    stream.close()


def test_a_run_id_of_any_bytes_is_a_file_name(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    options |= {"settings": 1, "run_id": os.fsdecode(b"\xff\x1b[31m")}
    path = train_mosi.main(options)
    assert os.fsencode(path.name) == b"results_mosi_\xff\x1b[31m.csv"
    assert r"results_mosi_\udcff\x1b[31m.csv" in capsys.readouterr().out
    assert train_mosi.main(options) == path
    assert "nothing is left to train" in capsys.readouterr().out
