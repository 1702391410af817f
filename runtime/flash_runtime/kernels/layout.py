"""How int8 weights lie in memory: the packed form the kernels stream. Knows numpy and nothing about models or files.

Legend: N output features, K input features, E experts. N is padded to LANES, K to GROUP, both with zero weights.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

LANES = 16
"""Output features side by side in one 64-byte line (the 32-bit lanes of a 512-bit register)."""
QUAD = 4
"""Input features of one line: a 32-bit lane holds four int8 products' operands."""
GROUP = 64
"""Input features that share one activation scale."""
ZERO_POINT = 128
"""Added to every int8 weight, because the dot-product instruction wants one unsigned operand."""
MAX_INT8 = 127
"""Quantised values lie in -127..127; -128 stays unused so that the range is symmetric."""
SMALLEST_MAX = 1e-35
"""Below this a row or group counts as zero: 127 / max would leave the float32 range."""

FloatArray = NDArray[np.float32]
ByteArray = NDArray[np.uint8]


@dataclass(frozen=True)
class PackedLinear:
    """One linear layer, or E of them stacked (then both arrays carry a leading E axis)."""

    weight: ByteArray  # [(E,) Npad/16, Kpad/4, 16, 4]
    scale: FloatArray  # [(E,) Npad]


def padded_rows(n: int) -> int:
    """N rounded up to whole lines."""
    return -(-n // LANES) * LANES


def padded_columns(k: int) -> int:
    """K rounded up to whole activation groups."""
    return -(-k // GROUP) * GROUP


def weight_shape(n: int, k: int) -> tuple[int, int, int, int]:
    """Shape of the packed weight of an [N, K] linear."""
    return padded_rows(n) // LANES, padded_columns(k) // QUAD, LANES, QUAD


def pack_linear(weight: FloatArray) -> PackedLinear:
    """Quantise f32 [N, K] symmetrically per output feature and pack it; raises ValueError unless finite and 2-D."""
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"a linear's weight must be a non-empty [N, K] matrix, found shape {list(weight.shape)}")
    if not np.isfinite(weight).all():
        raise ValueError("a linear's weight must be finite, found NaN or infinity")
    n, k = weight.shape
    largest = np.abs(weight).max(axis=1).astype(np.float32)  # [N]
    largest[largest < SMALLEST_MAX] = 0.0
    scale = largest / np.float32(MAX_INT8)  # [N]
    divisor = np.where(scale > 0, scale, np.float32(1.0))[:, None]
    quantised = np.clip(np.rint(weight / divisor), -MAX_INT8, MAX_INT8)  # [N, K]
    quantised[scale == 0] = 0.0
    padded = np.full((padded_rows(n), padded_columns(k)), ZERO_POINT, dtype=np.uint8)
    padded[:n, :k] = (quantised + ZERO_POINT).astype(np.uint8)
    panels, quads, _, _ = weight_shape(n, k)
    packed = padded.reshape(panels, LANES, quads, QUAD).transpose(0, 2, 1, 3)
    padded_scale = np.zeros(padded_rows(n), dtype=np.float32)
    padded_scale[:n] = scale
    return PackedLinear(weight=np.ascontiguousarray(packed), scale=padded_scale)


def pack_experts(weight: FloatArray) -> PackedLinear:
    """Pack f32 [E, N, K]: each expert as `pack_linear` would, stacked."""
    if weight.ndim != 3 or 0 in weight.shape:
        raise ValueError(f"experts' weight must be a non-empty [E, N, K] array, found shape {list(weight.shape)}")
    experts, n, k = weight.shape
    packed = np.empty((experts, *weight_shape(n, k)), dtype=np.uint8)
    scale = np.empty((experts, padded_rows(n)), dtype=np.float32)
    for index in range(experts):  # one at a time: the float temporaries stay one expert large
        one = pack_linear(weight[index])
        packed[index], scale[index] = one.weight, one.scale
    return PackedLinear(weight=packed, scale=scale)


def unpack_quantised(weight: ByteArray, *, n: int, k: int) -> NDArray[np.int8]:
    """The int8 weights [N, K] of one packed linear (any shape of the right size)."""
    rows, columns = padded_rows(n), padded_columns(k)
    if weight.size != rows * columns:
        raise ValueError(f"a packed [{n}, {k}] linear has {rows * columns} bytes, found {weight.size}")
    lines = weight.reshape(weight_shape(n, k)).transpose(0, 2, 1, 3).reshape(rows, columns)
    return (lines[:n, :k].astype(np.int16) - ZERO_POINT).astype(np.int8)


def unpack_linear(packed: PackedLinear, *, n: int, k: int) -> FloatArray:
    """The dequantised weights f32 [N, K] of one packed linear."""
    quantised = unpack_quantised(packed.weight, n=n, k=k)
    return quantised.astype(np.float32) * packed.scale[:n, None]
