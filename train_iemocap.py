"""Search LMF's hyperparameters on IEMOCAP: is an emotion present in an utterance, or absent?

python train_iemocap.py --emotion sad --settings 100
python train_iemocap.py --emotion all --hyperparams
"""

from __future__ import annotations

if __name__ == "__main__":  # the imports below take seconds
    from search.signals import end_at_once

    end_at_once()

from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from search.columns import Columns
from search.experiment import Experiment
from search.options import parser, read_options, run_script
from search.search import search
from training.result import Data, Scored, Task
from utils import EMOTIONS, InputError, accuracy, binary_f1, require_emotions, weighted_f1

GRID = {
    "audio_hidden": [4, 8, 16, 32],
    "video_hidden": [4, 8, 16],
    "text_hidden": [64, 128, 256],
    "audio_dropout": [0, 0.1, 0.15, 0.2, 0.3, 0.5],
    "video_dropout": [0, 0.1, 0.15, 0.2, 0.3, 0.5],
    "text_dropout": [0, 0.1, 0.15, 0.2, 0.3, 0.5],
    "factor_learning_rate": [0.0003, 0.0005, 0.001, 0.003],
    "learning_rate": [0.0003, 0.0005, 0.001, 0.003],
    "rank": [1, 4, 8, 16],
    "batch_size": [8, 16, 32, 64, 128],
    "weight_decay": [0, 0.001, 0.002, 0.01],
}

COLUMNS = Columns(
    valid_loss="Best Validation CrossEntropyLoss",
    release=("Test CrossEntropyLoss", "Test F1-score", "Test Accuracy Score"),
    own=("Test F1-score of the emotion",),
    headline="Test F1-score",
)


def loss(output: Tensor, label: Tensor) -> Tensor:
    """Returns the cross-entropy of each example: (..., B) from logits and one-hot (..., B, 2)."""
    target = label.argmax(-1, keepdim=True)
    return output.logsumexp(-1) - output.gather(-1, target).squeeze(-1)


def scores(scored: Scored, present: int) -> dict[str, float]:
    """Returns the test scores by CSV column; NaN where the test split has one class only.

    Args:
        scored: What they are computed from.
        present: Which label column means that the emotion is present. Only its own F1 needs it.
    """
    output, label = scored.test_output.argmax(axis=1), scored.test_label.argmax(axis=1)
    return {
        "Test CrossEntropyLoss": scored.test_loss,
        "Test F1-score": weighted_f1(output, label),
        "Test Accuracy Score": accuracy(output, label),
        "Test F1-score of the emotion": binary_f1(output == present, label == present),
    }


def make_task(data: Data) -> Task:
    """Returns the task; an emotion is taken to be present in the rarer class of train."""
    present = int(torch.argmin(data.train.label.sum(dim=0)))
    return Task(output_dim=2, loss=loss, loss_divisor=1, scores=partial(scores, present=present))


EXPERIMENT = Experiment(
    name="iemocap",
    grid=GRID,
    columns=COLUMNS,
    task=make_task,
    classes=True,
)


def main(options: Mapping[str, object] | None = None) -> list[Path]:
    """Searches as the command line's flags, or a dict of them, say; returns the CSVs' paths."""
    flags = parser(__doc__, EXPERIMENT.name, epochs=100, output_dim=2)
    flags.add_argument("--emotion", default="happy", help=f"{', '.join(EMOTIONS)}, or all")
    read = read_options(flags, options)
    if read.emotion not in (*EMOTIONS, "all"):
        raise InputError(f"--emotion: expected {', '.join(EMOTIONS)} or all, got {read.emotion!r}")
    if read.emotion == "all":
        require_emotions(read.data_path)
    emotions = EMOTIONS if read.emotion == "all" else (read.emotion,)
    return [search(EXPERIMENT, read, emotion) for emotion in emotions]


if __name__ == "__main__":
    run_script(main)
