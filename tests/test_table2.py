"""reporting/table2.py: the paper's numbers, and ours recomputed by hand from written rows."""

from __future__ import annotations

import hashlib
import statistics
from pathlib import Path

import numpy as np
from conftest import pickled, tiny_arrays
from written_results import (
    SETTING,
    cells,
    make_rows,
    mean_and_spread,
    numbers,
    ranks,
    read,
    write_results,
)

from data.corpora import CORPORA
from reporting import table2 as paper
from reporting.runs import Run
from train_pom import TRAITS

TABLE_2 = """
SVM 1.864 0.057 50.2 50.1 17.5 | 0.887 0.104 33.9 | 81.5 78.8 82.4 64.9
DF 1.143 0.518 72.3 72.1 26.8 | 0.869 0.144 34.1 | 81.0 81.2 65.4 44.0
BC-LSTM 1.079 0.581 73.9 73.9 28.7 | 0.840 0.278 34.8 | 81.7 81.7 84.2 64.1
MV-LSTM 1.019 0.601 73.9 74.0 33.2 | 0.891 0.270 34.6 | 81.3 74.0 84.3 66.7
MARN 0.968 0.625 77.1 77.0 34.7 | - - 39.4 | 83.6 81.2 84.2 65.9
MFN 0.965 0.632 77.4 77.3 34.1 | 0.805 0.349 41.7 | 84.0 82.1 83.7 69.2
TFN 0.970 0.633 73.9 73.4 32.1 | 0.886 0.093 31.6 | 83.6 82.8 84.2 65.4
LMF 0.912 0.668 76.4 75.7 32.8 | 0.796 0.396 42.8 | 85.8 85.9 89.0 71.7
rerun 1.069 0.560 72.1 72.1 31.6 | 0.863 0.248 34.5 | 84.6 78.4 85.2 65.7
"""
CHECKSUMS = {
    "mosi": "9640616a5b136bf0e3ce8696847f561fd15d252aacce92757f1c35f0cb904b69",
    "iemocap": "7f20c9f5245c3bcb3a4638e8577f0c81ee2dbdede56d44f165ce9ae69a9c5ad9",
    "pom": "53745af979d114cc0832f83b4a0ceb787445c4bfba6a7f8f75b3ee22edbbd759",
}


def table_of(runs: list[Run]) -> str:
    return "\n\n".join(paper.table_2(runs))


def test_numbers_are_those_that_the_paper_prints() -> None:
    for place, name in enumerate(("mosi", "pom", "iemocap")):
        table = {}
        for line in TABLE_2.strip().splitlines():
            model, _, printed = line.partition(" ")
            table[model] = [float(x.replace("-", "nan")) for x in printed.split("|")[place].split()]
        assert list(paper.PUBLISHED[name].models) == list(table)
        for model, values in table.items():
            np.testing.assert_array_equal(paper.PUBLISHED[name].models[model], values)
    assert {name: corpus.sha256 for name, corpus in CORPORA.items()} == CHECKSUMS


def test_paper_rows_appear_as_printed(tmp_path: Path) -> None:
    run = read(write_results(tmp_path / "results_p_1.csv", "pom", make_rows("pom", [SETTING], 1)))
    text = table_of([run])
    assert cells(text, "LMF, as the paper prints it") == ["0.796", "0.396", "42.8"]
    assert cells(text, "MARN, as the paper") == ["–", "–", "39.4"]
    assert cells(text, "code trained by others") == ["0.863", "0.248", "34.5"]


def test_mosi_row_is_of_the_setting_with_the_best_mean_validation(tmp_path: Path) -> None:
    settings = ranks(1, 4, 8, 16)
    rows = make_rows("mosi", settings, 3)
    for row in rows:
        if row["rank"] == "16":
            row["Test MAE"] = "0.01"  # the best by test, which must not count
    path = write_results(tmp_path / "results_mosi_1.csv", "mosi", rows)
    best = min(
        settings,
        key=lambda setting: statistics.fmean(numbers(rows, setting, "Best Validation MAE")),
    )
    assert best.rank != 16
    found = cells(table_of([read(path)]), "mosi_1")
    assert found == [
        mean_and_spread(numbers(rows, best, "Test MAE"), 1, 3),
        mean_and_spread(numbers(rows, best, "Test Corr"), 1, 3),
        mean_and_spread(numbers(rows, best, "Test binary accuracy"), 100, 1),
        mean_and_spread(numbers(rows, best, "Test f1_score"), 100, 1),
        mean_and_spread(numbers(rows, best, "Test multiclass accuracy"), 100, 1),
    ]


