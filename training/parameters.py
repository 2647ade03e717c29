"""How the fast path lays out the weights of many settings.

Shapes use: K members, D features, H width of the LSTM, R rank, O outputs, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from torch import Tensor

from training.setting import Setting

LINE = 16  # floats of a cache line: rows that begin on one are multiplied alike at any place


class Sizes(NamedTuple):
    """What the members of a stack have in common: the batch size, and the padded widths."""

    batch_size: int
    audio: int
    video: int
    text: int
    rank: int


def sizes(setting: Setting) -> Sizes:
    """Returns the sizes of the stacks in which a setting trains; they follow from it alone."""
    return Sizes(
        setting.batch_size,
        _round_up(setting.audio_hidden, LINE),
        _round_up(setting.video_hidden, LINE),
        _round_up(setting.text_hidden, 64),
        _round_up(setting.rank, LINE),
    )


def padded(x: Tensor) -> Tensor:
    """Returns x (..., D) with zeros behind its features, so that rows are whole cache lines."""
    return F.pad(x, (0, -x.shape[-1] % LINE))


def _round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


class Layout:
    """Where each parameter lies in a member's row: factors first, what is hand-derived last.

    Factors lie as (width + 1, R, O), LSTM weights with gates in the order o, i, f, g. Features are
    padded as `padded` does.
    """

    def __init__(self, size: Sizes, input_dims: Sequence[int], output_dim: int) -> None:
        text_out = size.text // 2
        self.input_dims = [_round_up(features, LINE) for features in input_dims]
        audio_in, video_in, text_in = self.input_dims
        shapes = {
            "audio_factor": (size.audio + 1, size.rank, output_dim),
            "video_factor": (size.video + 1, size.rank, output_dim),
            "text_factor": (text_out + 1, size.rank, output_dim),
            "fusion_weights": (1, size.rank),
            "fusion_bias": (1, output_dim),
            "text_subnet.linear_1.weight": (text_out, size.text),
            "text_subnet.linear_1.bias": (text_out,),
        }
        for subnet, inputs, hidden in (
            ("audio_subnet", audio_in, size.audio),
            ("video_subnet", video_in, size.video),
        ):
            shapes |= {f"{subnet}.norm.weight": (inputs,), f"{subnet}.norm.bias": (inputs,)}
            for layer, width in ((1, inputs), (2, hidden), (3, hidden)):
                shapes[f"{subnet}.linear_{layer}.weight"] = (hidden, width)
                shapes[f"{subnet}.linear_{layer}.bias"] = (hidden,)
        self.derived = list(shapes)  # by autograd
        shapes |= {
            "text_subnet.rnn.weight_ih_l0": (4 * size.text, text_in),
            "text_subnet.rnn.weight_hh_l0": (4 * size.text, size.text),
            "text_subnet.rnn.bias_ih_l0": (4 * size.text,),
            "text_subnet.rnn.bias_hh_l0": (4 * size.text,),
        }
        self.shapes = shapes
        self.starts: dict[str, int] = {}
        self.width = 0
        for name, shape in shapes.items():
            self.starts[name] = self.width
            self.width += _round_up(math.prod(shape), LINE)
        self.factors_end = self.starts["fusion_weights"]

    def view(self, rows: Tensor, name: str) -> Tensor:
        """Returns one parameter (K, *shape) of the members' rows (K, width)."""
        start, shape = self.starts[name], self.shapes[name]
        return rows[:, start : start + math.prod(shape)].unflatten(1, shape)

    def _corner(self, row: Tensor, name: str, shape: Sequence[int]) -> Tensor:
        """Returns the part of one row that holds an unpadded parameter, in its own order."""
        whole = self.view(row.unsqueeze(0), name)[0]
        if name.startswith("text_subnet.rnn"):
            gates = whole.unflatten(0, (4, -1))
            return gates[(slice(None), *(slice(n) for n in (shape[0] // 4, *shape[1:])))]
        if name.endswith("_factor"):
            whole = whole.transpose(0, 1)
        return whole[tuple(slice(n) for n in shape)]

    def pack(self, row: Tensor, state_dict: dict[str, Tensor]) -> None:
        """Writes a plain model's parameters into a row, zeros around them."""
        row.zero_()
        for name in self.shapes:
            value = state_dict[name]
            corner = self._corner(row, name, value.shape)
            if name.startswith("text_subnet.rnn"):
                value = value.unflatten(0, (4, -1))[[3, 0, 1, 2]]  # torch has i, f, g, o
            corner.copy_(value)

    def unpack(self, row: Tensor, state_dict: dict[str, Tensor]) -> None:
        """Writes a row's parameters into those of a plain model."""
        for name in self.shapes:
            value = state_dict[name]
            corner = self._corner(row, name, value.shape)
            if name.startswith("text_subnet.rnn"):
                corner = corner[[1, 2, 3, 0]].flatten(0, 1)
            value.copy_(corner)
