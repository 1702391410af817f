"""The kernels' arithmetic in NumPy, slow and obvious: what the native kernels are tested against.

Legend: T tokens, N and K a linear's output and input features, G groups of K, E experts, F an expert's width.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flash_runtime.kernels.layout import (
    GROUP,
    MAX_INT8,
    SMALLEST_MAX,
    ByteArray,
    FloatArray,
    padded_columns,
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


def swiglu(gate: FloatArray, up: FloatArray) -> FloatArray:
    """silu(gate) * up"""
    out: FloatArray = gate / (np.float32(1) + np.exp(-gate)) * up
    return out


@dataclass(frozen=True)
class Experts:
    """E packed SwiGLU experts of width F."""

    gate_up: ByteArray  # [E, ...], rows gate 0..F-1, up F..2F-1
    gate_up_scale: FloatArray  # [E, Npad]
    down: ByteArray  # [E, ...]
    down_scale: FloatArray  # [E, Npad]
    width: int


def expert_ffn(x: FloatArray, experts: Experts, chosen: NDArray[np.int32], weights: FloatArray) -> FloatArray:
    """Each token's chosen experts [T, k], summed with their weights [T, k] in that order. x [T, H] -> [T, H]."""
    out = np.zeros_like(x)
    for token, row in enumerate(x[:, None, :]):
        for expert, factor in zip(chosen[token], weights[token], strict=True):
            both = linear(row, experts.gate_up[expert], experts.gate_up_scale[expert], n=2 * experts.width)
            inner = swiglu(both[:, : experts.width], both[:, experts.width :])
            down = linear(inner, experts.down[expert], experts.down_scale[expert], n=x.shape[1])
            out[token] += down[0] * factor
    return out
