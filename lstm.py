"""The LSTM of the fast path: forward and backward by hand, for K weight sets at once.

No gradient flows to the inputs, so all steps' inputs go through one product; so do the gradients of
the weights. Sequences may start at different steps: those that begin with zero frames need not be
computed until their first word, since the state after p zero frames depends on p alone. One
sequence of zeros then serves them all; the gradients at their starts add up into it.

Shapes use: K weight sets, T time steps, F frames, D features, H width.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from utils import Split

VALID_CHUNK = 64  # examples of the valid split that go through a GPU's members at once


class Trace(NamedTuple):
    """What `lstm_backward` needs of `lstm_forward`; gates in the order o, i, f, g.

    The tensors but frames are step-major: the rows of one step, of all members, lie together.
    """

    frames: Tensor
    counts: Sequence[int]
    gates: Tensor
    hidden: Tensor
    cell: Tensor
    tanh_cell: Tensor


def lstm_forward(
    frames: Tensor, counts: Sequence[int], w_ih: Tensor, w_hh: Tensor, bias: Tensor
) -> tuple[Tensor, Trace]:
    """Returns the final hidden states of sequences that start at different steps.

    Args:
        frames: The inputs of step 0, then those of step 1, and so on.
        counts: How many sequences are under way at each step; it never falls, and with more
            than one member it never rises. Sequence j enters at the first step with counts > j,
            in the state that sequence 0 then has.
        w_ih: Input weights, gates in the order o, i, f, g.
        w_hh: Recurrent weights, likewise.
        bias: The sum of both biases, likewise.

    Shape:
        frames (K, F, D) with F = sum(counts); w_ih (K, 4H, D); w_hh (K, 4H, H); bias (K, 4H).
        Returns (K, counts[-1], H).
    """
    members, rows, width = frames.shape[0], frames.shape[1], w_hh.shape[2]
    inputs = torch.baddbmm(bias.unsqueeze(1), frames, w_ih.transpose(1, 2))  # (K, F, 4H)
    gates = _step_major(inputs, len(counts))
    recurrent = w_hh.transpose(1, 2).contiguous()
    hidden = frames.new_empty(members * (rows + counts[-1]), width)  # of the step before
    cell = torch.empty_like(hidden)
    tanh_cell = frames.new_empty(members * rows, width)
    hidden[: members * counts[0]] = 0
    cell[: members * counts[0]] = 0
    at = [members * count for count in counts]  # rows of each step
    after = [*at[1:], at[-1]]
    steps = zip(
        at,
        after,
        gates.split(at),
        gates[:, : 3 * width].split(at),
        *(gate.split(at) for gate in gates.split(width, dim=1)),
        tanh_cell.split(at),
        hidden.split([*at, at[-1]]),
        hidden[at[0] :].split(after),
        cell.split([*at, at[-1]]),
        cell[at[0] :].split(after),
        strict=False,
    )
    for step, (n, m, gate, sigmoid, o, i, f, g, tanh, h, next_h, c, next_c) in enumerate(steps):
        if step:
            gate.view(members, -1, 4 * width).baddbmm_(h.view(members, -1, width), recurrent)
        sigmoid.sigmoid_()
        g.tanh_()
        new_c, new_h = (next_c[:n], next_h[:n]) if m > n else (next_c, next_h)
        torch.mul(f, c, out=new_c).addcmul_(i, g)
        torch.tanh(new_c, out=tanh)
        torch.mul(o, tanh, out=new_h)
        if m > n:
            next_h[n:] = new_h[0]
            next_c[n:] = new_c[0]
    final = hidden[members * rows :].view(members, counts[-1], width)
    return final, Trace(frames, counts, gates, hidden, cell, tanh_cell)


def lstm_backward(
    trace: Trace, w_hh: Tensor, d_final: Tensor, d_w_ih: Tensor, d_w_hh: Tensor, d_bias: Tensor
) -> None:
    """Writes the gradients of `lstm_forward`'s weights into d_w_ih, d_w_hh and d_bias.

    Shape:
        d_final (K, counts[-1], H), the gradient of the final hidden states; the rest as there.
    """
    frames, counts, gates, hidden, cell, tanh_cell = trace
    members, width = w_hh.shape[0], w_hh.shape[2]
    hidden, cell = hidden[: len(gates)], cell[: len(gates)]
    o, i, f, g = gates.split(width, dim=1)
    d_gates = torch.empty_like(gates)  # first d cell or d hidden / d gate, then times those
    sigmoids = gates[:, : 3 * width]
    torch.addcmul(sigmoids, sigmoids, sigmoids, value=-1, out=d_gates[:, : 3 * width])
    d_o, d_i, d_f, d_g = d_gates.split(width, dim=1)
    d_o.mul_(tanh_cell)
    d_i.mul_(g)
    d_f.mul_(cell)
    torch.addcmul(i, i * g, g, value=-1, out=d_g)
    d_tanh = torch.addcmul(o, o * tanh_cell, tanh_cell, value=-1)  # d hidden / d cell

    d_hidden = d_final.reshape(-1, width)
    d_cell = torch.zeros_like(d_hidden)
    at = [members * count for count in counts]
    parts = (d_tanh, d_o, d_gates[:, width:].unflatten(1, (3, width)), d_gates, f)
    steps = list(zip(*(part.split(at) for part in parts), strict=True))
    for step in range(len(counts) - 1, -1, -1):
        d_tanh_now, d_o_now, d_others, d_gate, forget = steps[step]
        d_cell = torch.addcmul(d_cell, d_hidden, d_tanh_now)
        d_o_now.mul_(d_hidden)
        d_others.mul_(d_cell.unsqueeze(1))
        if step:
            d_cell = d_cell * forget
            d_hidden = torch.bmm(d_gate.view(members, -1, 4 * width), w_hh).view(-1, width)
            before = at[step - 1]
            if before < at[step]:  # those that entered had the state of sequence 0
                d_hidden[0] += d_hidden[before:].sum(0)
                d_cell[0] += d_cell[before:].sum(0)
                d_hidden, d_cell = d_hidden[:before], d_cell[:before]
    transposed = _member_major(d_gates, members, len(counts)).transpose(1, 2)  # (K, 4H, F)
    torch.bmm(transposed, frames, out=d_w_ih)
    torch.bmm(transposed, _member_major(hidden, members, len(counts)), out=d_w_hh)
    torch.sum(transposed, dim=2, out=d_bias)


def _step_major(x: Tensor, steps: int) -> Tensor:
    """Returns (K, F, D) as (F * K, D), the rows of one step together."""
    if len(x) > 1:
        x = x.unflatten(1, (steps, -1)).transpose(0, 1)
    return x.reshape(-1, x.shape[-1])


def _member_major(x: Tensor, members: int, steps: int) -> Tensor:
    """Returns (F * K, D) as (K, F, D), undoing `_step_major`."""
    if members == 1:
        return x.unsqueeze(0)
    return x.view(steps, members, -1, x.shape[-1]).transpose(0, 1).flatten(1, 2)


def leading_zero_frames(text: Tensor) -> Tensor:
    """Returns how many zero frames each of (N, T, D) begins with, at most T - 1: (N,)."""
    words = text.ne(0).any(dim=2)
    words[:, -1] = True
    return words.byte().argmax(dim=1)


def skipping_pays(width: int, batch_size: int) -> bool:
    """Returns whether leaving padding out is faster on a CPU: for large products it is."""
    return width >= 256 or width * batch_size > 1024


class Text:
    """The LSTM over a split's text, with or without the zero frames in front of the words."""

    def __init__(self, text: Tensor, batch_size: int, skips: bool) -> None:
        self.batch_size, self.steps = batch_size, text.shape[1]
        self.frames = text.flatten(0, 1)  # (N * T, D)
        self.padding = leading_zero_frames(text)
        padded = self.padding.nonzero() if skips else []
        self.skips = len(padded) > 0
        self.zero_frame = int(padded[0]) * self.steps if self.skips else 0

    def positions(self, order: Tensor) -> Tensor:
        """Returns an epoch's positions (K, N); in a batch the least padded examples come first."""
        positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
        if not self.skips:
            return positions
        batch = positions // self.batch_size
        return (batch * self.steps + self.padding[order]).argsort(dim=1, stable=True)

    def forward(self, index: Tensor, weights: list[Tensor]) -> tuple[Tensor, list[Trace]]:
        """Returns the final states (K, B, H) of examples (K, B), and what `backward` needs."""
        w_ih, w_hh, b_ih, b_hh = weights
        bias = b_ih + b_hh
        members, examples = index.shape
        if not self.skips:
            ids, counts = self.whole(index)
            final, trace = lstm_forward(self.frames[ids], counts, w_ih, w_hh, bias)
            return final.clone(), [trace]
        finals, traces = [], []
        for k in range(members):
            ids, counts = self.entering(index[k])
            one = slice(k, k + 1)
            frames = self.frames[ids].unsqueeze(0)
            final, trace = lstm_forward(frames, counts, w_ih[one], w_hh[one], bias[one])
            finals.append(final[:, -examples:])
            traces.append(trace)
        return torch.cat(finals), traces

    def whole(self, index: Tensor) -> tuple[Tensor, list[int]]:
        """Returns frame numbers (..., F) and counts for `lstm_forward`, of examples (..., B)."""
        step = torch.arange(self.steps, device=index.device).unsqueeze(1)
        ids = index.unsqueeze(-2) * self.steps + step  # (..., T, B)
        return ids.flatten(-2), [index.shape[-1]] * self.steps

    def entering(self, index: Tensor) -> tuple[Tensor, list[int]]:
        """Returns frame numbers (F,) and counts for `lstm_forward`, of examples by padding.

        Unless no example is padded, sequence 0 is one of zeros.
        """
        step = torch.arange(self.steps).unsqueeze(1)
        ids = index * self.steps + step  # (T, B)
        entered = step >= self.padding[index]
        if not bool(entered[0].all()):
            ids = F.pad(ids, (1, 0), value=self.zero_frame)
            entered = F.pad(entered, (1, 0), value=True)
        return ids[entered], entered.sum(dim=1).tolist()

    def backward(
        self, traces: list[Trace], d_final: Tensor, weights: list[Tensor], grads: list[Tensor]
    ) -> None:
        """Writes the gradients of the LSTM's weights."""
        w_hh, (d_w_ih, d_w_hh, d_b_ih, d_b_hh) = weights[1], grads
        for k, trace in enumerate(traces):
            some = slice(k, k + 1) if self.skips else slice(None)
            d_some = d_final[some]
            missing = trace.counts[-1] - d_some.shape[1]  # the sequence of zeros
            d_some = F.pad(d_some, (0, 0, missing, 0))
            lstm_backward(trace, w_hh[some], d_some, d_w_ih[some], d_w_hh[some], d_b_ih[some])
        d_b_hh.copy_(d_b_ih)


