"""Search LMF's hyperparameters on POM: 16 traits of a speaker as others see them, from 1 to 7.

python train_pom.py --settings 100
python train_pom.py --hyperparams
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
from utils import accuracy, correlation

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

TRAITS = (
    "Confidence",
    "Passionate",
    "Pleasant",
    "Dominant",
    "Credible",
    "Vivid",
    "Expertise",
    "Entertaining",
    "Reserved",
    "Trusting",
    "Relaxed",
    "Outgoing",
    "Thorough",
    "Nervous",
    "Persuasive",
    "Humorous",
)

COLUMNS = Columns(
    valid_loss="Best Validation MAE",
    release=tuple(f"{trait} {score}" for score in ("accuracy", "MAE", "corr") for trait in TRAITS),
    own=(
        "Mean accuracy",
        "Mean MAE",
        "Mean corr",
        *(f"{trait} validation MAE" for trait in TRAITS),
    ),
    headline="Mean MAE",
)


def loss(output: Tensor, label: Tensor) -> Tensor:
    """Returns the absolute error of each example, summed over its traits: (..., B)."""
    return (output - label).abs().sum(-1)


def scores(scored: Scored) -> dict[str, float]:
    """Returns the test scores, and each trait's validation MAE, by CSV column.

    Source:
        The release: rounding is half to even and unclipped. The paper reports means over traits.
        NaN: the test split has one class, or one value, only.
    """
    output, label = scored.test_output, scored.test_label
    by_trait = {
        "accuracy": [
            accuracy(*pair) for pair in zip(output.T.round(), label.T.round(), strict=True)
        ],
        "MAE": np.abs(output - label).mean(axis=0),
        "corr": [correlation(*pair) for pair in zip(output.T, label.T, strict=True)],
        "validation MAE": np.abs(scored.valid_output - scored.valid_label).mean(axis=0),
    }
    return {
        **{
            f"{trait} {score}": float(value)
            for score, values in by_trait.items()
            for trait, value in zip(TRAITS, values, strict=True)
        },
        **{
            f"Mean {score}": float(np.mean(by_trait[score]))
            for score in ("accuracy", "MAE", "corr")
        },
    }


EXPERIMENT = Experiment(
    name="pom",
    grid=GRID,
    columns=COLUMNS,
    task=lambda data: Task(output_dim=16, loss=loss, loss_divisor=16, scores=scores),
    outputs=TRAITS,
)


def main(options: Mapping[str, object] | None = None) -> Path:
    """Searches as the command line's flags, or a dict of them, say; returns the CSV's path."""
    flags = parser(__doc__, EXPERIMENT.name, epochs=500, output_dim=16)
    return search(EXPERIMENT, read_options(flags, options))


if __name__ == "__main__":
    run_script(main)
