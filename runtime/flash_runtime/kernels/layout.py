"""How weights lie in memory: the packed forms the kernels stream. Knows numpy and nothing about models or files.

A linear is packed into parts; a stack of experts has the same parts with a leading axis E:

    int8   weight  u8  [Npad/16, Kpad/4, 16, 4]   w + 128
           scale   f32 [Npad]
    int4   weight  u8  [Npad/16, Kpad/8, 16, 4]   low nibble: a quad of input features, high nibble: the next quad
           scale   f16 [Npad/16, Kpad/32, 16]     d of w = q * d + m
           min     f16 [Npad/16, Kpad/32, 16]     m
    bf16   weight  u16 [Npad/16, Kpad/2, 16, 2]   the upper halves of float32

Legend: N output features, K input features, E experts, G int4 groups. N is padded to LANES, K to GROUP, with zeros.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flash_runtime.kernels.int4 import INT4_GROUP, MAX_INT4, quantise_int4

LANES = 16
"""Output features side by side in one 64-byte line (the 32-bit lanes of a 512-bit register)."""
QUAD = 4
"""Input features of one line: a 32-bit lane holds four int8 products' operands."""
PAIR = 2
"""Input features of one bf16 line."""
GROUP = 64
"""Input features that share one activation scale."""
ZERO_POINT = 128
"""Added to every int8 weight, because the dot-product instruction wants one unsigned operand."""
MAX_INT8 = 127
"""Quantised values lie in -127..127; -128 stays unused so that the range is symmetric."""
SMALLEST_MAX = 1e-35
"""Below this a row or group counts as zero: 127 / max would leave the float32 range."""

FloatArray = NDArray[np.float32]
HalfArray = NDArray[np.float16]
ByteArray = NDArray[np.uint8]


class LinearFormat(StrEnum):
    """The number format of a linear's weights."""

    INT8 = "int8"
    INT4 = "int4"
    BF16 = "bf16"


@dataclass(frozen=True)
class PackedLinear:
    """One linear layer, or E of them stacked (then every array carries a leading E axis)."""

    weight: NDArray[Any]
    scale: FloatArray | HalfArray | None = None
    min: HalfArray | None = None
    format: LinearFormat = LinearFormat.INT8

    @property
    def parts(self) -> dict[str, NDArray[Any]]:
        """The arrays by the names that `part_shapes` gives them."""
        named = {"weight": self.weight, "scale": self.scale, "min": self.min}
        return {name: array for name, array in named.items() if array is not None}

    @classmethod
    def of(cls, parts: Mapping[str, NDArray[Any]], format: LinearFormat) -> PackedLinear:
        """From the arrays by name."""
        return cls(**parts, format=format)

    def expert(self, index: int) -> PackedLinear:
        """One linear of a stack."""
        return PackedLinear.of({name: array[index] for name, array in self.parts.items()}, self.format)


@dataclass(frozen=True)
class Part:
    """What one array of a packed linear must be."""

    dtype: str
    shape: tuple[int, ...]


