"""How int8 weights lie on a GPU: plain signed rows, made once from the packed file's lines. NumPy alone.

A tensor core wants both operands signed and the input features of one output side by side; the packed file has
unsigned bytes in lines of 16 outputs by 4 inputs (`kernels.layout`), made for a CPU's dot products.

Legend: N output and K input features, E experts (1 for a plain linear).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flash_runtime.kernels.layout import ByteArray, FloatArray, padded_columns, padded_rows, unpack_quantised


@dataclass(frozen=True)
class Rows:
    """A stack of linears as the kernel reads it."""

    weight: NDArray[np.int8]  # [E, N, Kpad], zero past K
    scale: FloatArray  # [E, N]


def rows_of(weight: ByteArray, scale: FloatArray, *, n: int, k: int) -> Rows:
    """The packed linear, or stack of linears, with its padding outputs left out; raises ValueError if sizes differ."""
    columns = padded_columns(k)
    one = padded_rows(n) * columns
    experts = scale.size // padded_rows(n)
    if scale.size != experts * padded_rows(n) or weight.size != experts * one:
        raise ValueError(f"a packed [{n}, {k}] linear does not fit {weight.size} weights and {scale.size} scales")
    lines = weight.reshape(experts, one)
    rows = np.empty((experts, n, columns), dtype=np.int8)
    for expert in range(experts):  # one at a time: unpacking takes a few times its memory
        rows[expert] = unpack_quantised(lines[expert], n=n, k=columns)
    return Rows(weight=rows, scale=np.ascontiguousarray(scale.reshape(experts, -1)[:, :n]))
