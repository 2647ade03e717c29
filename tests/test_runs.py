"""reporting/runs.py: what is read, and what is named and left out."""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from urllib.parse import unquote_to_bytes

import pytest
import torch
from written_results import SETTING, make_rows, numbers, ranks, read, write_results

import report
from data.files import InputError
from reporting import table2
from reporting.runs import read_history, read_runs
from search.options import run_script

MISSING = object()
LOSS = 1.5


def mosi(folder: Path, name: str = "mosi_1", seeds: int = 1) -> Path:
    """Writes a run of one setting, whose best loss is LOSS with seed 0, and returns its CSV."""
    rows = make_rows("mosi", [SETTING], seeds)
    for row in rows:
        row["Best Validation MAE"] = str(LOSS + int(row["Seed"]))
    return write_results(folder / f"results_{name}.csv", "mosi", rows)


def save_model(path: Path, **changes: object) -> Path:
    checkpoint = {
        **{"setting": SETTING._asdict(), "seed": 0, "valid_loss": LOSS, "best_epoch": 2},
        **{"history": [(3.0, 2.0), (2.5, LOSS), (2.0, 1.75)], **changes},
    }
    kept = {name: value for name, value in checkpoint.items() if value is not MISSING}
    torch.save(kept, path)
    return path


def report_of(folder: Path, *words: str) -> str:
    report.main([str(folder), "--output_path", str(folder), "--model_path", str(folder), *words])
    return (folder / "report.md").read_text(encoding="utf-8")


def test_torn_last_line_is_left_out_and_left_alone(tmp_path: Path) -> None:
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", make_rows("mosi", ranks(1, 4), 1))
    torn = path.read_bytes()[:-7]
    path.write_bytes(torn)
    assert [setting.rank for setting in read(path).rows] == [1]
    assert path.read_bytes() == torn


def test_runs_of_any_repeats_keep_their_rows_in_seed_order(tmp_path: Path) -> None:
    rows = make_rows("mosi", [SETTING], 3)
    run = read(write_results(tmp_path / "results_mosi_1.csv", "mosi", rows[::-1]))
    assert run.values(SETTING, "Test MAE").tolist() == numbers(rows, SETTING, "Test MAE")


def test_file_without_json_is_known_by_its_columns_and_name(tmp_path: Path) -> None:
    rows = make_rows("iemocap", [SETTING], 1)
    path = write_results(tmp_path / "results_iemocap_sad_1.csv", "iemocap", rows, "sad")
    path.with_suffix(".json").unlink()
    run = read(path)
    assert (run.experiment.name, run.emotion, run.sha256) == ("iemocap", "sad", None)
    unnamed = path.rename(tmp_path / "results_x.csv")
    with pytest.raises(InputError, match=r"results_x.csv: expected the emotion"):
        read(unnamed)


def replaced(old: str, new: str) -> Callable[[Path], object]:
    def replace(path: Path) -> None:
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return replace


def pom_rows(path: Path) -> str:
    rows = make_rows("pom", [SETTING], 1)
    return write_results(path.parent / "pom.csv", "pom", rows).read_text()


ODD_CSV = {
    "no_column": (replaced("Test Corr,", "Test Kendall,"), "missing: Test Corr; unknown: Test Ken"),
    "no_number": (replaced("\n4,8,64", "\n4,8,sixty"), "line 2: .*text_hidden: expected a"),
    "no_score": (replaced(",0,ok,", "x,0,ok,"), "line 2: .*Test multiclass accuracy|Test f1_score"),
    "no_loss": (
        replaced(f",{LOSS},", ",1e300,"),
        "Best Validation MAE: expected a number as training reports it",
    ),
    "other_data_set": (lambda path: path.write_text(pom_rows(path)), "missing: Test MAE"),
    "binary": (lambda path: path.write_bytes(bytes(range(256))), "missing: audio_hidden"),
    "empty": (lambda path: path.write_text(""), "missing: audio_hidden"),
    "header": (lambda path: path.write_text(path.read_text().splitlines()[0] + "\n"), "got none"),
    "folder": (lambda path: (path.unlink(), path.mkdir()), "expected a file, got a folder"),
    "pipe": (lambda path: (path.unlink(), os.mkfifo(path)), "expected a file, got a pipe"),
    "lost_link": (lambda path: (path.unlink(), path.symlink_to("lost")), "no such file"),
    "long_name_" + "x" * 140: (Path.touch, "expected a shorter name"),
}


def test_odd_csv_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mosi(tmp_path, "good")
    for name, (change, message) in ODD_CSV.items():
        path = mosi(tmp_path, name)
        change(path)
        with pytest.raises(InputError, match=message):
            read(path)
    text = report_of(tmp_path)
    assert [line for line in text.splitlines() if line.startswith("### ")] == ["### good"]
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("left out: ")]
    starts = sorted(f"left out: {tmp_path}/results_{name}.csv" for name in ODD_CSV)
    assert all(map(str.startswith, sorted(lines), starts))
    assert len(lines) == len(starts)


