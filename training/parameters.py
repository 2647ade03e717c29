"""Where the fast path keeps the weights of many settings: a row for each, padded to common sizes.

Shapes use: K members, D features, H width of the LSTM, R rank, O outputs, P parameters.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from model import LMF
from training.setting import Setting

LINE = 16  # floats of a cache line: rows that begin on one are multiplied alike at any place
LSTM = "text_subnet.rnn."
LSTM_NAMES = [f"{LSTM}{name}_l0" for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")]
_OIFG, _IFGO = [3, 0, 1, 2], [1, 2, 3, 0]  # the order of the gates: here from torch's, and back


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


class Parameters:
    """Where each of LMF's parameters lies in a member's row.

    The factors come first, as (width + 1, R, O); the LSTM's come last, as (D, 4H), (H, 4H) and
    (4H,), with gates in the order o, i, f, g. Features are padded as `padded` does.

    Attributes:
        modalities: Those that the models have.
        statistics: How many features each statistic of BatchNorm has, by its name in LMF.
        shapes: Of each parameter as it lies there, by its name in LMF.
        starts: Where it begins.
        width: Length of a row, P.
        factors_end: Where the factors end.
        lstm_start: Where the LSTM's begin.
    """

    def __init__(self, size: Sizes, input_dims: Sequence[int], output_dim: int) -> None:
        self.size = size
        self.input_dims = [_round_up(features, LINE) for features in input_dims]
        widths = size.audio, size.video, size.text
        with torch.device("meta"):  # shapes alone
            model = LMF(
                self.input_dims, widths, size.text // 2, (0.0, 0.0, 0.0), output_dim, size.rank
            )
        self.modalities = model.modalities
        self.statistics = {name: len(value) for name, value in model.named_buffers() if value.dim()}
        named = {name: _stored(name, value) for name, value in model.named_parameters()}
        names = sorted(
            named, key=lambda name: (not name.endswith("_factor"), name.startswith(LSTM))
        )
        self.shapes = {name: tuple(named[name].shape) for name in names}
        self.starts: dict[str, int] = {}
        self.width = 0
        for name, shape in self.shapes.items():
            self.starts[name] = self.width
            self.width += _round_up(math.prod(shape), LINE)
            if name.endswith("_factor"):
                self.factors_end = self.width
        self.lstm_start = self.starts.get(LSTM_NAMES[0], self.width)

    def view(self, rows: Tensor, name: str) -> Tensor:
        """Returns one parameter (K, *shape) of the members' rows (K, P)."""
        start, shape = self.starts[name], self.shapes[name]
        return rows[:, start : start + math.prod(shape)].unflatten(1, shape)

    def linears(self, subnet: str) -> list[str]:
        """Returns the names of a subnetwork's linear layers, in order."""
        start, end = f"{subnet}.linear_", ".weight"
        return sorted(
            name.removesuffix(end)
            for name in self.shapes
            if name.startswith(start) and name.endswith(end)
        )

    def pack(self, row: Tensor, state_dict: Mapping[str, Tensor]) -> None:
        """Writes a plain model's parameters into a row (P,), zeros around them."""
        row.zero_()
        for name in self.shapes:
            value = _stored(name, state_dict[name])
            if name.startswith(LSTM):
                value = value[..., _OIFG, :]
            self._corner(row, name, value.shape).copy_(value)

    def unpack(self, row: Tensor, state_dict: Mapping[str, Tensor]) -> None:
        """Writes a row's parameters (P,) into those of a plain model."""
        for name in self.shapes:
            target = _stored(name, state_dict[name])
            corner = self._corner(row, name, target.shape)
            target.copy_(corner[..., _IFGO, :] if name.startswith(LSTM) else corner)

    def _corner(self, row: Tensor, name: str, shape: Sequence[int]) -> Tensor:
        """Returns the part of one row that holds an unpadded parameter of this stored shape."""
        whole = self.view(row.unsqueeze(0), name)[0]
        return whole[tuple(slice(length) for length in shape)]


def _stored(name: str, value: Tensor) -> Tensor:
    """Returns a view of LMF's parameter in the form in which it lies in a row."""
    if name.startswith(LSTM):
        gates = value.unflatten(0, (4, -1))  # (4, H, D) or (4, H)
        return gates.movedim(2, 0) if gates.dim() == 3 else gates  # (D, 4, H)
    if name.endswith("_factor"):
        return value.transpose(0, 1)
    return value
