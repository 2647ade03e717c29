"""The three scripts, run as their users run them, on tiny data."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from conftest import GRID, MAINS, ROOT, Options, pickled, table, tiny_arrays

import train_iemocap
import train_mosi
import train_pom
from model import LMF
from search import search
from search.jobs import Trainer
from search.options import run_script
from training.result import Data, Limits
from training.setting import RANGES, Setting
from utils import InputError, load_mosi

Rows = dict[tuple[str, ...], dict[str, str]]  # by setting and seed, without the time they took


def words(options: Options) -> list[str]:
    """Returns a dict of options as the words of a command line."""
    line = []
    for name, value in options.items():
        values = value if isinstance(value, list) else [] if value is True else [value]
        line += [f"--{name}", *map(str, values)]
    return line


def command(data_set: str, options: Options) -> list[str]:
    return [sys.executable, str(ROOT / f"train_{data_set}.py"), *words(options)]


def rows(path: Path) -> Rows:
    """Returns a CSV's rows; none may be there twice, or wrong in itself."""
    listed = table(path)
    found = {}
    for row in listed:
        assert None not in row
        assert None not in row.values()
        del row["Seconds"]
        found[(*(row[name] for name in Setting._fields), row["Seed"])] = row
    assert len(found) == len(listed)
    return found


def written(folder: Path) -> set[str]:
    return {path.name for path in folder.rglob("*") if path.is_file()}


class Reference(NamedTuple):
    """A search as the README writes it, in two processes: its folder, output and rows."""

    folder: Path
    output: str
    rows: Rows


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory, data_path: Path) -> Reference:
    folder = tmp_path_factory.mktemp("reference")
    options: Options = {
        "run_id": 19260817,
        "epochs": 3,
        "patience": 20,
        "output_dim": 1,
        "signiture": "test_run",
        "data_path": data_path,
        "output_path": folder / "new" / "results",
        "model_path": folder / "new" / "models",
        "settings": 5,
        "grid": GRID,
        "jobs": 2,
    }
    done = subprocess.run(
        command("mosi", options), capture_output=True, text=True, timeout=100, cwd=folder
    )
    assert (done.returncode, done.stderr) == (0, "")
    path = folder / "new" / "results" / "results_test_run_19260817.csv"
    return Reference(folder, done.stdout, rows(path))


def test_a_search_from_the_command_line_writes_its_three_files(reference: Reference) -> None:
    folder = reference.folder
    stem = "test_run_19260817"
    assert written(folder) == {f"results_{stem}.csv", f"results_{stem}.json", f"model_{stem}.pt"}
    assert len(reference.rows) == 5
    for row in reference.rows.values():
        assert (row["Status"], row["Seed"], row["Epochs"]) == ("ok", "0", "3")
        assert 1 <= int(row["Best Epoch"]) <= 3
    fixed = json.loads((folder / "new" / "results" / f"results_{stem}.json").read_text())["fixed"]
    assert (fixed["epochs"], fixed["patience"], fixed["output_dim"]) == (3, 20, 1)
    assert (fixed["seed"], fixed["max_len"]) == (0, None)


def shown_best(output: str) -> list[list[str]]:
    """Returns the words of the table of the best settings, its head first."""
    table = output.split("\nthe best settings by validation\n")[1].partition("\n\n")[0]
    return [line.split() for line in table.splitlines()]


def test_a_search_says_what_it_does_and_what_came_of_it(reference: Reference) -> None:
    head, body = re.split(r"\n(?=1 )", reference.output, maxsplit=1)
    assert "mosi: 23/9/11 examples" in head
    assert "cpu, seed 0" in head
    assert f"torch {torch.__version__}" in head
    assert f"5 of {2**6 * 3 * 4 * 4 * 4:,} settings" in head
    for path in ("results/results_test_run_19260817.csv", "models/model_test_run_19260817.pt"):
        assert str(reference.folder / "new" / path) in head
        assert str(reference.folder / "new" / path) in body
    trained = [line.split() for line in body.partition("\n\n")[0].splitlines()]
    assert [count for count, *_ in trained] == list("12345")
    losses = sorted(float(row["Best Validation MAE"]) for row in reference.rows.values())
    _, *best = shown_best(body)
    assert [place for place, *_ in best] == list("12345")
    assert [float(loss) for _, loss, *_ in best] == pytest.approx(losses, abs=6e-5)


