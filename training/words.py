"""The word vectors of a split's text, each once.

Shapes use: N examples, T time steps, D features, V distinct words.
"""

from __future__ import annotations

from torch import Tensor

from training.parameters import padded


def leading_zero_frames(text: Tensor) -> Tensor:
    """Returns how many zero frames each of (N, T, D) begins with, at most T - 1: (N,)."""
    words = text.ne(0).any(dim=2)
    words[:, -1] = True
    return words.byte().argmax(dim=1)


class Words:
    """The distinct word vectors of a text, and which of them stands where.

    Attributes:
        vectors: (V, D), padded as `padded` does.
        ids: Which vector each frame is: (N, T).
        padding: How many zero frames each example begins with: (N,).
        zero: Which vector is zero, if any frame is.
    """

    def __init__(self, text: Tensor) -> None:
        vectors, ids = text.flatten(0, 1).unique(dim=0, return_inverse=True)
        self.vectors = padded(vectors)
        self.ids = ids.view(text.shape[:2])
        self.padding = leading_zero_frames(text)
        self.zero = int(vectors.eq(0).all(dim=1).byte().argmax())
