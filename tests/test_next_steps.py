"""The commands that are advised: they run as printed, from where the user is."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, Options, run_line
from test_search import command, rows

import train_mosi
from data.kinds import script
from search.next_steps import with_settings
from utils import InputError, load_mosi


def advised(output: str) -> dict[str, str]:
    """Returns the commands at the end of a search's output, by what they are for."""
    return {
        line[:9].strip(" :"): line[9:]
        for line in output.splitlines()
        if line.startswith(("report:  ", "predict: ", "go on:   "))
    }


@pytest.mark.slow
def test_what_a_search_advises_runs_as_printed(
    options: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options |= {"output_path": "its results", "model_path": "it's", "settings": 2, "run_id": "a b"}
    monkeypatch.chdir(tmp_path)

    def run(line: str) -> str:
        assert shlex.split(line)[0] == sys.executable
        run_line(line)
        output, errors = capsys.readouterr()
        assert errors == ""
        return output

    done = subprocess.run(command("mosi", options), capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    commands = advised(done.stdout)
    assert list(commands) == ["report", "predict", "go on"]
    assert "report: its results/report.md" in run(commands["report"])
    assert "predictions: its results/predictions.csv" in run(commands["predict"])
    assert "2 of 4 are done" in run(commands["go on"])
    assert len(rows(tmp_path / "its results" / "results_mosi_a b.csv")) == 4


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["--settings", "24"]),
        (["--settings", "12", "--cuda"], ["--cuda", "--settings", "24"]),
        (["--grid", "rank=1", "--settings=12"], ["--grid", "rank=1", "--settings", "24"]),
    ],
)
def test_a_command_line_gets_another_number_of_settings(
    words: list[str], expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["a folder/train_mosi.py", *words])
    found = shlex.split(with_settings(words, 24))
    assert found == [sys.orig_argv[0], "a folder/train_mosi.py", *expected]


def test_from_another_folder_missing_data_are_made_where_they_are_looked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    assert script("train_mosi.py") == "train_mosi.py"
    monkeypatch.chdir(tmp_path)
    prepare = ["python", str(ROOT / "data" / "prepare.py"), "synthetic", "mosi"]
    for folder, flags in (("./data", []), ("my data", ["--output_path", "my data"])):
        with pytest.raises(InputError) as caught:
            load_mosi(folder)
        line = str(caught.value).partition("synthetic data: ")[2]
        assert shlex.split(line) == [*prepare, *flags]


def test_a_search_that_was_called_by_a_program_advises_no_command_line(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    train_mosi.main(options)
    assert list(advised(capsys.readouterr().out)) == ["report", "predict"]


def test_a_search_without_a_bound_says_so(
    options: Options, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("search.search._FORESEEABLE", 1)
    grid = [f"{name}=0" for name in ("audio_dropout", "video_dropout", "text_dropout")]
    options["grid"] = [
        *grid, "audio_hidden=3", "video_hidden=3", "text_hidden=6", "rank=1,2", "batch_size=8",
        "learning_rate=0.01", "factor_learning_rate=0.01", "weight_decay=0",
    ]  # fmt: skip
    train_mosi.main({**options, "settings": 2})
    assert "this has no end in practice" not in capsys.readouterr().out
    train_mosi.main({**options, "settings": None, "run_id": 2})
    assert "this has no end in practice: Ctrl-C ends it" in capsys.readouterr().out