def test_the_trained_model_predicts_what_its_row_says(
    reference: Reference, data_path: Path
) -> None:
    path = reference.folder / "new" / "models" / "model_test_run_19260817.pt"
    best = min(reference.rows.values(), key=lambda row: float(row["Best Validation MAE"]))
    _, valid, test, _ = load_mosi(data_path)
    model = LMF.load(path)
    with torch.no_grad():
        for split, column in ((valid, "Best Validation MAE"), (test, "Test MAE")):
            error = (model(split.audio, split.visual, split.text) - split.label).abs().mean()
            assert error.item() == pytest.approx(float(best[column]), rel=1e-5)
    saved = torch.load(path, weights_only=True)
    setting = Setting(**saved["setting"])
    assert setting.texts() == tuple(best[name] for name in Setting._fields)
    assert (saved["data_set"], saved["emotion"], saved["seed"]) == ("mosi", None, 0)


def test_a_setting_alone_has_the_same_row_as_among_others(
    options: Options, reference: Reference
) -> None:
    for i, (key, row) in enumerate(list(reference.rows.items())[:2]):
        choices = zip(Setting._fields, key[:-1], strict=True)
        options["grid"] = [f"{name}={value}" for name, value in choices]
        assert rows(train_mosi.main({**options, "run_id": f"alone{i}"})) == {key: row}