def test_pom_takes_each_trait_from_its_own_best_setting(tmp_path: Path) -> None:
    settings, seeds = ranks(1, 4, 8), 2
    rows = make_rows("pom", settings, seeds)
    path = write_results(tmp_path / "results_pom_1.csv", "pom", rows)
    text = table_of([read(path)])
    by_trait = cells(text, "each trait from its own best of 3 settings by validation, n = 2")
    for place, (score, factor, digits) in enumerate(
        (("MAE", 1, 3), ("corr", 1, 3), ("accuracy", 100, 1))
    ):
        per_seed = [0.0] * seeds
        for trait in TRAITS:
            best = min(
                settings,
                key=lambda s: statistics.fmean(numbers(rows, s, f"{trait} validation MAE")),
            )
            for seed, value in enumerate(numbers(rows, best, f"{trait} {score}")):
                per_seed[seed] += value / len(TRAITS)
        assert by_trait[place] == mean_and_spread(per_seed, factor, digits)
    best = min(settings, key=lambda s: statistics.fmean(numbers(rows, s, "Best Validation MAE")))
    single = cells(text, "the best of 3 settings")
    assert single[0] == mean_and_spread(numbers(rows, best, "Mean MAE"), 1, 3)
    assert single != by_trait


def test_emotions_of_a_run_share_a_row(tmp_path: Path) -> None:
    runs, expected = [], []
    for seeds, emotion in ((2, "happy"), (3, "angry")):
        rows = make_rows("iemocap", [SETTING], seeds)
        path = tmp_path / f"results_iemocap_{emotion}_1.csv"
        runs.append(read(write_results(path, "iemocap", rows, emotion)))
        expected.append(mean_and_spread(numbers(rows, SETTING, "Test F1-score"), 100, 1))
    text = table_of(runs)
    label = "iemocap_1, the best of 1 setting by validation, n = 2 to 3"
    assert cells(text, label) == [expected[0], "–", expected[1], "–"]


def test_constant_predictor_is_computed_from_the_data(tmp_path: Path) -> None:
    arrays = tiny_arrays("mosi")
    data_file = pickled(tmp_path, "mosi", arrays) / "mosi.pkl"
    sha256 = hashlib.sha256(data_file.read_bytes()).hexdigest()
    rows = make_rows("mosi", [SETTING], 1)
    path = tmp_path / "results_mosi_1.csv"
    write_results(path, "mosi", rows, data_file=data_file, sha256=sha256)
    text = table_of([read(path)])

    median = sorted(arrays["train"]["label"][:, 0])[11]  # of 23
    labels = arrays["test"]["label"][:, 0].tolist()
    mae = statistics.fmean(abs(label - median) for label in labels)
    acc_2 = 100 * statistics.fmean((label >= 0) == (median >= 0) for label in labels)
    acc_7 = 100 * statistics.fmean(round(label) == round(median) for label in labels)
    found = cells(text, "Always predicting the median")
    assert found[:3] == [f"{mae:.3f}", "–", f"{acc_2:.1f}"]
    assert found[4] == f"{acc_7:.1f}"


def test_constant_predictor_is_left_out_when_the_data_are_others_now(tmp_path: Path) -> None:
    data_file = pickled(tmp_path, "mosi", tiny_arrays("mosi")) / "mosi.pkl"
    path = tmp_path / "results_mosi_1.csv"
    write_results(path, "mosi", make_rows("mosi", [SETTING], 1), data_file=data_file)
    text = table_of([read(path)])
    assert "Always predicting" not in text
    assert "left out for mosi_1: the data that it was trained on are not there any more" in text
