"""The LSTM of the fast path on a GPU: all members go through every operation together.

No gradient flows to the inputs, so that all steps' inputs go through one product, and so do the
gradients of the weights. Gates are in the order o, i, f, g.

Shapes use: K members, B batch, N examples, T time steps, D features, H width, P parameters.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from training.parameters import LSTM_NAMES, Parameters
from training.words import Words


class Trace(NamedTuple):
    """What `lstm_backward` needs of `lstm_forward`.

    Shape:
        gates (T, K, B, 4H); hidden and cell, before each step and after the last, (T + 1, K, B, H);
        tanh_cell (T, K, B, H).
    """

    gates: Tensor
    hidden: Tensor
    cell: Tensor
    tanh_cell: Tensor


def lstm_forward(gates: Tensor, w_hh: Tensor) -> Trace:
    """Takes sequences through all their steps; the last of `hidden` are their final states.

    Args:
        gates: What the inputs and the biases give to the gates; it is overwritten.
        w_hh: Recurrent weights.

    Shape:
        gates (T, K, B, 4H); w_hh (K, H, 4H).
    """
    steps, members, batch, _ = gates.shape
    width = w_hh.shape[1]
    hidden = gates.new_empty(steps + 1, members, batch, width)
    cell = torch.empty_like(hidden)
    tanh_cell = torch.empty_like(hidden[1:])
    hidden[0] = 0
    cell[0] = 0
    for step, gate in enumerate(gates):
        if step:
            gate.baddbmm_(hidden[step], w_hh)
        gate[..., : 3 * width].sigmoid_()
        o, i, f, g = gate.split(width, dim=-1)
        g.tanh_()
        torch.mul(f, cell[step], out=cell[step + 1]).addcmul_(i, g)
        torch.tanh(cell[step + 1], out=tanh_cell[step])
        torch.mul(o, tanh_cell[step], out=hidden[step + 1])
    return Trace(gates, hidden, cell, tanh_cell)


def lstm_backward(trace: Trace, w_hh: Tensor, d_final: Tensor) -> Tensor:
    """Returns the gradient of the gates' inputs, (T, K, B, 4H).

    Shape:
        w_hh (K, H, 4H); d_final, the gradient of the final hidden states, (K, B, H).
    """
    gates, tanh_cell = trace.gates, trace.tanh_cell
    width = w_hh.shape[1]
    o, i, f, g = gates.split(width, dim=-1)
    d_gates = torch.empty_like(gates)  # first d cell or d hidden / d gate, then times those
    sigmoids = gates[..., : 3 * width]
    torch.addcmul(sigmoids, sigmoids, sigmoids, value=-1, out=d_gates[..., : 3 * width])
    d_o, d_i, d_f, d_g = d_gates.split(width, dim=-1)
    d_o.mul_(tanh_cell)
    d_i.mul_(g)
    d_f.mul_(trace.cell[:-1])
    torch.addcmul(i, i * g, g, value=-1, out=d_g)
    d_tanh = torch.addcmul(o, o * tanh_cell, tanh_cell, value=-1)  # d hidden / d cell

    recurrent = w_hh.transpose(1, 2)
    d_others = d_gates[..., width:].unflatten(-1, (3, width))
    d_hidden, d_cell = d_final, torch.zeros_like(d_final)
    for step in range(len(gates) - 1, -1, -1):
        d_cell = torch.addcmul(d_cell, d_hidden, d_tanh[step])
        d_o[step].mul_(d_hidden)
        d_others[step].mul_(d_cell.unsqueeze(-2))
        if step:
            d_cell = d_cell * f[step]
            d_hidden = torch.bmm(d_gates[step], recurrent)
    return d_gates


class TextOnGpu:
    """The members' LSTMs over the text of a split, padding included.

    Args:
        words: The split's.
        parameters: Where the members' weights lie.
        training: Whether `forward` keeps what `backward` needs.
    """

    def __init__(self, words: Words, parameters: Parameters, training: bool) -> None:
        self.words, self.parameters, self.training = words, parameters, training
        self.kept: tuple[Tensor, Trace] | None = None  # inputs, and what came of them

    def forward(self, index: Tensor, rows: Tensor) -> Tensor:
        """Returns the final states (K, B, H) of examples (K, B) by the weights in rows (K, P)."""
        w_ih, w_hh, b_ih, b_hh = self._weights(rows)
        inputs = self.words.vectors[self.words.ids[index].transpose(1, 2).flatten(1)]  # (K, TB, D)
        gates = torch.baddbmm((b_ih + b_hh).unsqueeze(1), inputs, w_ih)
        gates = gates.unflatten(1, (-1, index.shape[1])).transpose(0, 1).contiguous()
        trace = lstm_forward(gates, w_hh)
        if self.training:
            self.kept = inputs, trace
        return trace.hidden[-1]

    def backward(self, d_final: Tensor, rows: Tensor, grads: Tensor) -> None:
        """Writes the gradients of the LSTMs' weights into their places in grads (K, P)."""
        assert self.kept
        inputs, trace = self.kept
        w_hh = self._weights(rows)[1]
        d_w_ih, d_w_hh, d_b_ih, d_b_hh = self._weights(grads)
        d_gates = lstm_backward(trace, w_hh, d_final).transpose(0, 1).flatten(1, 2)
        hidden = trace.hidden[:-1].transpose(0, 1).flatten(1, 2)  # (K, TB, H)
        torch.bmm(hidden.transpose(1, 2), d_gates, out=d_w_hh)
        torch.bmm(inputs.transpose(1, 2), d_gates, out=d_w_ih)
        torch.sum(d_gates, dim=1, out=d_b_ih)
        d_b_hh.copy_(d_b_ih)
        self.kept = None

    def _weights(self, rows: Tensor) -> list[Tensor]:
        return [self.parameters.view(rows, name).flatten(-2) for name in LSTM_NAMES]