ODD_JSON: list[tuple[str, object]] = [
    *((key, MISSING) for key in ("data_set", "emotion", "data_file", "fixed")),
    *(("data_set", value) for value in ("sims", None, ["mosi"])),
    *(("emotion", value) for value in ("sad", 3, [])),
    *(("data_file", value) for value in (None, 3, "a\0b")),
    *(("fixed", value) for value in (None, [], {})),
    *((f"fixed/{key}", MISSING) for key in ("data sha256", "epochs", "patience")),
    *(("fixed/data sha256", value) for value in (None, 3, "")),
    *(("fixed/epochs", value) for value in (None, "5", 0, True, 10**4000)),
    *(("fixed/patience", value) for value in (None, "5", 0, True, 10**4000)),
    *(("", text) for text in ("", "{", "[]", "NaN", "[" * 100_000, "\xff\xfe")),
]


def test_a_run_of_a_script_of_ones_own_is_left_out_for_what_it_is(tmp_path: Path) -> None:
    path = mosi(tmp_path, "own")
    change_json(path.with_suffix(".json"), "data_set", "own")
    with pytest.raises(InputError, match=r"got one of 'own'; .* a row in data/corpora\.py"):
        read(path)


def change_json(path: Path, key: str, value: object) -> None:
    if not key:
        assert isinstance(value, str)
        path.write_text(value, encoding="latin-1")
        return
    stored = json.loads(path.read_text())
    inner = stored
    *outer, last = key.split("/")
    for name in outer:
        inner = inner[name]
    inner[last] = value
    if value is MISSING:
        del inner[last]
    path.write_text(json.dumps(stored))


def test_odd_json_is_named_and_its_run_left_out(tmp_path: Path) -> None:
    mosi(tmp_path, "good")
    for i, (key, value) in enumerate(ODD_JSON):
        change_json(mosi(tmp_path, f"odd{i}").with_suffix(".json"), key, value)
    pipe = mosi(tmp_path, "pipe").with_suffix(".json")
    pipe.unlink()
    os.mkfifo(pipe)
    text = report_of(tmp_path)
    assert [line for line in text.splitlines() if line.startswith("### ")] == ["### good"]
    named = [line for line in text.splitlines() if line.startswith(f"- {tmp_path}/results_")]
    assert len(named) == len(ODD_JSON) + 1
    assert all(".json: expected" in line for line in named)


ODD_MODEL: list[dict[str, object]] = [
    *({key: MISSING} for key in ("setting", "seed", "valid_loss", "best_epoch", "history")),
    *({"setting": value} for value in (None, {"rank": 4}, SETTING._asdict() | {"x": 1})),
    *({"setting": SETTING._asdict() | {"rank": value}} for value in (1, "4", torch.ones(2))),
    *({"seed": value} for value in (1, "0", False, torch.zeros(2))),
    *({"valid_loss": value} for value in (1.6, None, "1.5", float("nan"), torch.ones(2))),
    *({"best_epoch": value} for value in (0, 4, 1, 2.0, None, True)),
    *({"history": value} for value in ([], None, "x", [1, 2], [(1, 2, 3)], [[]])),
    *({"history": [(1.0, value), (1.0, LOSS)]} for value in (float("nan"), 1e300, "a", [1])),
    {"history": [(3.0, 2.0), (2.5, 1.6)]},
]


def test_curves_of_a_model_that_is_not_the_best_rows_are_left_out(tmp_path: Path) -> None:
    run = read(mosi(tmp_path, seeds=2))
    model = tmp_path / "model_mosi_1.pt"
    good = read_history(run, save_model(model).parent)
    assert good.losses.tolist() == [[3.0, 2.0], [2.5, LOSS], [2.0, 1.75]]
    for changes in ODD_MODEL:
        save_model(model, **copy.deepcopy(changes))
        with pytest.raises(InputError, match=r"model_mosi_1\.pt: expected (a|the) model"):
            read_history(run, tmp_path)


ODD_MODEL_FILES = (
    lambda path: path.unlink(),
    lambda path: path.write_bytes(b"nothing of the kind"),
    lambda path: path.write_bytes(path.read_bytes()[:-300]),
    lambda path: torch.save([1], path),
    lambda path: (path.unlink(), os.mkfifo(path)),
)


