"""The scores of the three scripts: against worked examples of the release, then by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

import train_iemocap
import train_mosi
import train_pom
from training.result import Data, Scored, Task
from utils import Split

METRICS = json.loads((Path(__file__).parent / "golden" / "metrics.json").read_text())


def scored(task: Task, output: np.ndarray, label: np.ndarray) -> Scored:
    """Returns a test split's outputs and labels, (N, O), with the loss that a task reports.

    The validation split has the same labels, and outputs that are 0.5 higher.
    """
    output, label = np.asarray(output, np.float32), np.asarray(label, np.float32)
    total = task.loss(torch.from_numpy(output), torch.from_numpy(label)).sum().item()
    loss = total / len(label) / task.loss_divisor
    return Scored(math.nan, loss, label + 0.5, label, output, label)


def iemocap_task(train_labels: np.ndarray) -> Task:
    label = torch.from_numpy(np.asarray(train_labels, np.float32))
    n = len(label)
    split = Split(torch.zeros(n, 2), torch.zeros(n, 2), torch.zeros(n, 3, 2), label)
    return train_iemocap.EXPERIMENT.task(Data(split, split, split))


MOSI = Task(1, train_mosi.loss, 1, train_mosi.scores)
POM = Task(16, train_pom.loss, 16, train_pom.scores)


def mosi_scores(output: list[float], label: list[float]) -> dict[str, float]:
    columns = np.array(output)[:, None], np.array(label)[:, None]
    return MOSI.scores(scored(MOSI, *columns))


def test_mosi_scores_match_the_release() -> None:
    given = METRICS["mosi"]
    result = mosi_scores(given["prediction"], given["label"])
    assert result["Test MAE"] == pytest.approx(given["MAE"], abs=1e-6)
    assert result["Test Corr"] == pytest.approx(given["Corr"], abs=1e-5)
    assert result["Test multiclass accuracy"] == given["multiclass_accuracy"]
    assert result["Test binary accuracy"] == given["binary_accuracy"]
    assert result["Test f1_score"] == pytest.approx(given["f1_weighted"], abs=1e-12)


def test_iemocap_scores_match_the_release() -> None:
    given = METRICS["iemocap"]
    task = iemocap_task(given["label"])
    result = task.scores(scored(task, given["output"], given["label"]))
    assert result["Test F1-score"] == pytest.approx(given["f1_weighted"], abs=1e-12)
    assert result["Test Accuracy Score"] == given["accuracy"]


def test_pom_scores_match_the_release() -> None:
    given = METRICS["pom"]
    result = POM.scores(scored(POM, given["prediction"], given["label"]))
    for name, key in (("MAE", "MAE"), ("corr", "Corr"), ("accuracy", "accuracy")):
        by_trait = [result[f"{trait} {name}"] for trait in train_pom.TRAITS]
        assert by_trait == pytest.approx(given[key], abs=6e-4)  # the file has three decimals
        assert result[f"Mean {name}"] == pytest.approx(np.mean(by_trait), abs=1e-6)


@pytest.mark.parametrize("script", ["mosi", "iemocap", "pom"])
def test_scores_fill_exactly_the_columns_of_the_csv(script: str) -> None:
    task, columns = {
        "mosi": (MOSI, train_mosi.COLUMNS),
        "iemocap": (iemocap_task(np.eye(2)[[0, 0, 1]]), train_iemocap.COLUMNS),
        "pom": (POM, train_pom.COLUMNS),
    }[script]
    label = (
        np.eye(2) if script == "iemocap" else np.random.default_rng(0).random((9, task.output_dim))
    )
    names = task.scores(scored(task, label, label))
    assert set(names) == {*columns.release, *columns.own}


def test_mosi_rounds_half_to_even_and_without_clipping() -> None:
    result = mosi_scores([0.5, 1.5, 2.5, 3.6, -3.6], [0, 2, 2, 3, -4])
    assert result["Test multiclass accuracy"] == 4 / 5  # 3.6 is a 4, not the scale's 3


def test_mosi_counts_zero_as_positive_unless_zeros_are_left_out() -> None:
    output, label = [0.0, -1.0, 2.0, -2.0, 1.0, -0.1], [0.0, 0.0, 1.0, -1.0, -2.0, 3.0]
    result = mosi_scores(output, label)
    assert result["Test binary accuracy"] == pytest.approx(3 / 6)
    # labels + + + - - +, outputs + - + - + -: F1 of + is 2 * 2 / (3 + 4), of - 2 * 1 / (3 + 2)
    assert result["Test f1_score"] == pytest.approx((4 * 4 / 7 + 2 * 2 / 5) / 6)
    # without the zeros: labels + - - +, outputs + - + -: F1 of both is 1 / 2
    assert result["Test binary accuracy without zeros"] == pytest.approx(1 / 2)
    assert result["Test f1_score without zeros"] == pytest.approx(1 / 2)


def test_mosi_f1_without_zeros_is_weighted_by_class() -> None:
    result = mosi_scores([1.0, 1.0, 1.0, 1.0, 3.0], [1.0, 1.0, 1.0, -1.0, 0.0])
    assert result["Test binary accuracy without zeros"] == pytest.approx(3 / 4)
    assert result["Test f1_score without zeros"] == pytest.approx(3 / 4 * 6 / 7)


def test_mosi_seven_and_five_classes_clip_both_sides() -> None:
    result = mosi_scores([3.8, -4.0, 2.6, -1.0, 2.0], [2.8, -3.0, 1.8, -0.4, -2.0])
    assert result["Test multiclass accuracy"] == 0  # 4 3, -4 -3, 3 2, -1 0, 2 -2
    assert result["Test 7-class accuracy"] == pytest.approx(2 / 5)  # the first two agree
    assert result["Test 5-class accuracy"] == pytest.approx(3 / 5)  # and 2.6 is a 2


CLASSES = [
    name for name in train_mosi.COLUMNS.release + train_mosi.COLUMNS.own if "MAE" not in name
]


@pytest.mark.parametrize(
    ("label", "defined"),
    [
        ([0.0, 0.0], set()),
        ([0.2, 0.4], {"Test Corr"}),  # all positive, and rounded the same
        ([1.0, 2.0], {"Test Corr", *(name for name in CLASSES if "class accuracy" in name)}),
        ([2.0, 3.0], {"Test Corr", "Test multiclass accuracy", "Test 7-class accuracy"}),
        ([0.0, -1.0], {*CLASSES} - {name for name in CLASSES if "without" in name}),
        ([1.0, -1.0], {*CLASSES}),
    ],
)
def test_mosi_scores_are_nan_where_test_has_one_class_only(
    label: list[float], defined: set[str]
) -> None:
    for output in ([1.0, 1.5], [-2.0, 1.0]):
        result = mosi_scores(output, label)
        assert {name for name in CLASSES if not math.isnan(result[name])} == defined
        assert math.isfinite(result["Test MAE"])


@pytest.mark.parametrize("present", [0, 1])
def test_iemocap_scores_the_emotion_itself_in_the_rarer_class_of_train(present: int) -> None:
    absent = 1 - present
    task = iemocap_task(np.eye(2)[[absent, absent, absent, present]])
    label = np.eye(2)[[present, present, present, absent, absent]]  # not the rarer one in test
    output = np.eye(2)[[present, absent, present, present, absent]] * 3
    result = task.scores(scored(task, output, label))
    assert result["Test F1-score of the emotion"] == pytest.approx(2 * 2 / (3 + 3))
    assert result["Test F1-score"] == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5)
    assert result["Test Accuracy Score"] == pytest.approx(3 / 5)
    right, wrong = math.log(1 + math.exp(-3)), math.log(1 + math.exp(3))
    assert result["Test CrossEntropyLoss"] == pytest.approx((3 * right + 2 * wrong) / 5)


@pytest.mark.parametrize("only", [0, 1])
def test_iemocap_scores_are_nan_where_test_lacks_the_emotion_or_has_nothing_else(only: int) -> None:
    task = iemocap_task(np.eye(2)[[0, 0, 1]])
    result = task.scores(scored(task, np.eye(2)[[0, 1]], np.eye(2)[[only, only]]))
    assert math.isfinite(result.pop("Test CrossEntropyLoss"))
    assert all(map(math.isnan, result.values()))


def test_pom_scores_each_trait_by_itself() -> None:
    label = np.tile(np.array([[2.0], [4.0], [6.0]]), 16)
    output = label.copy()
    output[:, 3] += [0.4, 0.6, -1.0]  # Dominant: rounded 2, 5, 5
    output[:, 13] = 6 - label[:, 13]  # Nervous: 4, 2, 0
    result = POM.scores(scored(POM, output, label))
    assert result["Dominant accuracy"] == pytest.approx(1 / 3)
    assert result["Dominant MAE"] == pytest.approx(2 / 3)
    assert result["Nervous corr"] == pytest.approx(-1)
    assert (result["Persuasive accuracy"], result["Persuasive MAE"]) == (1, 0)
    assert result["Persuasive corr"] == pytest.approx(1)
    assert result["Mean accuracy"] == pytest.approx((14 + 1 / 3 + 0) / 16)


def test_pom_reports_each_traits_validation_error() -> None:
    label = np.random.default_rng(0).uniform(1, 7, (9, 16))
    result = POM.scores(scored(POM, label, label))
    for trait in train_pom.TRAITS:
        assert result[f"{trait} validation MAE"] == pytest.approx(0.5, abs=1e-6)
        assert result[f"{trait} MAE"] == 0


def test_pom_trait_that_is_constant_has_no_correlation() -> None:
    label = np.random.default_rng(0).uniform(1, 7, (9, 16))
    output = label.copy()
    output[:, 5] = 4
    result = POM.scores(scored(POM, output, label))
    assert math.isnan(result["Vivid corr"])
    assert result["Expertise corr"] == pytest.approx(1)


def test_pom_trait_of_one_class_has_no_accuracy() -> None:
    label = np.random.default_rng(0).uniform(1, 7, (9, 16))
    label[:, 5] = 3.9 + 0.1 * label[:, 5] / 7
    result = POM.scores(scored(POM, label, label))
    assert math.isnan(result["Vivid accuracy"])
    assert math.isnan(result["Mean accuracy"])
    assert result["Vivid corr"] == pytest.approx(1)
    assert result["Expertise accuracy"] == 1
