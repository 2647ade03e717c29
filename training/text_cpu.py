"""The text side of a training step on a CPU: all members' LSTMs and their Adam, a call each way.

Shapes use: K members, B batch, N examples, T time steps, F frames of a batch (rows of all steps),
U distinct words of a batch, V those of a split, D features, H width, P parameters.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from training.adam import AdamArrays, adam_of_member
from training.compiler import compiled
from training.lstm_cpu import Scratch, Text, Trace, Weights, backward, forward
from training.parameters import LSTM_NAMES, Parameters
from training.words import Words


@compiled
def _weights(row: np.ndarray, starts: np.ndarray, features: int, width: int) -> Weights:
    """Returns a member's LSTM as it lies in its row (P,)."""
    gates = 4 * width
    return Weights(
        row[starts[0] : starts[0] + features * gates].reshape(features, gates),
        row[starts[1] : starts[1] + width * gates].reshape(width, gates),
        row[starts[2] : starts[2] + gates],
        row[starts[3] : starts[3] + gates],
    )


@compiled
def _of_member(traces: Trace, member: int) -> Trace:
    return Trace(
        traces.counts[member],
        traces.used[member],
        traces.places[member],
        traces.gates[member],
        traces.tanh_cell[member],
        traces.hidden[member],
        traces.cell[member],
    )


@compiled
def _forward_all(
    index: np.ndarray,
    text: Text,
    rows: np.ndarray,
    starts: np.ndarray,
    traces: Trace,
    scratch: Scratch,
    final: np.ndarray,
) -> None:
    features, width = text.vectors.shape[1], final.shape[2]
    for k in range(len(index)):
        weights = _weights(rows[k], starts, features, width)
        trace = _of_member(traces, k % len(traces.counts))
        final[k] = forward(index[k], text, weights, trace, scratch)


@compiled
def _backward_all(
    d_final: np.ndarray,
    text: Text,
    rows: np.ndarray,
    grads: np.ndarray,
    starts: np.ndarray,
    traces: Trace,
    scratch: Scratch,
    adam: AdamArrays,
) -> None:
    features, width = text.vectors.shape[1], d_final.shape[2]
    for k in range(len(d_final)):
        weights, row = _weights(rows[k], starts, features, width), grads[k % len(grads)]
        d_weights = _weights(row, starts, features, width)
        backward(d_final[k], text, weights, _of_member(traces, k), scratch, d_weights)
        adam_of_member(k, starts[0], len(row), rows[k], row, adam)


def compiled_in() -> str | None:
    """Returns the folder in which numba keeps what it has compiled, None if it has none."""
    return _forward_all.stats.cache_path


class TextOnCpu:
    """The members' LSTMs over the text of a split.

    Args:
        words: The split's.
        parameters: Where the members' weights lie.
        batch_size: How many examples are taken at a time, at most.
        members: How many members' traces are kept for `backward`.
    """

    def __init__(self, words: Words, parameters: Parameters, batch_size: int, members: int) -> None:
        self.words, self.batch_size = words, batch_size
        self.width = width = parameters.size.text
        steps = words.ids.shape[1]
        frames = steps * batch_size
        features = words.vectors.shape[1]
        distinct = min(frames, len(words.vectors))
        self.text = Text(
            words.vectors.numpy(),
            words.ids.int().numpy(),
            words.padding.int().numpy(),
            words.zero,
        )
        self.starts = np.array([parameters.starts[name] for name in LSTM_NAMES])

        def empty(*shape: int) -> np.ndarray:
            return np.empty(shape, np.float32)

        self.traces = Trace(
            np.empty((members, steps), np.int64),
            np.empty((members, distinct), np.int32),
            np.empty((members, frames), np.int32),
            empty(members, frames, 4 * width),
            empty(members, frames, width),
            empty(members, frames + batch_size, width),
            empty(members, frames + batch_size, width),
        )
        self.scratch = Scratch(
            np.full(len(words.vectors), -1, np.int32),
            empty(distinct, features),
            empty(distinct, 4 * width),
            empty(batch_size, 4 * width),
            empty(batch_size, width),
            empty(batch_size, width),
            empty(4 * width, width),
        )

    def positions(self, order: Tensor) -> Tensor:
        """Returns an epoch's positions (K, N); in a batch the least padded examples come first."""
        batch = torch.arange(order.shape[1]) // self.batch_size
        steps = self.words.ids.shape[1]
        return (batch * steps + self.words.padding[order]).argsort(dim=1, stable=True)

    def forward(self, index: Tensor, rows: Tensor) -> Tensor:
        """Returns the final states (K, B, H) of examples (K, B) by the weights in rows (K, P)."""
        final = np.empty((*index.shape, self.width), np.float32)
        arrays = index.contiguous().numpy(), self.text, rows.numpy(), self.starts
        _forward_all(*arrays, self.traces, self.scratch, final)
        return torch.from_numpy(final)

    def train(self, d_final: Tensor, rows: Tensor, grads: Tensor, adam: AdamArrays) -> None:
        """Updates the LSTMs' weights in rows (K, P), each member's while its gradients are cached.

        The gradients go into their places in grads: (K, P), or one row that members use in turn.
        """
        arrays = d_final.contiguous().numpy(), self.text, rows.numpy(), grads.numpy()
        _backward_all(*arrays, self.starts, self.traces, self.scratch, adam)