def test_a_second_ctrl_c_forces_an_end(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def press_twice(_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError("the second one had no effect")

    monkeypatch.setattr(search.Records, "read", press_twice)
    with pytest.raises(KeyboardInterrupt):
        train_mosi.main(options)
    assert written(tmp_path) == {"results_mosi_1.csv", "results_mosi_1.json"}


def test_a_finished_run_says_so_and_changes_nothing(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    options["settings"] = 2
    path = train_mosi.main(options)
    files = [path, path.with_suffix(".json"), Path(str(options["model_path"])) / "model_mosi_1.pt"]
    before = [file.read_bytes() for file in files]
    first = capsys.readouterr().out
    train_mosi.main(options)
    second = capsys.readouterr().out
    assert "nothing is left to train" in second
    assert "2 of 2 are done" in second
    assert second.split("the best settings")[1] == first.split("the best settings")[1]
    assert [file.read_bytes() for file in files] == before


def test_one_worker_continues_a_run_behind_a_torn_row_to_the_same_rows_as_two(
    options: Options, reference: Reference
) -> None:
    path = train_mosi.main({**options, "settings": 2})
    first = path.read_bytes()
    path.write_bytes(first + b"4,3,6,0")
    assert train_mosi.main(options) == path
    assert path.read_bytes().startswith(first)
    assert rows(path) == reference.rows


def test_the_whole_of_a_small_grid_is_trained_once_each(options: Options) -> None:
    del options["settings"]
    options["grid"] = [*(f"{name}=4" for name in ("audio_hidden", "video_hidden", "text_hidden")),
                       *(f"{name}_dropout=0" for name in ("audio", "video", "text")),
                       "factor_learning_rate=0.01", "learning_rate=0.01,0.02", "batch_size=8",
                       "weight_decay=0", "rank=1,3"]  # fmt: skip
    listed = table(train_mosi.main(options))
    found = sorted((row["learning_rate"], row["rank"]) for row in listed)
    assert found == [("0.01", "1"), ("0.01", "3"), ("0.02", "1"), ("0.02", "3")]


def test_another_seed_draws_other_settings(options: Options, reference: Reference) -> None:
    found = rows(train_mosi.main({**options, "settings": 3, "seed": 5}))
    assert {row["Seed"] for row in found.values()} == {"5"}
    assert not {key[:-1] for key in found} & {key[:-1] for key in reference.rows}


def test_repeats_train_each_setting_with_several_seeds(
    options: Options, reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    found = rows(train_mosi.main({**options, "settings": 2, "repeats": 2}))
    assert len(found) == 4
    assert sorted(row["Seed"] for row in found.values()) == ["0", "0", "1", "1"]
    for key, row in found.items():
        if row["Seed"] == "0":
            assert row == reference.rows[key]
            other = found[(*key[:-1], "1")]
            assert row["Best Validation MAE"] != other["Best Validation MAE"]
    head, first, *_ = shown_best(capsys.readouterr().out)
    assert head[:5] == ["valid", "±", "test", "±", "n"]
    assert first[5] == "2"


def test_a_setting_that_diverges_is_a_row_and_the_search_goes_on(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    options["grid"] = [*(f"{name}=4" for name in ("audio_hidden", "video_hidden", "text_hidden")),
                       *(f"{name}_dropout=0" for name in ("audio", "video", "text")),
                       "factor_learning_rate=0.01,1e30", "learning_rate=0.01,1e30", "rank=2",
                       "batch_size=8", "weight_decay=0"]  # fmt: skip
    listed = table(train_mosi.main({**options, "settings": 4}))
    by_status = {row["Status"]: row for row in listed}
    assert len(listed) == 4
    assert set(by_status) == {"ok", "diverged"}
    assert by_status["ok"]["factor_learning_rate"] == by_status["ok"]["learning_rate"] == "0.01"
    assert math.isnan(float(by_status["diverged"]["Best Validation MAE"]))
    assert math.isnan(float(by_status["diverged"]["Test 7-class accuracy"]))
    printed = capsys.readouterr().out
    assert "diverged" in printed
    assert shown_best(printed)[1][1] == f"{float(by_status['ok']['Best Validation MAE']):.4f}"


@pytest.mark.parametrize("stack", [1, None])
def test_a_setting_whose_numbers_overflow_fails_alone(stack: int | None, data_path: Path) -> None:
    data = Data(*load_mosi(data_path)[:3])
    trainer = Trainer(train_mosi.EXPERIMENT.task(data), Limits(2, 20), stack, verbose=False)
    good = Setting(3, 3, 6, 0.0, 0.0, 0.0, 0.01, 0.01, 1, 8, 0.0)
    bad = good._replace(weight_decay=1e39)  # more than --grid and the files let through
    results: list[Any] = []
    trainer.train(
        [(good, 0), (bad, 0), (good._replace(rank=2), 0), (good, 1)], data, results.append
    )
    by_status = Counter(result.status for result in results)
    assert by_status == {"ok": 3, "failed": 1}
    (failed,) = (result for result in results if result.status == "failed")
    assert failed.setting == bad
    assert "overflow" in failed.reason


def test_verbose_prints_every_epoch(options: Options, capsys: pytest.CaptureFixture[str]) -> None:
    train_mosi.main({**options, "settings": 2, "run_id": "quiet"})
    assert "epoch 1 " not in capsys.readouterr().out
    train_mosi.main({**options, "settings": 2, "verbose": True})
    printed = capsys.readouterr().out
    for epoch in (1, 2, 3):
        assert printed.count(f"epoch {epoch}  train ") == 2


def test_nan_features_are_reported_by_the_script(
    options: Options, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arrays = tiny_arrays("mosi")
    arrays["train"]["covarep"][3, 1] = np.nan
    options["data_path"] = pickled(tmp_path / "nan", "mosi", arrays)
    listed = table(train_mosi.main({**options, "settings": 1}))
    assert listed[0]["Status"] == "ok"
    assert capsys.readouterr().out.count("train 1 NaN, 0 inf") == 1


def test_max_len_changes_what_is_trained(options: Options, reference: Reference) -> None:
    found = rows(train_mosi.main({**options, "settings": 2, "max_len": 2}))
    assert all(row != reference.rows[key] for key, row in found.items())


def test_pom_trains_its_published_settings(
    options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    del options["grid"], options["settings"]
    listed = table(train_pom.main({**options, "epochs": 1, "jobs": 2, "hyperparams": True}))
    assert len(listed) == 13  # five traits share one
    printed = capsys.readouterr().out
    assert "Confidence, Passionate, Credible, Thorough, Persuasive" in printed
    assert "Sentiment" in printed
    for row in listed:
        assert 0 < float(row["Humorous MAE"]) < 10
        assert 0 < float(row["Confidence validation MAE"]) < 10
        errors = [float(row[f"{trait} validation MAE"]) for trait in train_pom.TRAITS]
        assert np.mean(errors) == pytest.approx(float(row["Best Validation MAE"]), rel=1e-4)


def test_iemocap_trains_each_emotions_published_setting(options: Options, tmp_path: Path) -> None:
    del options["grid"], options["settings"]
    paths = train_iemocap.main({**options, "epochs": 1, "emotion": "all", "hyperparams": True})
    emotions = ("happy", "sad", "angry", "neutral")
    assert [path.name for path in paths] == [f"results_iemocap_{name}_1.csv" for name in emotions]
    assert written(tmp_path / "models") == {f"model_iemocap_{name}_1.pt" for name in emotions}
    (happy,), _, _, (neutral,) = map(table, paths)
    assert (happy["video_hidden"], happy["batch_size"]) == ("16", "128")
    assert (neutral["audio_hidden"], neutral["learning_rate"]) == ("32", "0.0005")
    assert 0 <= float(happy["Test F1-score of the emotion"]) <= 1


def test_a_users_own_settings_are_trained_in_their_order(options: Options, tmp_path: Path) -> None:
    header = " ".join(["name", *Setting._fields])
    mine = tmp_path / "mine.txt"
    mine.write_text(
        f"[mosi]\n{header}\nb 3 3 6 0 0 0 0.01 0.01 5 7 0\na 3 3 6 0 0 0 0.01 0.01 2 6 0\n"
    )
    del options["grid"], options["settings"]
    listed = table(train_mosi.main({**options, "hyperparams": mine}))
    assert [(row["rank"], row["batch_size"]) for row in listed] == [("5", "7"), ("2", "6")]
    assert table(train_mosi.main({**options, "hyperparams": mine})) == listed


def test_a_run_goes_on_with_other_grids_and_more_seeds(
    options: Options, reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    train_mosi.main({**options, "settings": 2, "grid": [*GRID[:-1], "batch_size=8"]})
    train_mosi.main({**options, "settings": 3})
    found = rows(train_mosi.main({**options, "repeats": 2}))
    assert "3 of 10 are done" in capsys.readouterr().out
    assert len(found) == 2 + 2 * 5
    assert reference.rows.items() <= found.items()


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epochs": 4}, "epochs (then 3, now 4)"),
        ({"patience": 3}, "patience (then 20, now 3)"),
        ({"max_len": 3}, "max_len (then None, now 3)"),
        ({"seed": 1}, "seed (then 0, now 1)"),
        ({"stack": 1}, "path (then fast, now reference)"),
    ],
)
def test_a_run_is_not_continued_under_other_conditions(
    change: Options, named: str, options: Options
) -> None:
    options["settings"] = 1
    path = train_mosi.main(options)
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        train_mosi.main({**options, **change, "settings": 2})
    assert named in str(caught.value)
    assert str(caught.value).count("now") == 1
    assert path.read_bytes() == before


def test_the_checksum_is_that_of_the_bytes_that_were_trained_on(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = search.load_corpus
    old, new = tiny_arrays("mosi"), tiny_arrays("mosi", seed=1)
    folder = pickled(tmp_path / "data", "mosi", old)
    options |= {"data_path": folder, "settings": 1}
    before = hashlib.sha256((folder / "mosi.pkl").read_bytes()).hexdigest()

    def load_and_replace(*args: Any) -> object:
        loaded = load(*args)
        pickled(folder, "mosi", new)
        return loaded

    monkeypatch.setattr(search, "load_corpus", load_and_replace)
    path = train_mosi.main(options)
    monkeypatch.undo()
    assert json.loads(path.with_suffix(".json").read_text())["fixed"]["data sha256"] == before
    with pytest.raises(InputError, match="data sha256"):
        train_mosi.main({**options, "settings": 2})
    pickled(folder, "mosi", old)
    assert len(rows(train_mosi.main({**options, "settings": 2}))) == 2


def test_the_largest_seeds_are_written_and_read_back(options: Options) -> None:
    options |= {"seed": 2**63 - 2, "repeats": 2, "settings": 1}
    found = rows(train_mosi.main(options))
    assert {row["Seed"] for row in found.values()} == {str(2**63 - 2), str(2**63 - 1)}
    assert len(rows(train_mosi.main({**options, "settings": 2}))) == 4


@pytest.mark.parametrize("names", [Setting._fields, Setting._fields[3:8]])
def test_a_search_takes_no_more_memory_in_a_grid_beyond_all_bounds(
    names: Sequence[str], options: Options, capsys: pytest.CaptureFixture[str]
) -> None:
    least = {name: 2 if RANGES[name].whole else 0.001 for name in Setting._fields}
    grid = {name: [least[name] * i for i in range(1, 101)] for name in names}
    choices = [f"{name}={','.join(f'{value:g}' for value in grid[name])}" for name in grid]
    options |= {"grid": choices, "settings": 2, "epochs": 1}
    first = rows(train_mosi.main(options))
    assert f" of {100 ** len(names):,} settings" in capsys.readouterr().out or len(names) < 11
    found = rows(train_mosi.main({**options, "settings": 3, "repeats": 2}))
    assert (len(first), len(found)) == (2, 6)
    assert first.items() <= found.items()
    assert "2 of 6 are done" in capsys.readouterr().out


def test_a_command_without_a_working_directory_is_refused(
    options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(InputError, match="expected a working directory"):
        train_mosi.main(options)


def test_cuda_false_trains_on_the_cpu(
    options: Options, reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    for i, off in enumerate(("False", False)):
        path = train_mosi.main({**options, "settings": 1, "cuda": off, "run_id": i})
        assert rows(path).items() <= reference.rows.items()
    assert "cpu, seed 0" in capsys.readouterr().out


def refused(data_set: str, line: list[str]) -> str:
    """Returns the one line with which a script refuses a command line."""
    main: Callable[[], object] = MAINS[data_set]
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stderr(io.StringIO()) as errors:
        patch.setattr(sys, "argv", [f"train_{data_set}.py", *line])
        with pytest.raises(SystemExit) as caught:
            run_script(main)
    assert caught.value.code == 2
    (message,) = errors.getvalue().splitlines()
    assert message.startswith(f"train_{data_set}.py: ")
    return message


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("--output_dim 2", "got 2; other labels take a script of your own: docs/own-data.md"),
        (f"--seed {2**63 - 3} --repeats 4", f"--seed: expected at most {2**63 - 4} with"),
        ("--run_id a/b", "--run_id: expected a part of a file name, got 'a/b'"),
        ("--signiture ..", "--signiture/--signature: expected a part of a file name"),
        ("--cuda maybe", "--cuda: expected True or False, got 'maybe'"),
        ("--epoch 3", "unrecognized arguments: --epoch 3; did you mean --epochs?"),
        ("--epochz=3", "unrecognized arguments: --epochz=3; did you mean --epochs?"),
        ("--signitur x", "did you mean --signiture?"),
        ("stray", "stray"),
        ("--epochs", "--epochs: expected one argument"),
        ("--emotion sad", "unrecognized arguments"),
        ("--grid rank=1, 4", "--grid: expected no spaces: --grid rank=1,4; got --grid rank=1, 4"),
        ("--grid audio_dropout=1", "audio_dropout: expected 0 or a number from 1e-07 to 0.999999"),
        ("--grid weight_decay=0,1e39", "weight_decay: expected 0 or a number from 1e-30 to 1e+30"),
        ("--grid depth=2", "audio_hidden"),
        ("--grid rank=1_0", "rank: expected a whole number from 1 to 65536, got '1_0'"),
        ("--grid rank=٣", "rank: expected a whole number from 1 to 65536"),
        ("--epochs ٣", "--epochs: expected a whole number from 1"),
        (f"--run_id {'x' * 220}", "--run_id: expected at most 200 bytes together"),
        ("--hyperparams=", "expected a file, got a folder"),
        ("--grid rank=1 --hyperparams", "--grid and --hyperparams"),
        ("--hyperparams nowhere.txt", "nowhere.txt"),
        ("--hyperparams /dev/zero", "/dev/zero: expected a file, got a"),
        *((f"--{n}_path=", f"--{n}_path: expected a folder, got ''") for n in ("data", "output")),
        ("--hyperparams .", ".: expected a file, got a folder"),
        ("--data_path nowhere", "nowhere/mosi.pkl: no such file"),
    ],
)
def test_bad_flags_are_refused_in_one_line_and_nothing_is_written(
    line: str, reason: str, options: Options, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del options["grid"]
    monkeypatch.chdir(tmp_path)
    assert reason in refused("mosi", [*words(options), *line.split()])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flag", "least", "most"),
    [
        *(("epochs", 1, 10**9), ("patience", 1, 10**9), ("output_dim", 1, 10**9)),
        *(("settings", 1, 10**8), ("repeats", 1, 1000), ("seed", 0, 2**63 - 1)),
        *(("max_len", 1, 10_000), ("jobs", 1, 100_000), ("stack", 1, 10_000)),
    ],
)
def test_whole_numbers_have_bounds(flag: str, least: int, most: int) -> None:
    for text in (str(least - 1), str(most + 1), "1.5", "x", "9" * 5000):
        message = f": expected a whole number from {least} to {most:,}, got '{text}'"
        assert refused("mosi", [f"--{flag}", text]).endswith(f"--{flag}{message}")


@pytest.mark.parametrize("emotion", ["joy", "Happy"])
def test_an_unknown_emotion_is_refused(emotion: str, options: Options, tmp_path: Path) -> None:
    message = refused("iemocap", [*words(options), "--emotion", emotion])
    assert "happy, sad, angry, neutral or all" in message
    assert not written(tmp_path)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("value", [[], ["True"]])
def test_cuda_without_a_gpu_is_refused(value: list[str], options: Options, tmp_path: Path) -> None:
    line = [*words(options), "--cuda", *value]
    assert "--cuda: expected a GPU" in refused("pom", line)
    assert not written(tmp_path)


@pytest.mark.slow
def test_bad_input_ends_a_script_with_one_line_and_status_2(
    options: Options, tmp_path: Path
) -> None:
    (tmp_path / "pom.pkl").write_bytes(b"a truncated file")
    options["data_path"] = tmp_path
    done = subprocess.run(command("pom", options), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"train_pom.py: {tmp_path}/pom.pkl: expected a whole pickle")
    assert done.stderr.count("\n") == 1
    assert written(tmp_path) == {"pom.pkl"}


def test_options_from_python_may_be_none_but_not_unknown(options: Options) -> None:
    with pytest.raises(InputError, match="--epoch"):
        train_mosi.main({**options, "epoch": 3})
    path = train_mosi.main({**options, "settings": 1, "max_len": None, "verbose": False})
    assert len(rows(path)) == 1


@pytest.mark.parametrize(
    ("data_set", "epochs", "outputs"), [("mosi", 500, 1), ("iemocap", 100, 2), ("pom", 500, 16)]
)
def test_help_gives_each_flag_and_its_default(
    data_set: str, epochs: int, outputs: int, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        MAINS[data_set]({"help": True})
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    for flag, default in {
        **{"--run_id": 1, "--epochs": epochs, "--patience": 20, "--output_dim": outputs},
        **{"--signature": data_set, "--data_path": "./data", "--model_path": "./models"},
        **{"--output_path": "./results", "--seed": 0, "--repeats": 1},
        **({"--emotion": "happy"} if data_set == "iemocap" else {}),
    }.items():
        after = text.split(f" {flag} ")[-1]
        assert f"(default: {default})" in after.split(" --")[0], flag
    for flag in ("--cuda", "--max_len", "--settings", "--grid", "--hyperparams", "--jobs"):
        assert "(default: " in text.split(f" {flag} ")[-1].split(" --")[0], flag
