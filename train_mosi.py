"""Search LMF's hyperparameters on CMU-MOSI: the sentiment of a sentence, from -3 to 3.

python train_mosi.py --run_id 19260817 --epochs 50 --patience 20 --output_dim 1 --signiture test_run
"""

from __future__ import annotations

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from torch import Tensor

from search.columns import Columns
from search.experiment import Experiment
from search.options import parser, read_options, run_script
from search.search import search
from training.result import Scored, Task
from utils import accuracy, correlation, weighted_f1

GRID = {
    "audio_hidden": [4, 8, 16],
    "video_hidden": [4, 8, 16],
    "text_hidden": [64, 128, 256],
    "audio_dropout": [0, 0.1, 0.15, 0.2, 0.3, 0.5],
    "video_dropout": [0, 0.1, 0.15, 0.2, 0.3, 0.5],
    "text_dropout": [0, 0.1, 0.15, 0.2, 0.3, 0.5],
    "factor_learning_rate": [0.0003, 0.0005, 0.001, 0.003],
    "learning_rate": [0.0003, 0.0005, 0.001, 0.003],
    "rank": [1, 4, 8, 16],
    "batch_size": [4, 8, 16, 32, 64, 128],
    "weight_decay": [0, 0.001, 0.002, 0.01],
}

COLUMNS = Columns(
    valid_loss="Best Validation MAE",
    release=(
        "Test MAE",
        "Test Corr",
        "Test multiclass accuracy",
        "Test binary accuracy",
        "Test f1_score",
    ),
    own=(
        "Test binary accuracy without zeros",
        "Test f1_score without zeros",
        "Test 7-class accuracy",
        "Test 5-class accuracy",
    ),
    headline="Test MAE",
)


def loss(output: Tensor, label: Tensor) -> Tensor:
    """Returns the absolute error of each example: (..., B) from two of (..., B, 1)."""
    return (output - label).abs().sum(-1)


def scores(scored: Scored) -> dict[str, float]:
    """Returns the test scores by CSV column.

    Source:
        The release: rounding is half to even and unclipped, and zero counts as positive. The own
        columns are the variants of later papers. NaN: the test split has one class only.
    """
    output, label = scored.test_output[:, 0], scored.test_label[:, 0]
    binary = output >= 0, label >= 0
    nonzero = label != 0
    binary_nonzero = output[nonzero] > 0, label[nonzero] > 0
    return {
        "Test MAE": scored.test_loss,
        "Test Corr": correlation(output, label),
        "Test multiclass accuracy": accuracy(output.round(), label.round()),
        "Test binary accuracy": accuracy(*binary),
        "Test f1_score": weighted_f1(*binary),
        "Test binary accuracy without zeros": accuracy(*binary_nonzero),
        "Test f1_score without zeros": weighted_f1(*binary_nonzero),
        "Test 7-class accuracy": accuracy(*_classes(output, label, 3)),
        "Test 5-class accuracy": accuracy(*_classes(output, label, 2)),
    }


def _classes(output: np.ndarray, label: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns both rounded to whole numbers from -most to most."""
    return output.clip(-most, most).round(), label.clip(-most, most).round()


EXPERIMENT = Experiment(
    name="mosi",
    grid=GRID,
    columns=COLUMNS,
    task=lambda data: Task(output_dim=1, loss=loss, loss_divisor=1, scores=scores),
)


def main(options: Mapping[str, object] | None = None) -> Path:
    """Searches as the command line's flags, or a dict of them, say; returns the CSV's path."""
    flags = parser(__doc__, EXPERIMENT.name, epochs=500, output_dim=1)
    return search(EXPERIMENT, read_options(flags, options))


if __name__ == "__main__":
    run_script(main)
