"""benchmarks/: flags that make no sense, and what costs.py counts."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
from written_results import SETTING, make_rows, read, write_results

from benchmarks import costs, efficiency, throughput
from data.files import InputError
from search.grid import Settings, shuffled
from train_mosi import GRID

ROOT = Path(__file__).parent.parent
SCRIPTS = {"costs": costs, "efficiency": efficiency, "throughput": throughput}
BAD_FLAGS = [
    ("costs", "--rows 1", "--rows: expected a whole number"),
    ("costs", "memory --settings none", "--settings: expected a whole number"),
    ("costs", "growth", "PART: expected one of start, memory, resume, soak, cluster"),
    ("efficiency", "--seconds inf", "--seconds: expected a number above 0"),
    ("efficiency", "--batch_sizes 1", "--batch_sizes: expected a whole number"),
    ("throughput", "--settings 17", "--settings: expected a whole number"),
]


@pytest.mark.parametrize(("script", "words", "message"), BAD_FLAGS)
def test_bad_flags_are_refused(script: str, words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SCRIPTS[script].main(words.split())


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_run_from_any_folder_and_say_bad_flags_in_one_line(
    tmp_path: Path, script: str
) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--unknown"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.count("\n"), run.stdout) == (2, 1, "")
    assert run.stderr.startswith(f"{script}.py: unrecognized arguments: --unknown")


def test_rows_that_are_appended_are_the_searchs_next_ones(tmp_path: Path) -> None:
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", make_rows("mosi", [SETTING], 1))
    path.with_suffix(".json").write_text(
        path.with_suffix(".json").read_text().replace('"epochs"', '"seed": 7, "epochs"')
    )
    costs.append_rows(path, 20)
    settings = Settings(GRID)
    drawn = [settings[position] for position in next(iter(shuffled(len(settings), 7)))[:20]]
    assert list(read(path).rows) == [SETTING, *drawn[1:]]


def test_processes_are_sampled_with_their_descendants() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", "print('started', flush=True); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with child:
        assert child.stdout
        child.stdout.readline()
        found = costs.sample(os.getpid(), 5)
        child.communicate(b"\n")
    assert found.settings == 5
    assert {f"driver {os.getpid()}", f"helper {child.pid}"} <= found.held.keys()
    for held in found.held.values():
        assert all(value > 0 for value in held.values())


def test_run_knows_its_peak_and_its_rate() -> None:
    lines = [(1.0, "results: x"), *((2.0 + i, f"{i}/3  valid 0.5") for i in range(3))]
    held = [{"a": {"MB": 1.0}, "b": {"MB": 2.0}}, {"a": {"MB": 2.5}}]
    run = costs.Run(9.0, lines, [costs.Sample(i, one) for i, one in enumerate(held)])
    assert (run.peak, run.hourly) == (3.0, 3600.0)


def test_costs_are_written_also_if_a_later_part_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> list[costs.Cost]:
        raise InputError("no")

    parts = {"start": lambda *_: [costs.Cost("start", "a, b", 1.25, "s")], "soak": fails}
    monkeypatch.setattr(costs, "PARTS", parts)
    with pytest.raises(InputError):
        costs.main(["--output_path", str(tmp_path / "new")])
    with (tmp_path / "new" / "costs.csv").open(newline="") as file:
        assert list(csv.reader(file)) == [list(costs.Cost._fields), ["start", "a, b", "1.250", "s"]]
