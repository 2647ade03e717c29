"""benchmarks/: flags that make no sense, and what costs.py counts."""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from conftest import ROOT, Options, table
from test_search import words
from written_results import SETTING, make_rows, read, write_results

import train_mosi
from benchmarks import costs, efficiency, pruning, steps, throughput
from data.files import InputError
from search.grid import Settings, shuffled
from search.pruning import RULE
from train_mosi import GRID
from training.result import Limits

SCRIPTS = {
    **{"costs": costs, "efficiency": efficiency, "pruning": pruning},
    **{"steps": steps, "throughput": throughput},
}
BAD_FLAGS = [
    ("costs", "--rows 1", "--rows: expected a whole number"),
    ("costs", "memory --settings none", "--settings: expected a whole number"),
    ("costs", "growth", "PART: expected one of start, memory, resume, soak, cluster"),
    ("efficiency", "--seconds inf", "--seconds: expected a number above 0"),
    ("efficiency", "--batch_sizes 1", "--batch_sizes: expected a whole number"),
    ("pruning", "--rule 5", "--rule: expected EPOCH:QUANTILE"),
    ("pruning", "--rule 5:0.5,9:2", "--rule: expected EPOCH:QUANTILE"),
    ("pruning", "--pilots 150", "--pilots: expected fewer than --settings, got 150"),
    ("pruning", "--settings 5", "--pilots: expected fewer than --settings, got 10 with 5;"),
    ("pruning", "growth", "PART: expected replay or clock, got growth"),
    ("steps", "--members 0", "--members: expected a whole number"),
    ("throughput", "--settings 17", "--settings: expected a whole number"),
    ("throughput", "--release_settings 5", "--release_settings: expected a whole number"),
]


