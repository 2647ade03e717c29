"""The LSTM of the fast path: forward and backward by hand, for K weight sets at once.

No gradient flows to the inputs, so all steps' inputs go through one product; so do the gradients of
the weights. A word that stands several times in a batch is multiplied once: a third to four fifths
of MOSI's words differ, in batches of 128 and of 4. Sequences may start at different steps: those
that begin with zero frames need not be computed until their first word, since the state after p
zero frames depends on p alone. One sequence of zeros then serves them all; the gradients at their
starts add up into it.

Shapes use: K weight sets, T time steps, F frames, U distinct words, D features, H width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from training.parameters import padded


class Trace(NamedTuple):
    """What `lstm_backward` needs of `lstm_forward`; gates in the order o, i, f, g.

    The tensors are step-major: the rows of one step, of all members, lie together.
    """

    counts: Sequence[int]
    gates: Tensor
    hidden: Tensor
    cell: Tensor
    tanh_cell: Tensor


def lstm_forward(gates: Tensor, counts: Sequence[int], w_hh: Tensor) -> tuple[Tensor, Trace]:
    """Returns the final hidden states of sequences that start at different steps.

    Args:
        gates: What the inputs and the biases give to the gates, of all members at step 0, then of
            all at step 1, and so on; it is overwritten.
        counts: How many sequences of a member are under way at each step; it never falls, and
            with more than one member it never rises. Sequence j enters at the first step with
            counts > j, in the state that sequence 0 then has.
        w_hh: Recurrent weights; gates in the order o, i, f, g.

    Shape:
        gates (F * K, 4H) with F = sum(counts); w_hh (K, 4H, H). Returns (K, counts[-1], H).
    """
    members, width, rows = len(w_hh), w_hh.shape[2], len(gates)
    recurrent = w_hh.transpose(1, 2)
    hidden = gates.new_empty(rows + members * counts[-1], width)  # of the step before
    cell = torch.empty_like(hidden)
    tanh_cell = gates.new_empty(rows, width)
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
    final = hidden[rows:].view(members, counts[-1], width)
    return final, Trace(counts, gates, hidden, cell, tanh_cell)


def lstm_backward(trace: Trace, w_hh: Tensor, d_final: Tensor, d_w_hh: Tensor) -> Tensor:
    """Writes the gradient of `lstm_forward`'s weights into d_w_hh and returns that of its gates.

    Shape:
        d_final (K, counts[-1], H), the gradient of the final hidden states; the rest as there.
    """
    counts, gates, hidden, cell, tanh_cell = trace
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
    torch.bmm(transposed, _member_major(hidden, members, len(counts)), out=d_w_hh)
    return d_gates


def leading_zero_frames(text: Tensor) -> Tensor:
    """Returns how many zero frames each of (N, T, D) begins with, at most T - 1: (N,)."""
    words = text.ne(0).any(dim=2)
    words[:, -1] = True
    return words.byte().argmax(dim=1)


class Words:
    """The word vectors of a split's text, each once, and which of them stand where."""

    def __init__(self, text: Tensor) -> None:
        vectors, ids = text.flatten(0, 1).unique(dim=0, return_inverse=True)
        self.vectors = padded(vectors)  # (U, D)
        self.ids = ids.view(text.shape[:2])  # (N, T)
        self.padding = leading_zero_frames(text)
        self.zero = int(vectors.eq(0).all(dim=1).byte().argmax())  # if any frame is zero


class Inputs(NamedTuple):
    """The words of a batch: each member's distinct ones, and whose row each frame's gates are."""

    vectors: list[Tensor]  # (U, D) each
    rows: Tensor  # (F * K,), step-major, numbered through all members' words


def project(
    words: Words, ids: Tensor, steps: int, w_ih: Tensor, bias: Tensor
) -> tuple[Tensor, Inputs]:
    """Returns what the words of frames (K, F) give to the gates, (F * K, 4H), step-major."""
    vectors, rows, projected, start = [], [], [], 0
    for frames, weight, b in zip(ids, w_ih, bias, strict=True):
        used, places = frames.unique(return_inverse=True)
        vectors.append(words.vectors.index_select(0, used))  # five times as fast as indexing
        projected.append(torch.addmm(b, vectors[-1], weight.t()))
        rows.append(places + start)
        start += len(used)
    inputs = Inputs(vectors, _step_major(torch.stack(rows).unsqueeze(-1), steps).flatten())
    return torch.cat(projected).index_select(0, inputs.rows), inputs


def project_backward(inputs: Inputs, d_gates: Tensor, d_w_ih: Tensor, d_bias: Tensor) -> None:
    """Writes the gradients of `project`'s weights: d_w_ih (K, 4H, D) and d_bias (K, 4H)."""
    counts = [len(part) for part in inputs.vectors]
    d_words = d_gates.new_zeros(sum(counts), d_gates.shape[1]).index_add_(0, inputs.rows, d_gates)
    parts = zip(d_words.split(counts), inputs.vectors, d_w_ih, d_bias, strict=True)
    for d_word, vectors, d_w, d_b in parts:
        torch.mm(d_word.t(), vectors, out=d_w)
        torch.sum(d_word, dim=0, out=d_b)


