"""Rounding weights so that their errors cancel on the inputs they will meet (GPTQ, Frantar et al. 2022, arXiv
2210.17323): what rounding one input feature's column got wrong, the columns not yet rounded make up for.

Knows one linear and the second moments of its inputs; knows no models and no files.

Legend: N output features, K input features, G int4 groups of K, T calibration tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Self

import numpy as np
from numpy.typing import NDArray

from flash_runtime.kernels.int4 import INT4_GROUP, MAX_INT4, quantise_int4
from flash_runtime.kernels.layout import (
    MAX_INT8,
    LinearFormat,
    PackedLinear,
    int8_scales,
    pack_int4_blocks,
    pack_int8_rows,
)

FloatArray = NDArray[np.float32]

_LEAST_DAMPING: Final = 0.05
_DAMPING_PER_FEATURE: Final = 0.5
"""Times K / T: the fewer tokens, the less their correlations are believed. None at all is rounding to nearest."""
_COLUMNS_AT_ONCE: Final = 64
"""Columns whose errors are carried on one by one; the rest gets them as one product."""
_ROWS_AT_ONCE: Final = 4096

Nearest = Callable[[FloatArray, int, slice], FloatArray]
"""The values nearest to a column that the format can say; told the column's index and which rows it has."""


@dataclass(frozen=True)
class Inputs:
    """How the input features of one linear move together."""

    order: NDArray[np.intp]  # [K] the strongest feature first: most others are left to make up for its error
    factor: FloatArray  # [K, K] upper triangular U with UᵀU = H⁻¹, features in that order

    @classmethod
    def of(cls, x: FloatArray) -> Self:
        """From the inputs [T, K] of calibration tokens, as the kernels round them."""
        tokens, features = x.shape
        moments = (x.T @ x).astype(np.float64)  # [K, K]
        strength = moments.diagonal().copy()
        order = np.argsort(-strength, kind="stable")
        deviation = np.sqrt(np.maximum(strength, max(float(strength.max()), 1e-30) * 1e-12))[order]
        likeness = moments[np.ix_(order, order)] / deviation / deviation[:, None]
        damping = _LEAST_DAMPING + _DAMPING_PER_FEATURE * features / tokens
        likeness[np.diag_indices(features)] += damping
        # H = R Rᵀ with R upper triangular, by Cholesky from the last feature on; then U = R⁻¹.
        upper = np.linalg.cholesky(likeness[::-1, ::-1])[::-1, ::-1]
        factor = np.triu(np.linalg.inv(upper)) / deviation
        return cls(order, factor.astype(np.float32))


def pack_rounded(weight: FloatArray, format: LinearFormat, inputs: Inputs) -> PackedLinear:
    """Round f32 [N, K] to int8 or int4 for these inputs and pack it."""
    if format is LinearFormat.INT8:
        scale = int8_scales(weight)
        step = np.where(scale > 0, scale, np.float32(1))

        def nearest_int8(column: FloatArray, index: int, rows: slice) -> FloatArray:
            whole: FloatArray = np.clip(np.rint(column / step[rows]), -MAX_INT8, MAX_INT8) * step[rows]
            return whole

        rounded = _rounded(weight, inputs, nearest_int8)
        whole = np.rint(rounded / step[:, None])
        whole[scale == 0] = 0
        return pack_int8_rows(whole, scale)
    blocks = quantise_int4(weight)
    d, m = blocks.d.astype(np.float32), blocks.m.astype(np.float32)  # [N, G]
    divisor = np.where(d == 0, np.float32(1), d)

    def steps_of(values: FloatArray, group: int | NDArray[np.intp], rows: slice) -> FloatArray:
        steps: FloatArray = np.clip(np.rint((values - m[rows, group]) / divisor[rows, group]), 0, MAX_INT4)
        return np.where(d[rows, group] == 0, np.float32(0), steps)

    def nearest_int4(column: FloatArray, index: int, rows: slice) -> FloatArray:
        group = index // INT4_GROUP
        return steps_of(column, group, rows) * d[rows, group] + m[rows, group]

    rounded = _rounded(weight, inputs, nearest_int4)
    q = steps_of(rounded, np.arange(weight.shape[1]) // INT4_GROUP, slice(None)).astype(np.uint8)
    return pack_int4_blocks(q, blocks.d, blocks.m)


def _rounded(weight: FloatArray, inputs: Inputs, nearest: Nearest) -> FloatArray:
    """Each column in the inputs' order, its error carried on to those after it; values of the format, f32 [N, K]."""
    out = np.empty_like(weight)
    for start in range(0, len(weight), _ROWS_AT_ONCE):
        rows = slice(start, start + _ROWS_AT_ONCE)
        # Columns lie in lines, so that each is one run of memory.
        left = np.ascontiguousarray(weight[rows].T[inputs.order])  # [K, N]
        for first in range(0, len(left), _COLUMNS_AT_ONCE):
            end = min(first + _COLUMNS_AT_ONCE, len(left))
            errors = np.empty_like(left[first:end])
            for column in range(first, end):
                index = int(inputs.order[column])
                value = nearest(left[column], index, rows)
                out[rows, index] = value
                factors = inputs.factor[column, column:end]
                error = (left[column] - value) / factors[0]
                errors[column - first] = error
                left[column + 1 : end] -= factors[1:, None] * error
            left[end:] -= inputs.factor[first:end, end:].T @ errors
    return out