@pytest.mark.parametrize(("script", "words", "message"), BAD_FLAGS)
def test_bad_flags_are_refused(script: str, words: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        SCRIPTS[script].main(words.split())


@pytest.mark.parametrize(
    ("script", "least"),
    [("throughput", "fast path, at least 18 (default: 288)"), ("efficiency", "a step, at least 2")],
)
def test_the_help_says_least_values(
    script: str, least: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        SCRIPTS[script].main(["--help"])
    assert least in " ".join(capsys.readouterr().out.split())


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS)
def test_scripts_run_from_any_folder_and_say_bad_flags_in_one_line(
    tmp_path: Path, script: str
) -> None:
    command = [sys.executable, str(ROOT / "benchmarks" / f"{script}.py"), "--unknown"]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (run.returncode, run.stderr.count("\n"), run.stdout) == (2, 1, "")
    assert run.stderr.startswith(f"{script}.py: unrecognized arguments: --unknown")


def test_pruning_is_replayed_as_the_search_prunes(options: Options, tmp_path: Path) -> None:
    own = {"settings": 8, "epochs": 7, "patience": 20, "seed": 3, "pilots": 4}
    results = pruning.train(argparse.Namespace(**options | own), train_mosi.EXPERIMENT)
    limits = Limits(7, 20)
    rows = table(train_mosi.main({**options, **own, "prune": True}))
    trained = [row for row in rows if row["Status"] == "ok"]
    replayed = pruning.replay(results, limits, RULE, 4)
    assert replayed.epochs == sum(int(row["Epochs"]) for row in rows) < 8 * 7
    best = min(float(row["Best Validation MAE"]) for row in trained)
    assert replayed.best == pytest.approx(best, rel=1e-5)
    assert pruning.replay(results, limits, (), 4).epochs == 8 * 7


def test_pruning_is_measured_by_replay_and_by_the_clock(options: Options, tmp_path: Path) -> None:
    flags = {"settings": 6, "epochs": 7, "pilots": 3, "orders": 5, "rule": ["5:0.5", "2:1,5:0.1"]}
    kept = {name: options[name] for name in ("data_path", "output_path", "grid", "jobs")}
    pruning.main(words({**kept, **flags}))
    replay, clock = (
        table(tmp_path / "results" / f"pruning_mosi_{part}.csv") for part in pruning.PARTS
    )
    assert [(row["rule"], row["orders"]) for row in replay] == [("5:0.5", "5"), ("2:1,5:0.1", "5")]
    assert all(50 < float(row["share of epochs"].rstrip("%")) <= 100 for row in replay)
    assert [(row["search"], row["settings"]) for row in clock] == [
        ("in full", "6"),
        ("--prune", "6"),
    ]
    assert clock[0]["share of seconds"] == "100.0%"


def test_throughput_writes_the_row_of_each_way_as_soon_as_it_is_measured(
    options: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = tmp_path / "throughput.csv"
    seen: list[tuple[int, int, int]] = []

    def measured(*arguments: Any) -> float:
        *_, settings, epochs = arguments
        written = len(path.read_text().splitlines()) - 1 if path.exists() else 0
        seen.append((len(settings), epochs, written))
        return len(settings) * epochs / (9 if arguments[1] == "cpu" else 90)

    monkeypatch.setattr(throughput, "workers", measured)
    monkeypatch.setattr(throughput, "release", measured)
    flags = "--settings 54 --stack 3 2 --epochs 20 --release_settings 6 --release_epochs 2"
    folders = f"--data_path {options['data_path']} --output_path {tmp_path}"
    throughput.main(f"{flags} {folders}".split())
    assert seen == [(54, 20, 0), (36, 20, 1), (6, 2, 2), (6, 2, 3)]
    rows = table(path)
    assert [row["times release"] for row in rows] == ["10.0", "10.0", "1.0", "10.0"]
    assert [row["settings per hour"] for row in rows] == ["16200", "16200", "1620", "16200"]


def test_the_first_settings_of_throughput_cover_batch_sizes_and_widths_equally() -> None:
    for count, each in ((6, (1, 2)), (18, (3, 6)), (36, (6, 12))):
        settings = throughput.sample(count, seed=0)
        for name, times in zip(("batch_size", "text_hidden"), each, strict=True):
            assert set(Counter(getattr(s, name) for s in settings).values()) == {times}


def test_traffic_is_what_operations_read_and_write() -> None:
    x, row, index = torch.ones(10, 4), torch.ones(1, 4), torch.tensor([3, 3, 7])
    operations = {  # and the bytes of each
        lambda: x + 1: 320,
        lambda: x.mul_(2): 320,
        lambda: x.zero_(): 160,
        lambda: x.copy_(row.expand(10, 4)): 160 + 16,
        lambda: torch.add(x, x, out=torch.empty(10, 4)): 3 * 160,
        lambda: x.index_select(0, index): 2 * 48 + 24,
        lambda: x.view(40)[:20]: 0,
    }
    for operation, expected in operations.items():
        with steps.Traffic() as traffic:
            operation()
        assert traffic.bytes == expected


class Event:
    """Takes the place of torch.cuda.Event, on a machine without a GPU."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, end: Event) -> float:
        return 100.0  # ms


def test_steps_are_timed_as_far_as_they_fit_and_profiled(
    options: Options,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    kernels = [
        SimpleNamespace(key=name, count=count, self_device_time_total=time)
        for name, count, time in (("small", 40, 100.0), ("large", 10, 300.0))
    ]
    profiled = SimpleNamespace(key_averages=lambda: kernels)
    for name, value in {
        "is_available": lambda: True,
        "get_device_name": lambda: "a GPU",
        "memory_reserved": lambda: 3e9,
        "synchronize": lambda: None,
        "Event": Event,
    }.items():
        monkeypatch.setattr(torch.cuda, name, value)
    for name, value in {
        "DEVICE": "cpu",
        "COPIED": 2**10,
        "profile": lambda activities: contextlib.nullcontext(profiled),
        "members_that_fit": lambda size, data, outputs: 2 if size.batch_size == 4 else 3,
    }.items():
        monkeypatch.setattr(steps, name, value)
    monkeypatch.setattr(steps, "SIZES", ((64, 4), (64, 7)))
    monkeypatch.setattr(steps, "PROFILED", (64, 7))
    folders = f"--data_path {options['data_path']} --output_path {tmp_path}"
    steps.main(f"--members 2 3 5 {folders}".split())
    rows = table(tmp_path / "steps.csv")
    measured = [(row["batch_size"], row["members"]) for row in rows]
    assert measured == [("4", "2"), ("7", "2"), ("7", "3")]
    assert all(float(row["floor ms"]) > 0 for row in rows)
    assert {row["ms per step"] for row in rows} == {f"{100 / 50:.3f}", f"{100 / 51:.3f}"}
    said = capsys.readouterr().out
    assert "64 | 4 | 3 | does not fit into memory: left out" in said
    assert "a step of 3 members, text_hidden 64, batch_size 7" in said
    assert said.endswith("100.0 | 0.750 | 3.3 | large\n33.3 | 0.250 | 13.3 | small\n")


def test_steps_need_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="expected a GPU that torch can use, found none"):
        steps.main(["--output_path", str(tmp_path)])


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
    lines = [(1.0, "results: x"), *((2.0 + i, f"{i} 0.5000 0.6000   3  1.2s  4") for i in range(3))]
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
