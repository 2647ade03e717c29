"""Products of matrices in compiled code, by the BLAS that torch brings.

On x86 that is MKL: 1.1 to 2 times as fast at the LSTM's sizes as scipy's OpenBLAS, which numba's
own products call, and which takes its place where torch's can't be called.

Shapes use: D and C, the sizes of a matrix.
"""

from __future__ import annotations

import ctypes
from importlib.util import find_spec

import numpy as np
import torch

from training.compiler import compiled, njit

_AS_IT_IS, _TRANSPOSED = ord("N"), ord("T")
_ONE_AND_ZERO = np.array([1, 0], np.float32)

if find_spec("numba"):
    from llvmlite.binding import add_symbol
    from numba.core import types
    from numba.extending import get_cython_function_address

    try:
        _address = ctypes.cast(ctypes.CDLL(torch._C.__file__).sgemm_, ctypes.c_void_p).value
    except (AttributeError, OSError):
        _address = get_cython_function_address("scipy.linalg.cython_blas", "sgemm")
    # Called by a name, since what is kept on the disk must not hold an address.
    add_symbol("lmf_sgemm", _address)
    _sgemm = types.ExternalFunction("lmf_sgemm", types.void(*[types.voidptr] * 13))


@njit(inline="always")
def _product(
    a: np.ndarray, a_form: int, b: np.ndarray, b_form: int, out: np.ndarray, rows: int, inner: int
) -> None:
    """Writes a @ b into out's first rows; BLAS sees rows as columns, and so b before a."""
    forms = np.array([b_form, a_form], np.uint8)
    sizes = np.array([out.shape[1], rows, inner, b.shape[1], a.shape[1]], np.int32)
    _sgemm(
        forms.ctypes,
        forms[1:].ctypes,
        sizes.ctypes,
        sizes[1:].ctypes,
        sizes[2:].ctypes,
        _ONE_AND_ZERO.ctypes,
        b.ctypes,
        sizes[3:].ctypes,
        a.ctypes,
        sizes[4:].ctypes,
        _ONE_AND_ZERO[1:].ctypes,
        out.ctypes,
        sizes.ctypes,
    )


@compiled
def multiply(x: np.ndarray, w: np.ndarray, out: np.ndarray, rows: int) -> None:
    """Writes the product of x's first rows and w into out.

    Shape:
        x (rows or more, D), w (D, C), out (rows or more, C).
    """
    _product(x, _AS_IT_IS, w, _AS_IT_IS, out, rows, w.shape[0])


@compiled
def multiply_transposed(x: np.ndarray, y: np.ndarray, out: np.ndarray) -> None:
    """Writes the product of x's transpose and y into out.

    Shape:
        x (rows, D), y (rows, C), out (D, C).
    """
    _product(x, _TRANSPOSED, y, _AS_IT_IS, out, x.shape[1], len(x))


@compiled
def transpose(w: np.ndarray, out: np.ndarray) -> None:
    """Writes w's transpose into out, a cache line at a time.

    Shape:
        w (D, C), out (C, D); D is a multiple of 16.
    """
    for i in range(0, len(w), 16):
        for j in range(w.shape[1]):
            for k in range(i, i + 16):
                out[j, k] = w[k, j]
