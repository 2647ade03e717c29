"""A hyperparameter setting: its values, their ranges and texts, and the model it stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict

from utils import InputError


class Setting(NamedTuple):
    """One point of the search space, in the order of the CSV's columns."""

    audio_hidden: int
    video_hidden: int
    text_hidden: int
    audio_dropout: float
    video_dropout: float
    text_dropout: float
    factor_learning_rate: float
    learning_rate: float
    rank: int
    batch_size: int
    weight_decay: float

    @property
    def text_out(self) -> int:
        """Width of the text subnetwork's output, as in the release."""
        return self.text_hidden // 2

    @property
    def dropouts(self) -> tuple[float, float, float]:
        """Dropout probabilities of (audio, video, text)."""
        return self.audio_dropout, self.video_dropout, self.text_dropout

    def texts(self) -> tuple[str, ...]:
        """Returns the values as they stand in CSV files and seed the random streams."""
        return tuple(f"{value:.15g}" for value in self)


class Range(NamedTuple):
    """What a hyperparameter can be: whole or not, from least to most, or also zero.

    Learning rates and decays beyond these would overflow or vanish in float32, and a dropout
    nearer to 1 would be 1 there.
    """

    whole: bool
    least: float
    most: float
    zero: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.whole else "a number"
        return f"{'0 or ' * self.zero}{kind} from {self.least:g} to {self.most:.15g}"

    def holds(self, value: float) -> bool:
        """Returns whether the value lies in it."""
        return self.least <= value <= self.most or (self.zero and value == 0)


RANGES = {
    "audio_hidden": Range(True, 1, 2**16),
    "video_hidden": Range(True, 1, 2**16),
    "text_hidden": Range(True, 2, 2**16),  # half of it is the width of the text's output
    "audio_dropout": Range(False, 1e-7, 0.999999, zero=True),
    "video_dropout": Range(False, 1e-7, 0.999999, zero=True),
    "text_dropout": Range(False, 1e-7, 0.999999, zero=True),
    "factor_learning_rate": Range(False, 1e-30, 1e30),
    "learning_rate": Range(False, 1e-30, 1e30),
    "rank": Range(True, 1, 2**16),
    "batch_size": Range(True, 2, 2**16),  # BatchNorm can't train on one example
    "weight_decay": Range(False, 1e-30, 1e30, zero=True),
}
assert tuple(RANGES) == Setting._fields


def parse_value(name: str, text: str) -> float:
    """Returns a hyperparameter's value.

    Raises:
        InputError: The text is no number, or one that makes no sense for this hyperparameter.
    """
    valid = RANGES[name]
    try:
        value = int(text) if valid.whole else float(f"{float(text):.15g}")  # as it will be printed
    except ValueError:
        value = math.nan
    if not text.isascii() or "_" in text:  # which Python takes for numbers
        value = math.nan
    if not valid.holds(value):
        raise InputError(f"{name}: expected {valid}, got {text!r}")
    return value + 0  # -0 is 0


def describe(setting: Setting, seed: int | None = None) -> str:
    """Returns a setting in one line, as --grid takes it."""
    pairs = zip(Setting._fields, setting.texts(), strict=True)
    words = [f"{name}={text}" for name, text in pairs]
    return " ".join(words if seed is None else [*words, f"seed={seed}"])


class ModelConfig(TypedDict):
    """The arguments with which `LMF` makes a setting's model."""

    input_dims: list[int]
    hidden_dims: list[int]
    text_out: int
    dropouts: list[float]
    output_dim: int
    rank: int


def model_config(setting: Setting, input_dims: Sequence[int], output_dim: int) -> ModelConfig:
    """Returns the arguments with which `LMF` makes the setting's model."""
    return ModelConfig(
        input_dims=list(input_dims),
        hidden_dims=list(setting[:3]),
        text_out=setting.text_out,
        dropouts=list(setting.dropouts),
        output_dim=output_dim,
        rank=setting.rank,
    )
