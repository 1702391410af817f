"""int4 weights: w = q * d + m per group of 32 input features, the numbers that GGUF's Q4_1 stores.

Finds q, d and m for float weights. Knows NumPy and nothing about how the numbers lie in memory.

Legend: N output features, K input features, G groups of K, R groups at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

INT4_GROUP: Final = 32
"""Input features that share one d and one m."""
MAX_INT4: Final = 15
LARGEST: Final = 65504.0
"""What float16, the type of d and m, can hold."""
_LEVELS: Final = np.linspace(14.0, 16.0, 9, dtype=np.float32)
"""Steps into which the search divides a group's range: cutting off its ends a little often lowers the squared error."""
_SMALLEST_RANGE: Final = np.float32(1e-30)
"""Below this a group's weights count as equal: dividing by the range would leave the float32 range."""
_GROUPS_AT_ONCE: Final = 2**14
"""Keeps the search's temporaries in the cache and its memory bounded."""

FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Int4Blocks:
    """The weights q * d + m of one linear."""

    q: NDArray[np.uint8]  # [N, K], 0..15
    d: NDArray[np.float16]  # [N, G]
    m: NDArray[np.float16]  # [N, G]


def quantise_int4(weight: FloatArray) -> Int4Blocks:
    """Round finite f32 [N, K] to the q, d, m with the least squared error found; never worse than plain rounding.

    For each way to divide a group's range, d and m are refitted to the rounded weights by least squares and rounded to
    float16 before the error is taken (the search of llama.cpp's k-quants). Raises ValueError above float16's range.
    """
    n, k = weight.shape
    if (found := float(np.abs(weight).max())) > LARGEST:
        raise ValueError(f"an int4 linear's weights must lie within +-{LARGEST:g} (float16), found {found:g}; use int8")
    num_groups = -(-k // INT4_GROUP)
    groups = np.pad(weight, ((0, 0), (0, num_groups * INT4_GROUP - k)), mode="edge").reshape(-1, INT4_GROUP)
    q = np.empty(groups.shape, dtype=np.uint8)
    d = np.empty(len(groups), dtype=np.float16)
    m = np.empty(len(groups), dtype=np.float16)
    for start in range(0, len(groups), _GROUPS_AT_ONCE):
        part = slice(start, start + _GROUPS_AT_ONCE)
        q[part], d[part], m[part] = _search(groups[part])
    return Int4Blocks(
        q=q.reshape(n, -1)[:, :k],
        d=d.reshape(n, num_groups),
        m=m.reshape(n, num_groups),
    )


def _search(groups: FloatArray) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.float16]]:
    """The best q [R, 32], d [R] and m [R] of groups [R, 32]."""
    low = groups.min(axis=1)  # [R]
    span = groups.max(axis=1) - low
    equal = span < _SMALLEST_RANGE
    above = groups - low[:, None]
    divisor = np.where(equal, np.float32(1), span)
    best_d, best_m = _as_half(np.where(equal, np.float32(0), span / MAX_INT4)), _as_half(low)
    best_q, best_error = _rounded(groups, best_d, best_m)
    for level in _LEVELS:
        steps = np.minimum(np.rint(above * (level / divisor)[:, None]), np.float32(MAX_INT4))  # [R, 32]
        d, m = _fitted(above, steps)
        half_d = _as_half(np.where(equal, np.float32(0), d))
        half_m = _as_half(np.where(equal, low, low + m))
        q, error = _rounded(groups, half_d, half_m)
        better = error < best_error
        best_error = np.where(better, error, best_error)
        best_d, best_m = np.where(better, half_d, best_d), np.where(better, half_m, best_m)
        best_q[better] = q[better]
    return best_q, best_d, best_m


def _fitted(values: FloatArray, steps: FloatArray) -> tuple[FloatArray, FloatArray]:
    """d and m [R] that minimise the sum over each group of (values - steps * d - m)^2."""
    mean_step, mean_value = steps.mean(axis=1), values.mean(axis=1)
    apart = steps - mean_step[:, None]
    variance = (apart * apart).sum(axis=1)
    covariance = (apart * values).sum(axis=1)
    d: FloatArray = covariance / np.where(variance > 0, variance, np.float32(1))
    return d, mean_value - d * mean_step


def _rounded(
    groups: FloatArray, d: NDArray[np.float16], m: NDArray[np.float16]
) -> tuple[NDArray[np.uint8], FloatArray]:
    """The nearest q [R, 32] for given d and m, and the squared error [R] of each group."""
    step, base = d.astype(np.float32)[:, None], m.astype(np.float32)[:, None]
    divisor = np.where(step == 0, np.float32(1), step)
    q = np.where(step == 0, np.float32(0), np.clip(np.rint((groups - base) / divisor), 0, MAX_INT4))
    off = groups - (q * step + base)
    error: FloatArray = (off * off).sum(axis=1)
    return q.astype(np.uint8), error


def _as_half(values: FloatArray) -> NDArray[np.float16]:
    return np.clip(values, -LARGEST, LARGEST).astype(np.float16)