class ValidSplit:
    """The valid split, as its parts go through all members: (examples, frames, counts)."""

    def __init__(self, valid: Split, wide: bool) -> None:
        text = Text(valid.text, len(valid), skips=not wide)
        order = text.padding.argsort(stable=True) if text.skips else torch.arange(len(valid))
        self.wide = wide
        self.parts = []
        for index in order.to(valid.label.device).split(VALID_CHUNK if wide else len(valid)):
            ids, counts = text.whole(index) if wide else text.entering(index)
            self.parts.append((Split(*valid[index]), text.frames[ids].unsqueeze(0), counts))

    def final(
        self, part: Split, frames: Tensor, counts: list[int], weights: list[Tensor]
    ) -> Tensor:
        """Returns the final states (K, B, H) of a part's examples."""
        w_ih, w_hh, b_ih, b_hh = weights
        bias, width = b_ih + b_hh, frames.shape[2]
        if self.wide:
            frames = frames.expand(len(w_ih), -1, width)
            return lstm_forward(frames, counts, w_ih, w_hh, bias)[0]
        finals = [
            lstm_forward(frames, counts, w_ih[one], w_hh[one], bias[one])[0]
            for one in (slice(k, k + 1) for k in range(len(w_ih)))
        ]
        return torch.cat(finals)[:, -len(part) :]