def test_report_goes_on_without_a_model(tmp_path: Path) -> None:
    mosi(tmp_path)
    for change in ODD_MODEL_FILES:
        path = save_model(tmp_path / "model_mosi_1.pt")
        assert "(curves_mosi_1.png)" in report_of(tmp_path)
        change(path)
        text = report_of(tmp_path)
        assert "### mosi_1" in text
        assert f"No learning curves: {path}: " in text
        assert "png" not in text
        path.unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda folder: None, "expected results_*.csv with rows in them, got none"),
        (lambda folder: (folder / "results_x.csv").write_text("a,b\n1,2\n"), "unknown: a, b"),
        (lambda folder: folder.rmdir(), "expected a results_*.csv or a folder of them"),
    ],
)
def test_nothing_to_report_is_one_line_and_exit_status_2(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], object],
    message: str,
) -> None:
    folder = tmp_path / "results"
    folder.mkdir()
    make(folder)
    with pytest.raises(SystemExit) as end:
        run_script(lambda: report.main([str(folder), "--output_path", str(tmp_path / "out")]))
    printed = capsys.readouterr().err
    assert (end.value.code, printed.count("\n")) == (2, 1)
    assert message in printed
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("words", [["x" * 300], ["--unknown"], ["--best_grid", "lost"]])
def test_what_the_flags_name_must_be_there(tmp_path: Path, words: list[str]) -> None:
    with pytest.raises(InputError):
        report.main([*words, "--output_path", str(tmp_path / "out")])


HOSTILE = "<script>alert(1)</script>|`x`\n# head\r[a](b)![c](d)*_\x1b[31m\u202e\ud800$\\frac{$"


def test_hostile_names_are_shown_and_change_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = HOSTILE.replace("/", "").replace("\ud800", "\udcff")  # a byte that is not UTF-8
    rows = make_rows("mosi", [*ranks(1, 4), SETTING._replace(batch_size=8)], 2)
    path = tmp_path / f"results_{name}.csv"
    write_results(path, "mosi", rows, data_file=Path("data", name))
    best = min(read(path).rows, key=lambda s: min(numbers(rows, s, "Best Validation MAE")))
    losses = numbers(rows, best, "Best Validation MAE")
    history = [(1.0, min(losses))]
    model = {"setting": best._asdict(), "seed": losses.index(min(losses)), "best_epoch": 1}
    save_model(tmp_path / f"model_{name}.pt", **model, valid_loss=min(losses), history=history)
    change_json(mosi(tmp_path, "x").with_suffix(".json"), "data_set", HOSTILE)
    (tmp_path / f"results_foreign {name}.csv").write_bytes(os.fsencode(f'"{name}",b\n1,2\n'))

    text = report_of(tmp_path)
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") - line.count("\\|") in (4, 5, 6, 7) for line in lines)
    assert "<" not in text
    assert [line for line in text.splitlines() if line.startswith("#")] == [
        "# Results beside the paper's",
        "## CMU-MOSI",
        next(line for line in text.splitlines() if line.startswith("### ")),
    ]
    links = re.findall(r"(?<!\\)\[.*?(?<!\\)\]\((.*)\)", text)
    drawn = [tmp_path / os.fsdecode(unquote_to_bytes(link)) for link in links]
    assert sorted(drawn) == sorted(tmp_path.glob("*.png"))
    assert len(drawn) == 3
    for printed in (text, capsys.readouterr().out):
        assert not set("\x1b\r\u202e\udcff\ud800") & set(printed)


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    folders = [tmp_path / folder for folder in ("cpu", "gpu", "old/gpu")]
    for seeds, folder in enumerate(folders, 1):
        folder.mkdir(parents=True)
        write_results(folder / "results_mosi_1.csv", "mosi", make_rows("mosi", ranks(1, 4), seeds))
    again = folders[0] / ".." / "cpu" / "results_mosi_1.csv"
    words = [*map(str, [*folders[1:], again]), "--output_path", str(tmp_path)]
    report.main([str(folders[0]), *words])
    drawn = {path.name for path in tmp_path.glob("rank_*.png")}
    names = ["cpu_mosi_1", "gpu_mosi_1", "gpu_mosi_1_2"]
    assert drawn == {f"rank_{name}.png" for name in names}
    runs, left_out = read_runs(folders, report.experiments())
    assert [(run.name, run.trainings) for run in runs] == [*zip(names, (2, 4, 6), strict=True)]
    assert left_out == []
    save_model(folders[2] / "model_mosi_1.pt", seed=9)
    with pytest.raises(InputError, match="expected the model of the best row"):
        read_history(runs[2], folders[2])


def test_score_without_a_column_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mosi(tmp_path)
    published = table2.PUBLISHED["mosi"]
    scores = (table2.Score("MAE", "Test MAD"), *published.scores[1:])
    monkeypatch.setitem(table2.PUBLISHED, "mosi", published._replace(scores=scores))
    text = report_of(tmp_path)
    assert "No table 2: train_mosi.py: expected the column 'Test MAD'" in text
    assert "### mosi_1" in text
