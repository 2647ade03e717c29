"""A hyperparameter setting: its values, their ranges and texts, and the model it stands for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple, TypedDict, get_type_hints

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


_TYPES = get_type_hints(Setting)
_MOST = 2**16  # width, rank or batch size


def parse_value(name: str, text: str) -> float:
    """Returns a hyperparameter's value.

    Raises:
        InputError: The text is no number, or one that makes no sense for this hyperparameter.
    """
    whole = _TYPES[name] is int
    try:
        value = int(text) if whole else float(f"{float(text):.15g}")  # as it will be printed
    except ValueError:
        value = math.nan
    least = {"text_hidden": 2, "batch_size": 2}.get(name, 1)
    if whole:
        valid, expected = least <= value <= _MOST, f"a whole number from {least} to {_MOST}"
    elif name.endswith("_dropout"):
        valid, expected = 0 <= value < 1, "a number from 0 to below 1"
    elif name == "weight_decay":
        valid, expected = 0 <= value < math.inf, "a number of at least 0"
    else:
        valid, expected = 0 < value < math.inf, "a number above 0"
    if not valid:
        raise InputError(f"{name}: expected {expected}, got {text!r}")
    return value


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
