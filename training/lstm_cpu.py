"""The LSTM of the fast path on a CPU: compiled, one member at a time, from words to gradients.

No gradient flows to the inputs, so that all steps' inputs go through one product, and so do the
gradients of the weights. A word that stands several times in a batch is multiplied once. The zero
frames in front of the words are not computed: the state after p of them depends on p alone, so
that one row of zeros stands for all sequences that have not begun, until the last one begins.

Rows of one time step lie together: first the sequences that have begun, those with the least
padding in front, then the row of zeros while it is needed.

Shapes use: K members, B batch, N examples, T time steps, F frames of a batch (rows of all steps),
U distinct words of a batch, V those of a split, D features, H width, P parameters.

Source:
    Hochreiter, Schmidhuber, "Long short-term memory", 1997, as torch.nn.LSTM has it. tanh is the
    ratio of polynomials with which Eigen and XLA approximate it in single precision, to 3e-7.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from training.compiler import compiled, njit
from training.products_cpu import multiply, multiply_transposed, transpose

_single = np.float32


@njit(inline="always", fastmath={"contract"})
def _tanh(x: np.float32) -> np.float32:
    bound = _single(7.90531110763549805)
    x = bound if x > bound else x  # NaN stays NaN
    x = -bound if x < -bound else x
    y = x * x
    p = y * _single(-2.76076847742355e-16) + _single(2.00018790482477e-13)
    p = y * p + _single(-8.60467152213735e-11)
    p = y * p + _single(5.12229709037114e-08)
    p = y * p + _single(1.48572235717979e-05)
    p = y * p + _single(6.37261928875436e-04)
    p = y * p + _single(4.89352455891786e-03)
    q = y * _single(1.19825839466702e-06) + _single(1.18534705686654e-04)
    q = y * q + _single(2.26843463243900e-03)
    q = y * q + _single(4.89352518554385e-03)
    return x * p / q


@njit(inline="always", fastmath={"contract"})
def _sigmoid(x: np.float32) -> np.float32:
    half = _single(0.5)
    return _tanh(x * half) * half + half


class Weights(NamedTuple):
    """One member's LSTM, or its gradients; gates in the order o, i, f, g.

    Shape:
        ih (D, 4H), hh (H, 4H), b_ih and b_hh (4H,).
    """

    ih: np.ndarray
    hh: np.ndarray
    b_ih: np.ndarray
    b_hh: np.ndarray


class Text(NamedTuple):
    """A split's text, as `Words` has it.

    Shape:
        vectors (V, D), ids (N, T), padding (N,).
    """

    vectors: np.ndarray
    ids: np.ndarray
    padding: np.ndarray
    zero: int


class Trace(NamedTuple):
    """What the backward pass of one member needs of its forward pass.

    Shape:
        counts, rows of each step, (T,); used, the distinct words, (U,); places, which of them each
        frame has, (F,); gates (F, 4H); tanh_cell (F, H); hidden and cell, before each step and
        after the last, (F + B, H).
    """

    counts: np.ndarray
    used: np.ndarray
    places: np.ndarray
    gates: np.ndarray
    tanh_cell: np.ndarray
    hidden: np.ndarray
    cell: np.ndarray


class Scratch(NamedTuple):
    """Memory that members use in turn.

    Shape:
        place (V,), -1 outside of a call; vectors (U, D); words (U, 4H); products (B, 4H);
        d_hidden and d_cell (B, H); hh_transposed (4H, H).
    """

    place: np.ndarray
    vectors: np.ndarray
    words: np.ndarray
    products: np.ndarray
    d_hidden: np.ndarray
    d_cell: np.ndarray
    hh_transposed: np.ndarray


@compiled
def _arrange(index: np.ndarray, text: Text, place: np.ndarray, trace: Trace) -> int:
    """Lays out the frames of a batch (B,), least padded first; returns how many words differ."""
    frames, distinct, begun = 0, 0, 0
    for step in range(text.ids.shape[1]):
        while begun < len(index) and text.padding[index[begun]] <= step:
            begun += 1
        trace.counts[step] = begun + (begun < len(index))
        for row in range(trace.counts[step]):
            word = text.ids[index[row], step] if row < begun else text.zero
            if place[word] < 0:
                place[word] = distinct
                trace.used[distinct] = word
                distinct += 1
            trace.places[frames] = place[word]
            frames += 1
    for word in trace.used[:distinct]:
        place[word] = -1
    return distinct


@njit(inline="always")
def _split(gates: np.ndarray, width: int) -> tuple[np.ndarray, ...]:
    """Returns o, i, f and g of one row (4H,): in one dimension LLVM vectorises loops over them."""
    return gates[:width], gates[width : 2 * width], gates[2 * width : 3 * width], gates[3 * width :]


@compiled
def _step(trace: Trace, scratch: Scratch, bias: np.ndarray, start: int, rows: int) -> None:
    """Takes the frames of one time step, from start on, to the states before the next one."""
    width = scratch.d_cell.shape[1]
    for row in range(rows):
        frame = start + row
        word, product = scratch.words[trace.places[frame]], scratch.products[row]
        gate = trace.gates[frame]
        for j in range(3 * width):
            gate[j] = _sigmoid(word[j] + product[j] + bias[j])
        for j in range(3 * width, 4 * width):
            gate[j] = _tanh(word[j] + product[j] + bias[j])
        o, i, f, g = _split(gate, width)
        old, tanh = trace.cell[frame], trace.tanh_cell[frame]
        new, hidden = trace.cell[frame + rows], trace.hidden[frame + rows]
        for j in range(width):
            new[j] = f[j] * old[j] + i[j] * g[j]
            tanh[j] = _tanh(new[j])
            hidden[j] = o[j] * tanh[j]


@compiled
def forward(
    index: np.ndarray, text: Text, weights: Weights, trace: Trace, scratch: Scratch
) -> np.ndarray:
    """Returns the final hidden states (B, H) of a batch (B,), least padded first."""
    distinct = _arrange(index, text, scratch.place, trace)
    for row in range(distinct):
        scratch.vectors[row] = text.vectors[trace.used[row]]
    multiply(scratch.vectors, weights.ih, scratch.words, distinct)
    bias = weights.b_ih + weights.b_hh

    steps, start = len(trace.counts), 0
    trace.hidden[: trace.counts[0]] = 0
    trace.cell[: trace.counts[0]] = 0
    scratch.products[: trace.counts[0]] = 0
    for step in range(steps):
        rows = trace.counts[step]
        end = start + rows
        if step:
            multiply(trace.hidden[start:], weights.hh, scratch.products, rows)
        _step(trace, scratch, bias, start, rows)
        after = trace.counts[step + 1] if step + 1 < steps else len(index)
        for row in range(end + rows, end + after):  # those that begin had the row of zeros' state
            trace.hidden[row] = trace.hidden[end + rows - 1]
            trace.cell[row] = trace.cell[end + rows - 1]
        start = end
    return trace.hidden[start : start + len(index)]


@compiled
def _step_backward(trace: Trace, scratch: Scratch, start: int, rows: int) -> None:
    """Turns a time step's gates into their gradients, and d_cell into that of the cell before."""
    width, one = scratch.d_cell.shape[1], _single(1)
    for row in range(rows):
        frame = start + row
        o, i, f, g = _split(trace.gates[frame], width)
        old, tanh = trace.cell[frame], trace.tanh_cell[frame]
        d, d_new = scratch.d_hidden[row], scratch.d_cell[row]
        for j in range(width):
            c = d_new[j] + d[j] * o[j] * (one - tanh[j] * tanh[j])
            d_new[j] = c * f[j]
            d_o = d[j] * tanh[j] * o[j] * (one - o[j])
            d_i = c * g[j] * i[j] * (one - i[j])
            d_f = c * old[j] * f[j] * (one - f[j])
            d_g = c * i[j] * (one - g[j] * g[j])
            o[j], i[j], f[j], g[j] = d_o, d_i, d_f, d_g


