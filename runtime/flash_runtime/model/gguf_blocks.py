"""GGUF's 4-bit blocks taken apart without loss, for formats that compute with them. Knows no files and no tensors.

A block is 32 weights of one row: Q4_1 = d (f16), m (f16), 16 bytes, w = q * d + m; Q4_0 = d, 16 bytes, w = (q - 8) * d.
A byte holds weight i in its low and weight i + 16 in its high half.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from gguf.constants import GGMLQuantizationType
from numpy.typing import NDArray

from flash_runtime.kernels.int4 import INT4_GROUP, Int4Blocks

_HALF_BYTES: Final = 2
_BIAS: Final = np.float16(8)


def split_blocks(rows: NDArray[np.uint8], kind: GGMLQuantizationType) -> Int4Blocks | None:
    """Blocks of raw rows [N, bytes]; None for types that are not these."""
    if kind not in (GGMLQuantizationType.Q4_0, GGMLQuantizationType.Q4_1):
        return None
    num_halves = 1 if kind is GGMLQuantizationType.Q4_0 else 2
    head = num_halves * _HALF_BYTES
    blocks = rows.reshape(len(rows), -1, head + INT4_GROUP // 2)  # [N, G, bytes]
    halves = np.ascontiguousarray(blocks[:, :, :head]).view("<f2")  # [N, G, 1 or 2]
    packed = blocks[:, :, head:]
    q = np.concatenate([packed & 0x0F, packed >> 4], axis=2).reshape(len(rows), -1)
    d = halves[:, :, 0]
    return Int4Blocks(q=q, d=d, m=halves[:, :, 1] if num_halves == 2 else -_BIAS * d)
