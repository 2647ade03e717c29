"""The Makefile: the commands of a target agree on the data they make and read, and the results."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
STUB = """#!/bin/sh
echo "$@" >> "$(dirname "$0")/log"
case "$*" in *--best_grid*) echo audio_hidden=4 rank=8 batch_size=16;; esac
"""

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def make(*words: str) -> subprocess.CompletedProcess[str]:
    kept = {"PATH", "HOME", "TMPDIR", "LANG"}  # not the flags of a make that runs the tests
    return subprocess.run(
        ["make", "-C", str(ROOT), *words],
        env={name: value for name, value in os.environ.items() if name in kept},
        capture_output=True,
        text=True,
    )


def put_stub(folder: Path, fails: str = "nothing") -> Path:
    """Returns a program in Python's place, which fails where it is given such a word."""
    folder.mkdir(parents=True)
    python = folder / "python"
    python.write_text(f'{STUB}case "$*" in *{fails}*) exit 1;; esac\n')
    python.chmod(0o755)
    return python


def commands(folder: Path, *words: str) -> list[str]:
    """Returns what make ran in the place of Python."""
    python = put_stub(folder / "venv" / "bin")
    for ready in ("ready", "ready-dev"):
        (folder / "venv" / ready).touch()
    run = make(f"VENV={folder / 'venv'}", *words)
    assert run.returncode == 0, run.stderr
    return (python.parent / "log").read_text().splitlines()


@pytest.mark.parametrize("way", ["DATA={}", "FLAGS=--data_path {}", "FLAGS=--data_path={}"])
@pytest.mark.parametrize("target", ["train", "gpu"])
def test_data_are_made_where_they_are_read(target: str, way: str, tmp_path: Path) -> None:
    data = tmp_path / "x"
    data.mkdir()
    (data / "pom.pkl").touch()  # is no data of MOSI's
    *_, made, used = commands(tmp_path, target, way.format(data))
    assert made == f"data/prepare.py synthetic mosi --output_path {data}"
    assert f"--data_path {data}" in used
    (data / "mosi.pkl").touch()
    shutil.rmtree(tmp_path / "venv")
    assert "prepare.py" not in " ".join(commands(tmp_path, target, way.format(data)))


@pytest.mark.parametrize("failing", ["test_gpu.py", "steps.py", "throughput.py"])
def test_make_gpu_runs_its_parts_whatever_becomes_of_the_others_and_fails(
    failing: str, tmp_path: Path
) -> None:
    (tmp_path / "mosi.pkl").touch()
    python = put_stub(tmp_path / "bin", failing)
    run = make("gpu", f"PYTHON={python}", f"DATA={tmp_path}", f"VENV={tmp_path / 'venv'}")
    ran = [line.split() for line in (python.parent / "log").read_text().splitlines()]
    assert run.returncode == 2
    assert [words[0] for words in ran] == ["-m", "benchmarks/steps.py", "benchmarks/throughput.py"]
    assert not (tmp_path / "venv").exists()  # another Python is taken as it is


def test_make_paper_trains_what_is_there_and_reports_it(tmp_path: Path) -> None:
    (tmp_path / "mosi.pkl").touch()
    (tmp_path / "iemocap.pkl").touch()
    ran = commands(tmp_path, "paper", f"DATA={tmp_path}", "SETTINGS=9", "SEEDS=2")
    iemocap, search, best, rank, efficiency, report = ran
    data = f"--data_path {tmp_path}"
    assert iemocap == (
        f"train_iemocap.py {data} --hyperparams --repeats 2 --emotion all --signiture iemocap_paper"
    )
    assert search == f"train_mosi.py {data} --settings 9 --signiture mosi_search"
    assert best == "report.py --best_grid results/results_mosi_search_1.csv"
    assert rank == (
        f"train_mosi.py {data} --repeats 2 --signiture mosi_rank "
        "--grid rank=1,2,4,8,16,32 audio_hidden=4 batch_size=16"
    )
    assert efficiency == "benchmarks/efficiency.py --output_path results"
    runs = ("iemocap_paper_*", "mosi_search", "mosi_rank")
    assert report == (
        f"report.py {' '.join(f'results/results_{run}_1.csv' for run in runs)} "
        "--model_path models --output_path results"
    )


def test_make_paper_reports_its_own_runs_alone(tmp_path: Path) -> None:
    (tmp_path / "iemocap.pkl").touch()
    for name in ("iemocap_paper_sad_1", "iemocap_paper_happy_1", "iemocap_paper_sad_2", "mosi_1"):
        (tmp_path / f"results_{name}.csv").touch()
    *_, report = commands(tmp_path, "paper", f"DATA={tmp_path}", f"FLAGS=--output_path {tmp_path}")
    paths = [word for word in report.split() if word.endswith(".csv")]
    assert sorted(paths) == [
        f"{tmp_path}/results_iemocap_paper_{emotion}_1.csv" for emotion in ("happy", "sad")
    ]


def test_make_paper_without_data_says_so_and_runs_nothing(tmp_path: Path) -> None:
    (tmp_path / "ready").touch()
    run = make("paper", f"DATA={tmp_path}", f"VENV={tmp_path}", "PYTHON=false")
    assert run.returncode == 2
    assert f"expected iemocap.pkl mosi.pkl pom.pkl in {tmp_path}, or one of them" in run.stderr
    assert "efficiency.py" not in run.stdout


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("mosi", "--grid audio_hidden=4 rank=8 batch_size=16"),
        ("pom", "--hyperparams"),
        ("iemocap", "--hyperparams"),
    ],
)
def test_make_ablation_trains_every_combination_of_modalities_once(
    name: str, given: str, tmp_path: Path
) -> None:
    ran = commands(tmp_path, "ablation", f"NAME={name}", "SEEDS=2", "FLAGS=--run_id 7")
    *_, report = ran
    trained = [line for line in ran if f"{name}_ablation" in line]
    emotion = " --emotion all" if name == "iemocap" else ""
    command = f"train_{name}.py --data_path data --repeats 2{emotion} --run_id 7 --signiture"
    seen = set()
    for line in trained:
        signature, _, rest = line.removeprefix(f"{command} {name}_ablation").partition(f" {given}")
        assert signature == rest.replace(" --without ", "_").replace("_", "_without_", 1)
        seen.add(signature)
    assert len(trained) == len(seen) == 7
    assert len(ran) == 7 + (3 if name == "mosi" else 1)  # a search, its best setting, the report
    assert report == "report.py results --model_path models --output_path results"


@pytest.mark.parametrize("between", [" ", "="])
def test_make_paper_follows_the_flags_to_its_results(between: str, tmp_path: Path) -> None:
    (tmp_path / "mosi.pkl").touch()
    flags = {"output_path": "out", "model_path": "kept", "run_id": "7", "signiture": "mine"}
    words = " ".join(f"--{name}{between}{value}" for name, value in flags.items())
    _, best, rank, efficiency, report = commands(
        tmp_path, "paper", f"FLAGS={words}", f"DATA={tmp_path}"
    )
    assert best == "report.py --best_grid out/results_mosi_search_7.csv"
    assert rank.split(" --signiture ")[-1].startswith("mosi_rank ")  # the last one holds
    assert efficiency == "benchmarks/efficiency.py --output_path out"
    assert report == (
        "report.py out/results_mosi_search_7.csv out/results_mosi_rank_7.csv "
        "--model_path kept --output_path out"
    )