def padded_rows(n: int) -> int:
    """N rounded up to whole lines."""
    return -(-n // LANES) * LANES


def padded_columns(k: int) -> int:
    """K rounded up to whole activation groups."""
    return -(-k // GROUP) * GROUP


def weight_shape(n: int, k: int) -> tuple[int, int, int, int]:
    """Shape of the packed weight of an [N, K] int8 linear."""
    return padded_rows(n) // LANES, padded_columns(k) // QUAD, LANES, QUAD


def part_shapes(format: LinearFormat, n: int, k: int) -> dict[str, Part]:
    """The arrays of a packed [N, K] linear by name; their leading axis is cut where rows are packed in blocks."""
    panels, columns = padded_rows(n) // LANES, padded_columns(k)
    match format:
        case LinearFormat.INT8:
            return {"weight": Part("uint8", weight_shape(n, k)), "scale": Part("float32", (panels * LANES,))}
        case LinearFormat.INT4:
            per_group = Part("float16", (panels, columns // INT4_GROUP, LANES))
            weight = Part("uint8", (panels, columns // (2 * QUAD), LANES, QUAD))
            return {"weight": weight, "scale": per_group, "min": per_group}
        case LinearFormat.BF16:
            return {"weight": Part("uint16", (panels, columns // PAIR, LANES, PAIR))}


def pack_linear(weight: FloatArray, format: LinearFormat = LinearFormat.INT8) -> PackedLinear:
    """Round f32 [N, K] to the format and pack it; raises ValueError unless finite, 2-D and in the format's range."""
    if weight.ndim != 2 or 0 in weight.shape:
        raise ValueError(f"a linear's weight must be a non-empty [N, K] matrix, found shape {list(weight.shape)}")
    if not np.isfinite(weight).all():
        raise ValueError("a linear's weight must be finite, found NaN or infinity")
    match format:
        case LinearFormat.INT8:
            return _pack_int8(weight)
        case LinearFormat.INT4:
            blocks = quantise_int4(weight)
            return pack_int4_blocks(blocks.q, blocks.d, blocks.m)
        case LinearFormat.BF16:
            return _pack_bf16(weight)


def pack_experts(weight: FloatArray, format: LinearFormat = LinearFormat.INT8) -> PackedLinear:
    """Pack f32 [E, N, K]: each expert as `pack_linear` would, stacked."""
    if weight.ndim != 3 or 0 in weight.shape:
        raise ValueError(f"experts' weight must be a non-empty [E, N, K] array, found shape {list(weight.shape)}")
    experts, n, k = weight.shape
    stacked = {
        name: np.empty((experts, *part.shape), dtype=part.dtype) for name, part in part_shapes(format, n, k).items()
    }
    for index in range(experts):  # one at a time: the float temporaries stay one expert large
        for name, array in pack_linear(weight[index], format).parts.items():
            stacked[name][index] = array
    return PackedLinear.of(stacked, format)


def int8_scales(weight: FloatArray) -> FloatArray:
    """The step [N] at which the largest weight of each row [N, K] is 127; 0 for a row of zeros."""
    largest = np.abs(weight).max(axis=1).astype(np.float32)
    largest[largest < SMALLEST_MAX] = 0.0
    steps: FloatArray = largest / np.float32(MAX_INT8)
    return steps


def pack_int8_rows(quantised: FloatArray, scale: FloatArray) -> PackedLinear:
    """Pack whole numbers in -127..127 [N, K], held as floats, and their scales [N]."""
    n, _ = quantised.shape
    padded_scale = np.zeros(padded_rows(n), dtype=np.float32)
    padded_scale[:n] = scale
    lines = _lines((quantised + ZERO_POINT).astype(np.uint8), QUAD, fill=ZERO_POINT)
    return PackedLinear(weight=np.ascontiguousarray(lines), scale=padded_scale)


def pack_int4_blocks(q: ByteArray, d: HalfArray, m: HalfArray) -> PackedLinear:
    """Pack w = q * d + m without loss: q [N, K] in 0..15, d and m f16 [N, ceil(K / 32)].

    These are the blocks of GGUF's Q4_1; those of Q4_0 have m = -8 * d. Raises ValueError for what is no such block.
    """
    n, k = q.shape
    groups = (n, -(-k // INT4_GROUP))
    for name, array in (("d", d), ("m", m)):
        if array.shape != groups or array.dtype != np.float16:
            found = f"{array.dtype} {list(array.shape)}"
            raise ValueError(f"int4 blocks of [{n}, {k}] weights need {name} as float16 {list(groups)}, found {found}")
        if not np.isfinite(array).all():
            raise ValueError(f"an int4 linear's {name} must be finite, found NaN or infinity")
    if q.dtype != np.uint8 or q.max() > MAX_INT4:
        raise ValueError(f"int4 weights must be uint8 in 0..{MAX_INT4}, found {q.dtype} up to {q.max()}")
    quads = _lines(q, QUAD)
    return PackedLinear(
        weight=np.ascontiguousarray(quads[:, 0::2] | (quads[:, 1::2] << 4)),
        scale=_group_lines(d, k),
        min=_group_lines(m, k),
        format=LinearFormat.INT4,
    )


def unpack_linear(packed: PackedLinear, *, n: int, k: int) -> FloatArray:
    """The dequantised weights f32 [N, K] of one packed linear."""
    match packed.format:
        case LinearFormat.INT8:
            assert packed.scale is not None
            return unpack_quantised(packed.weight, n=n, k=k).astype(np.float32) * packed.scale[:n, None]
        case LinearFormat.INT4:
            q, d, m = unpack_int4_blocks(packed, n=n, k=k)
            spread = np.stack([d, m]).astype(np.float32).repeat(INT4_GROUP, axis=2)[:, :, :k]  # [2, N, K]
            weight: FloatArray = q * spread[0] + spread[1]
            return weight
        case LinearFormat.BF16:
            _check_size(packed.weight, LinearFormat.BF16, n, k)
            return from_bf16(_matrix(packed.weight, PAIR, n, k)[:n, :k])


def unpack_quantised(weight: ByteArray, *, n: int, k: int) -> NDArray[np.int8]:
    """The int8 weights [N, K] of one packed linear (any shape of the right size)."""
    _check_size(weight, LinearFormat.INT8, n, k)
    return (_matrix(weight, QUAD, n, k)[:n, :k].astype(np.int16) - ZERO_POINT).astype(np.int8)


def unpack_int4_blocks(packed: PackedLinear, *, n: int, k: int) -> tuple[ByteArray, HalfArray, HalfArray]:
    """What `pack_int4_blocks` took: q [N, K], d and m [N, ceil(K / 32)]."""
    _check_size(packed.weight, LinearFormat.INT4, n, k)
    assert packed.scale is not None
    assert packed.min is not None
    lines = packed.weight.reshape(part_shapes(LinearFormat.INT4, n, k)["weight"].shape)
    quads = np.stack([lines & MAX_INT4, lines >> 4], axis=2)
    groups = -(-k // INT4_GROUP)
    d, m = (
        part.reshape(padded_rows(n) // LANES, -1, LANES).transpose(0, 2, 1).reshape(padded_rows(n), -1)[:n, :groups]
        for part in (packed.scale, packed.min)
    )
    return _matrix(quads, QUAD, n, k)[:n, :k], d.astype(np.float16), m.astype(np.float16)


def to_bf16(x: FloatArray) -> NDArray[np.uint16]:
    """The bits of bfloat16 nearest to x, ties to even; beyond the largest one that is infinity."""
    bits = np.ascontiguousarray(x, dtype=np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)


def from_bf16(bits: NDArray[np.uint16]) -> FloatArray:
    """The float32 values of bfloat16 bits."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def _pack_int8(weight: FloatArray) -> PackedLinear:
    """Symmetric, one scale per output feature."""
    scale = int8_scales(weight)  # [N]
    divisor = np.where(scale > 0, scale, np.float32(1.0))[:, None]
    quantised = np.clip(np.rint(weight / divisor), -MAX_INT8, MAX_INT8)  # [N, K]
    quantised[scale == 0] = 0.0
    return pack_int8_rows(quantised, scale)


def _pack_bf16(weight: FloatArray) -> PackedLinear:
    bits = to_bf16(weight)
    if not np.isfinite(from_bf16(bits)).all():
        found = float(np.abs(weight).max())
        raise ValueError(f"a bf16 linear's weights must stay finite in bfloat16, found {found:g}; use int8")
    return PackedLinear(weight=np.ascontiguousarray(_lines(bits, PAIR)), format=LinearFormat.BF16)


def _lines(matrix: NDArray[Any], width: int, *, fill: int = 0) -> NDArray[Any]:
    """[N, K] padded and cut into lines: [Npad/16, Kpad/width, 16, width]."""
    n, k = matrix.shape
    padded = np.full((padded_rows(n), padded_columns(k)), fill, dtype=matrix.dtype)
    padded[:n, :k] = matrix
    return padded.reshape(-1, LANES, padded_columns(k) // width, width).transpose(0, 2, 1, 3)


def _matrix(lines: NDArray[Any], width: int, n: int, k: int) -> NDArray[Any]:
    """The inverse of `_lines`, padding included."""
    shape = (padded_rows(n) // LANES, padded_columns(k) // width, LANES, width)
    return lines.reshape(shape).transpose(0, 2, 1, 3).reshape(padded_rows(n), padded_columns(k))


def _group_lines(values: HalfArray, k: int) -> HalfArray:
    """[N, G] padded and cut into lines: [Npad/16, Kpad/32, 16]."""
    n, groups = values.shape
    padded = np.zeros((padded_rows(n), padded_columns(k) // INT4_GROUP), dtype=np.float16)
    padded[:n, :groups] = values
    return np.ascontiguousarray(padded.reshape(-1, LANES, padded.shape[1]).transpose(0, 2, 1))


def _check_size(weight: NDArray[Any], format: LinearFormat, n: int, k: int) -> None:
    part = part_shapes(format, n, k)["weight"]
    expected = int(np.prod(part.shape)) * np.dtype(part.dtype).itemsize
    if weight.nbytes != expected:
        raise ValueError(f"a packed [{n}, {k}] linear has {expected} bytes, found {weight.nbytes}")
