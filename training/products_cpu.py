"""Products of few rows for the compiled LSTM, where BLAS would copy its operands for each call.

Shapes use: D and C, the sizes of a matrix.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import scipy.linalg.cython_blas  # noqa: F401, which numba's products call, before it is limited
import torch

from training.compiler import compiled

TILE = 4  # rows that are multiplied together
_BLAS_ROWS = 64  # from which on BLAS is faster
# OpenBLAS has products of small matrices that copy nothing, but for AVX-512 alone.
_BLAS_WIDTH = 128 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 0
_single = np.float32


@compiled
def multiply(x: np.ndarray, w: np.ndarray, out: np.ndarray, rows: int) -> None:
    """Writes the product of x's first rows and w into out; both have 3 rows more to use.

    Shape:
        x (rows + 3, D), w (D, C), out (rows + 3, C); D is a multiple of 4.
    """
    if rows >= _BLAS_ROWS or w.shape[0] <= _BLAS_WIDTH:
        np.dot(x[:rows], w, out[:rows])
        return
    for b in range(0, rows, TILE):
        out[b : b + TILE] = 0
        for k in range(0, w.shape[0], 4):
            a0, a1, a2, a3 = x[b, k], x[b, k + 1], x[b, k + 2], x[b, k + 3]
            b0, b1, b2, b3 = x[b + 1, k], x[b + 1, k + 1], x[b + 1, k + 2], x[b + 1, k + 3]
            c0, c1, c2, c3 = x[b + 2, k], x[b + 2, k + 1], x[b + 2, k + 2], x[b + 2, k + 3]
            d0, d1, d2, d3 = x[b + 3, k], x[b + 3, k + 1], x[b + 3, k + 2], x[b + 3, k + 3]
            for j in range(w.shape[1]):
                w0, w1, w2, w3 = w[k, j], w[k + 1, j], w[k + 2, j], w[k + 3, j]
                out[b, j] += a0 * w0 + a1 * w1 + a2 * w2 + a3 * w3
                out[b + 1, j] += b0 * w0 + b1 * w1 + b2 * w2 + b3 * w3
                out[b + 2, j] += c0 * w0 + c1 * w1 + c2 * w2 + c3 * w3
                out[b + 3, j] += d0 * w0 + d1 * w1 + d2 * w2 + d3 * w3


@partial(compiled, fastmath={"contract", "reassoc"})  # sums in the order that vectors take
def multiply_transposed(x: np.ndarray, w: np.ndarray, out: np.ndarray, rows: int) -> None:
    """Writes the product of x's first rows and w's transpose into out, as `multiply` does.

    Shape:
        x (rows + 3, C), w (D, C), out (rows + 3, D); D is a multiple of 4.
    """
    if w.shape[0] <= 128 and (rows >= _BLAS_ROWS or w.shape[0] <= _BLAS_WIDTH):
        np.dot(x[:rows], w.T, out[:rows])
        return
    for b in range(0, rows, TILE):
        for k in range(0, w.shape[0], 4):
            zero = _single(0)
            a0, a1, a2, a3 = zero, zero, zero, zero
            b0, b1, b2, b3 = zero, zero, zero, zero
            c0, c1, c2, c3 = zero, zero, zero, zero
            d0, d1, d2, d3 = zero, zero, zero, zero
            for j in range(w.shape[1]):
                w0, w1, w2, w3 = w[k, j], w[k + 1, j], w[k + 2, j], w[k + 3, j]
                x0, x1, x2, x3 = x[b, j], x[b + 1, j], x[b + 2, j], x[b + 3, j]
                a0, a1, a2, a3 = a0 + x0 * w0, a1 + x0 * w1, a2 + x0 * w2, a3 + x0 * w3
                b0, b1, b2, b3 = b0 + x1 * w0, b1 + x1 * w1, b2 + x1 * w2, b3 + x1 * w3
                c0, c1, c2, c3 = c0 + x2 * w0, c1 + x2 * w1, c2 + x2 * w2, c3 + x2 * w3
                d0, d1, d2, d3 = d0 + x3 * w0, d1 + x3 * w1, d2 + x3 * w2, d3 + x3 * w3
            out[b, k], out[b, k + 1], out[b, k + 2], out[b, k + 3] = a0, a1, a2, a3
            out[b + 1, k], out[b + 1, k + 1], out[b + 1, k + 2], out[b + 1, k + 3] = b0, b1, b2, b3
            out[b + 2, k], out[b + 2, k + 1], out[b + 2, k + 2], out[b + 2, k + 3] = c0, c1, c2, c3
            out[b + 3, k], out[b + 3, k + 1], out[b + 3, k + 2], out[b + 3, k + 3] = d0, d1, d2, d3
