"""Search LMF's hyperparameters on data of your own: classification, the file says how many classes.

python examples/train_own.py --data_path data --settings 20

docs/own-data.md leads from arrays to predictions, also for regression and for several labels.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # this is run as a script

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

import numpy as np
from torch import Tensor

from search.columns import Columns
from search.experiment import Experiment
from search.options import parser, read_options, run_script
from search.search import search
from training.result import Data, Scored, Task
from utils import InputError, accuracy, weighted_f1

NAME = "own"  # of the data, own.pkl, and of this script, train_own.py

GRID = {
    "audio_hidden": [4, 8, 16],
    "video_hidden": [4, 8, 16],
    "text_hidden": [64, 128],
    "audio_dropout": [0, 0.2, 0.5],
    "video_dropout": [0, 0.2, 0.5],
    "text_dropout": [0, 0.2, 0.5],
    "factor_learning_rate": [0.0003, 0.001, 0.003],
    "learning_rate": [0.0003, 0.001, 0.003],
    "rank": [1, 4, 8],
    "batch_size": [16, 32, 64],
    "weight_decay": [0, 0.001, 0.01],
}

COLUMNS = Columns(
    valid_loss="Best Validation cross-entropy",
    release=(),
    own=("Test cross-entropy", "Test accuracy", "Test weighted F1"),
    headline="Test accuracy",
)


def loss(output: Tensor, label: Tensor) -> Tensor:
    """Returns cross-entropies (..., B) of logits (..., B, C) and class numbers (..., B, 1)."""
    return output.logsumexp(-1) - output.gather(-1, label.long()).squeeze(-1)


def scores(scored: Scored) -> dict[str, float]:
    """Returns the test scores by CSV column."""
    output, label = scored.test_output.argmax(axis=1), scored.test_label[:, 0]
    return {
        "Test cross-entropy": scored.test_loss,
        "Test accuracy": accuracy(output, label),
        "Test weighted F1": weighted_f1(output, label),
    }


def make_task(data: Data) -> Task:
    """Returns the task; classes are counted from 0 to the highest in train."""
    labels = [split.label.numpy() for split in data]
    classes = int(labels[0].max()) + 1
    if classes < 2:
        raise InputError(f"{NAME}.pkl: expected class numbers 0, 1 and so on, got 0 only in train")
    if any(not np.isin(label, range(classes)).all() or label.shape[1] > 1 for label in labels):
        raise InputError(
            f"{NAME}.pkl: expected a class number from 0 to {classes - 1}, the highest in train, "
            "as each example's label (N, 1), got others; for those see docs/own-data.md"
        )
    return Task(output_dim=classes, loss=loss, loss_divisor=1, scores=scores)


EXPERIMENT = Experiment(
    name=NAME,
    grid=GRID,
    columns=COLUMNS,
    task=make_task,
    classes=True,
)


def main(options: Mapping[str, object] | None = None) -> Path:
    """Searches as the command line's flags, or a dict of them, say; returns the CSV's path."""
    flags = parser(__doc__, NAME, epochs=100, output_dim=None)
    return search(EXPERIMENT, read_options(flags, options))


if __name__ == "__main__":
    run_script(main)
