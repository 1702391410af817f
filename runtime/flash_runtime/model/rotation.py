"""An orthogonal change of basis that spreads every outlier over all features. Knows arrays, no models and no files.

A linear that reads rotated features takes its weight through `of_inputs`, one that writes them through `of_outputs`;
what flows between the two is rotated, and their product is what it was. Rounding costs less there, because no single
feature dictates the scale of its neighbours (QuaRot, Ashkboos et al. 2024, arXiv 2404.00456).

The matrix is written down as a formula: random signs, then Hadamard ⊗ DCT. It is applied by additions and
multiplications of whole arrays, in one order, so that every machine gets the same bits; a product by a BLAS would not
promise that.

Legend: B features of one block, P the power of two in B, M the rest (B = P * M), K features = a number of blocks,
C columns.
"""

from __future__ import annotations

import functools
import hashlib
import math
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]

_AT_ONCE: Final = 2**16
"""Values rotated together: they and their copy stay in the cache of one core."""


@dataclass(frozen=True)
class Rotation:
    """Rotates every block of `features` neighbours by the same orthogonal matrix Q: x -> x Q."""

    features: int

    def of_inputs(self, weight: FloatArray, *, factors: FloatArray | None = None) -> None:
        """W -> W diag(factors) Q in place, for a weight [N, K] or the rows of an embedding."""
        rows = max(1, _AT_ONCE // weight.shape[1])
        for start in range(0, len(weight), rows):
            block = weight[start : start + rows]
            columns = np.ascontiguousarray(block.T if factors is None else (block * factors).T)
            block[:] = self._turned(columns).T

    def of_outputs(self, weight: FloatArray) -> None:
        """W -> Qᵀ W in place, for a weight [K, C] or a bias [K]."""
        matrix = weight.reshape(len(weight), -1)
        columns = max(1, _AT_ONCE // len(matrix))
        for start in range(0, matrix.shape[1], columns):
            block = matrix[:, start : start + columns]
            block[:] = self._turned(np.ascontiguousarray(block))

    def _turned(self, columns: FloatArray) -> FloatArray:
        """Qᵀ x for every column x of [K, C]."""
        power = self.features & -self.features
        rest = self.features // power
        blocks = columns.reshape(-1, self.features, columns.shape[1]) * _signs(self.features)[:, None]
        mixed = _mixed(blocks.reshape(-1, rest, columns.shape[1]), _cosines(rest))
        turned = _hadamard(mixed.reshape(-1, power, rest * columns.shape[1])).reshape(columns.shape)
        turned *= np.float32(1 / math.sqrt(power))
        return turned


@functools.cache
def _signs(count: int) -> FloatArray:
    """+1 or -1 for each feature, from a hash: what is smooth or constant over the features is spread like the rest."""
    drawn = np.frombuffer(hashlib.shake_128(f"rotation of {count}".encode()).digest(count), dtype=np.uint8)
    return np.where(drawn & 1, np.float32(1), np.float32(-1))


@functools.cache
def _cosines(size: int) -> FloatArray:
    """The orthogonal DCT-II matrix [M, M]."""
    rows = [
        [
            math.sqrt((1 if row == 0 else 2) / size) * math.cos(math.pi * row * (2 * column + 1) / (2 * size))
            for column in range(size)
        ]
        for row in range(size)
    ]
    return np.array(rows, dtype=np.float32)


def _mixed(blocks: FloatArray, matrix: FloatArray) -> FloatArray:
    """The matrix [M, M] times each of the blocks [R, M, C]."""
    if len(matrix) == 1:
        return blocks
    out = np.zeros_like(blocks)
    product = np.empty_like(blocks[:, 0])
    for row, factors in enumerate(matrix):
        for column, factor in enumerate(factors):
            np.multiply(blocks[:, column], factor, out=product)
            out[:, row] += product
    return out


def _hadamard(blocks: FloatArray) -> FloatArray:
    """The Hadamard matrix [P, P], not normalised, times each of the blocks [R, P, C]; overwrites its argument."""
    shape, source, target = blocks.shape, blocks, np.empty_like(blocks)
    half = 1
    while half < shape[1]:
        pairs = source.reshape(-1, 2, half * shape[2])
        sums = target.reshape(pairs.shape)
        np.add(pairs[:, 0], pairs[:, 1], out=sums[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=sums[:, 1])
        source, target = target, source
        half *= 2
    return source
