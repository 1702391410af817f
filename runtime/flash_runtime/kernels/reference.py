"""The kernels' arithmetic in NumPy, slow and obvious: what the native kernels are tested against.

Legend: T tokens, N and K a linear's output and input features, G groups of K, E experts, F an expert's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flash_runtime.kernels.int4 import INT4_GROUP
from flash_runtime.kernels.layout import (
    GROUP,
    MAX_INT8,
    PAIR,
    SMALLEST_MAX,
    ByteArray,
    FloatArray,
    LinearFormat,
    PackedLinear,
    from_bf16,
    padded_columns,
    to_bf16,
    unpack_int4_blocks,
    unpack_linear,
    unpack_quantised,
)


@dataclass(frozen=True)
class QuantisedRows:
    """Activations rounded to int8, one scale per token and group."""

    values: NDArray[np.int8]  # [T, G * GROUP]
    scale: FloatArray  # [T, G]


def quantise(x: FloatArray) -> QuantisedRows:
    """Symmetric int8 per token and group of x [T, K]; the last group is filled with zeros."""
    tokens, features = x.shape
    padded = np.zeros((tokens, padded_columns(features)), dtype=np.float32)
    padded[:, :features] = x
    groups = padded.reshape(tokens, -1, GROUP)
    largest = np.abs(groups).max(axis=2)  # [T, G]
    empty = largest < np.float32(SMALLEST_MAX)
    inverse = np.where(empty, np.float32(0), np.float32(MAX_INT8) / np.where(empty, np.float32(1), largest))
    values = np.rint(groups * inverse[:, :, None]).clip(-MAX_INT8, MAX_INT8).astype(np.int8)
    scale = np.where(empty, np.float32(0), largest / np.float32(MAX_INT8)).astype(np.float32)
    return QuantisedRows(values=values.reshape(tokens, -1), scale=scale)


def linear(
    x: FloatArray, weight: ByteArray, scale: FloatArray, *, n: int, bias: FloatArray | None = None
) -> FloatArray:
    """x [T, K] through one packed [N, K] linear, in the kernels' order: group after group, then scale and bias."""
    rows = quantise(x)
    integers = unpack_quantised(weight, n=n, k=rows.values.shape[1]).astype(np.int32)  # [N, G * GROUP]
    total = np.zeros((len(x), n), dtype=np.float32)
    for group in range(rows.scale.shape[1]):
        part = slice(group * GROUP, (group + 1) * GROUP)
        dot = rows.values[:, part].astype(np.int32) @ integers[:, part].T  # [T, N]
        total = total + dot.astype(np.float32) * rows.scale[:, group, None]
    out: FloatArray = total * scale[:n] + (np.float32(0) if bias is None else bias)
    return out


def linear_int4(x: FloatArray, packed: PackedLinear, *, n: int, bias: FloatArray | None = None) -> FloatArray:
    """x [T, K] through one packed int4 linear: for each int4 group the dot product times d, and m times the sum."""
    rows = quantise(x)
    q, d, m = unpack_int4_blocks(packed, n=n, k=rows.values.shape[1])  # [N, G * GROUP], [N, 2 * G], [N, 2 * G]
    total = np.zeros((len(x), n), dtype=np.float32)
    for group in range(d.shape[1]):
        part = slice(group * INT4_GROUP, (group + 1) * INT4_GROUP)
        values = rows.values[:, part].astype(np.int32)  # [T, INT4_GROUP]
        scale = rows.scale[:, group * INT4_GROUP // GROUP, None]  # [T, 1]
        dot = (values @ q[:, part].T.astype(np.int32)).astype(np.float32)  # [T, N]
        sums = values.sum(axis=1, dtype=np.int32).astype(np.float32)[:, None]  # [T, 1]
        total = total + (dot * d[:, group].astype(np.float32) * scale + m[:, group].astype(np.float32) * (sums * scale))
    out: FloatArray = total + (np.float32(0) if bias is None else bias)
    return out


def linear_bf16(x: FloatArray, packed: PackedLinear, *, n: int, bias: FloatArray | None = None) -> FloatArray:
    """x [T, K], rounded to bfloat16, through one packed bf16 linear: even and odd input features are summed apart."""
    columns = padded_columns(x.shape[1])
    rounded = np.zeros((len(x), columns), dtype=np.float32)
    rounded[:, : x.shape[1]] = from_bf16(to_bf16(x))
    weight = unpack_linear(packed, n=n, k=columns)  # [N, Kpad]
    even, odd = np.zeros((2, len(x), n), dtype=np.float32)
    for column in range(0, columns, PAIR):
        even = even + rounded[:, column, None] * weight[:, column]
        odd = odd + rounded[:, column + 1, None] * weight[:, column + 1]
    out: FloatArray = even + odd + (np.float32(0) if bias is None else bias)
    return out


def packed_linear(x: FloatArray, packed: PackedLinear, *, n: int, bias: FloatArray | None = None) -> FloatArray:
    """x [T, K] through one packed [N, K] linear of any format."""
    match packed.format:
        case LinearFormat.INT8:
            assert packed.scale is not None
            return linear(x, packed.weight, packed.scale.astype(np.float32), n=n, bias=bias)
        case LinearFormat.INT4:
            return linear_int4(x, packed, n=n, bias=bias)
        case LinearFormat.BF16:
            return linear_bf16(x, packed, n=n, bias=bias)


def swiglu(gate: FloatArray, up: FloatArray) -> FloatArray:
    """silu(gate) * up"""
    out: FloatArray = gate / (np.float32(1) + np.exp(-gate)) * up
    return out


@dataclass(frozen=True)
class Experts:
    """E packed SwiGLU experts of width F."""

    gate_up: PackedLinear  # stack of E, rows gate 0..F-1, up F..2F-1
    down: PackedLinear  # stack of E
    width: int


def expert_ffn(x: FloatArray, experts: Experts, chosen: NDArray[np.int32], weights: FloatArray) -> FloatArray:
    """Each token's chosen experts [T, k], summed with their weights [T, k] in that order. x [T, H] -> [T, H]."""
    out = np.zeros_like(x)
    for token, row in enumerate(x[:, None, :]):
        for expert, factor in zip(chosen[token], weights[token], strict=True):
            both = packed_linear(row, experts.gate_up.expert(expert), n=2 * experts.width)
            inner = swiglu(both[:, : experts.width], both[:, experts.width :])
            down = packed_linear(inner, experts.down.expert(expert), n=x.shape[1])
            out[token] += down[0] * factor
    return out
