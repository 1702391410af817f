"""Rotary position embedding: the angle per position of every pair of a head. Numbers in, numbers out.

The pairs are (i, i + head_dim / 2), as Hugging Face stores weights; checkpoints that pair neighbours are reordered
where they are read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of slow rotations, so that a model reads further than it was trained for."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_tokens: int


@dataclass(frozen=True)
class Rope:
    """How a checkpoint turns its queries and keys."""

    theta: float
    scaling: Llama3Scaling | None = None
    divisors: tuple[float, ...] | None = None
    """Per-pair divisors written out in the checkpoint (GGUF's form of the same stretching)."""


def inverse_frequencies(rope: Rope, *, head_dim: int) -> NDArray[np.float32]:
    """Angle per position of each pair, f32 [head_dim / 2]."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.float32(rope.theta) ** exponents).astype(np.float32)
    if rope.divisors is not None:
        return (frequencies / np.asarray(rope.divisors, dtype=np.float32)).astype(np.float32)
    if rope.scaling is not None:
        return _stretched(frequencies, rope.scaling)
    return frequencies


def _stretched(frequencies: NDArray[np.float32], scaling: Llama3Scaling) -> NDArray[np.float32]:
    """Long waves divided by `factor`, short ones kept, a linear blend between (Llama 3.1)."""
    waves = 2 * np.pi / frequencies
    turns = scaling.original_context_tokens / waves  # whole turns within the original context
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    kept = np.clip(blend, 0.0, 1.0)
    stretched: NDArray[np.float32] = (kept * frequencies + (1 - kept) * frequencies / scaling.factor).astype(np.float32)
    return stretched