def project_wide(frames: Tensor, steps: int, w_ih: Tensor, bias: Tensor) -> Tensor:
    """Returns what frames (K, F, D) give to the gates, (F * K, 4H), step-major."""
    return _step_major(torch.baddbmm(bias.unsqueeze(1), frames, w_ih.transpose(1, 2)), steps)


def project_wide_backward(
    frames: Tensor, steps: int, d_gates: Tensor, d_w_ih: Tensor, d_bias: Tensor
) -> None:
    """Writes the gradients of `project_wide`'s weights: d_w_ih (K, 4H, D), d_bias (K, 4H)."""
    d_gates = _member_major(d_gates, len(frames), steps)
    torch.bmm(d_gates.transpose(1, 2), frames, out=d_w_ih)
    torch.sum(d_gates, dim=1, out=d_bias)


def skipping_pays(width: int, batch_size: int) -> bool:
    """Returns whether leaving padding out is faster on a CPU: for large products it is."""
    return width * batch_size >= 4096


class Text:
    """The LSTM over a split's text, with or without the zero frames in front of the words.

    Wide is how GPUs work: all members go through every operation together, every frame of its own.
    """

    def __init__(self, words: Words, batch_size: int, skips: bool, wide: bool) -> None:
        self.words, self.batch_size, self.wide = words, batch_size, wide
        self.steps = words.ids.shape[1]
        self.skips = skips and bool(words.padding.any())

    def positions(self, order: Tensor) -> Tensor:
        """Returns an epoch's positions (K, N); in a batch the least padded examples come first."""
        positions = torch.arange(order.shape[1], device=order.device).expand_as(order)
        if not self.skips:
            return positions
        batch = positions // self.batch_size
        return (batch * self.steps + self.words.padding[order]).argsort(dim=1, stable=True)

    def forward(
        self, index: Tensor, weights: list[Tensor]
    ) -> tuple[Tensor, list[tuple[Inputs | Tensor, Trace]]]:
        """Returns the final states (K, B, H) of examples (K, B), and what `backward` needs."""
        w_ih, w_hh, b_ih, b_hh = weights
        bias, examples = b_ih + b_hh, index.shape[1]
        finals, traces = [], []
        for some in self._groups(len(index)):
            ids, counts = self.entering(index[some]) if self.skips else self.whole(index[some])
            if self.wide:
                inputs = self.words.vectors[ids]
                gates = project_wide(inputs, self.steps, w_ih, bias)
            else:
                gates, inputs = project(self.words, ids, self.steps, w_ih[some], bias[some])
            final, trace = lstm_forward(gates, counts, w_hh[some])
            finals.append(final[:, -examples:])
            traces.append((inputs, trace))
        return torch.cat(finals), traces

    def _groups(self, members: int) -> list[slice]:
        """Returns which members go through the LSTM together."""
        return [slice(k, k + 1) for k in range(members)] if self.skips else [slice(members)]

    def whole(self, index: Tensor) -> tuple[Tensor, list[int]]:
        """Returns words (K, F) and counts for `lstm_forward`, of examples (K, B)."""
        ids = self.words.ids[index].transpose(1, 2)  # (K, T, B)
        return ids.flatten(1), [index.shape[1]] * self.steps

    def entering(self, index: Tensor) -> tuple[Tensor, list[int]]:
        """Returns words (1, F) and counts for `lstm_forward`, of examples (1, B) by padding.

        Unless no example is padded, sequence 0 is one of zeros.
        """
        ids = self.words.ids[index[0]].t()  # (T, B)
        entered = torch.arange(self.steps).unsqueeze(1) >= self.words.padding[index[0]]
        if not bool(entered[0].all()):
            ids = F.pad(ids, (1, 0), value=self.words.zero)
            entered = F.pad(entered, (1, 0), value=True)
        return ids[entered].unsqueeze(0), entered.sum(dim=1).tolist()

    def backward(
        self,
        traces: list[tuple[Inputs | Tensor, Trace]],
        d_final: Tensor,
        weights: list[Tensor],
        grads: list[Tensor],
    ) -> Iterator[slice]:
        """Writes the gradients of the LSTM's weights; yields members whose are there."""
        w_hh, (d_w_ih, d_w_hh, d_b_ih, d_b_hh) = weights[1], grads
        for some, (inputs, trace) in zip(self._groups(len(d_final)), traces, strict=True):
            d_some = d_final[some]
            missing = trace.counts[-1] - d_some.shape[1]  # the sequence of zeros
            d_some = F.pad(d_some, (0, 0, missing, 0))
            d_gates = lstm_backward(trace, w_hh[some], d_some, d_w_hh[some])
            if isinstance(inputs, Tensor):
                project_wide_backward(inputs, self.steps, d_gates, d_w_ih, d_b_ih)
            else:
                project_backward(inputs, d_gates, d_w_ih[some], d_b_ih[some])
            d_b_hh[some].copy_(d_b_ih[some])
            yield some


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