@compiled
def backward(
    d_final: np.ndarray,
    text: Text,
    weights: Weights,
    trace: Trace,
    scratch: Scratch,
    grads: Weights,
) -> None:
    """Writes the gradients of the weights, from that of the final hidden states (B, H)."""
    rows, d_hidden, d_cell = len(d_final), scratch.d_hidden, scratch.d_cell
    d_hidden[:rows] = d_final
    d_cell[:rows] = 0
    transpose(weights.hh, scratch.hh_transposed)  # once, in place of at each step
    end = trace.counts.sum()
    frames, after = end, rows
    for step in range(len(trace.counts) - 1, -1, -1):
        rows = trace.counts[step]
        start = end - rows
        for row in range(rows, after):  # those that began had the row of zeros' state
            d_hidden[rows - 1] += d_hidden[row]
            d_cell[rows - 1] += d_cell[row]
        _step_backward(trace, scratch, start, rows)
        if step:
            multiply(trace.gates[start:], scratch.hh_transposed, d_hidden, rows)
        end, after = start, rows

    first = trace.counts[0]  # whose hidden state was 0
    multiply_transposed(trace.hidden[first:frames], trace.gates[first:frames], grads.hh)
    distinct = trace.places[:frames].max() + 1
    d_words = scratch.words[:distinct]
    d_words[:] = 0
    for row in range(distinct):
        scratch.vectors[row] = text.vectors[trace.used[row]]
    for frame in range(frames):
        d_words[trace.places[frame]] += trace.gates[frame]
    multiply_transposed(scratch.vectors[:distinct], d_words, grads.ih)
    grads.b_ih[:] = 0
    for row in range(distinct):
        grads.b_ih[:] += d_words[row]
    grads.b_hh[:] = grads.b_ih
