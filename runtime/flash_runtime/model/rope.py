"""Rotary position embedding: the angle per position of every pair of a head. Numbers in, numbers out.

The pairs are (i, i + head_dim / 2), as Hugging Face stores weights; checkpoints that pair neighbours are reordered
where they are read. Every scaling is a fixed table of angles, so a key in the cache is right for whoever reuses it.

Dynamic NTK scaling (bloc97, 2023) changes its table only for sequences longer than the window the checkpoint gives;
within that window, which the engine keeps to, it is plain RoPE, and that is how it is read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Frequencies = NDArray[np.float32]


@dataclass(frozen=True)
class LinearScaling:
    """Positions divided by `factor` (Chen et al. 2023)."""

    factor: float


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's stretching of slow rotations, so that a model reads further than it was trained for."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_context_tokens: int


@dataclass(frozen=True)
class YarnScaling:
    """YaRN (Peng et al. 2023): slow rotations are divided by `factor`, fast ones kept, a ramp between."""

    factor: float
    original_context_tokens: int
    attention_factor: float
    """Factor on cosine and sine."""
    beta_fast: float = 32.0
    """Pairs with more turns than this within the original context are kept."""
    beta_slow: float = 1.0
    """Pairs with fewer turns are divided."""
    truncate: bool = True
    """Whether the ramp starts and ends at whole pairs."""


@dataclass(frozen=True)
class Rope:
    """How a checkpoint turns its queries and keys."""

    theta: float
    scaling: LinearScaling | Llama3Scaling | YarnScaling | None = None
    divisors: tuple[float, ...] | None = None
    """Per-pair divisors written out in the checkpoint (GGUF's form of the same stretching)."""

    @property
    def scale(self) -> float:
        """Factor on cosine and sine."""
        return self.scaling.attention_factor if isinstance(self.scaling, YarnScaling) else 1.0

    @property
    def reach_tokens(self) -> int:
        """The window that the scaling was made for, where it says so; else 0."""
        if isinstance(self.scaling, YarnScaling):
            return int(self.scaling.factor * self.scaling.original_context_tokens)
        return 0


def yarn_attention_factor(factor: float, *, mscale: float | None = None, mscale_all_dim: float | None = None) -> float:
    """What YaRN recommends for `factor`; checkpoints of the DeepSeek kind give two magnitudes to divide."""

    def magnitude(weight: float) -> float:
        return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0

    if mscale and mscale_all_dim:
        return magnitude(mscale) / magnitude(mscale_all_dim)
    return magnitude(1.0)


def inverse_frequencies(rope: Rope, *, head_dim: int) -> Frequencies:
    """Angle per position of each pair, f32 [head_dim / 2]."""
    exponents = np.arange(0, head_dim, 2, dtype=np.float32) / np.float32(head_dim)
    frequencies = (1.0 / np.float32(rope.theta) ** exponents).astype(np.float32)
    if rope.divisors is not None:
        return (frequencies / np.asarray(rope.divisors, dtype=np.float32)).astype(np.float32)
    match rope.scaling:
        case None:
            return frequencies
        case LinearScaling(factor):
            return (frequencies / np.float32(factor)).astype(np.float32)
        case Llama3Scaling() as llama3:
            return _by_wavelength(frequencies, llama3)
        case YarnScaling() as yarn:
            return _by_turns(frequencies, yarn, theta=rope.theta, head_dim=head_dim)


def _by_wavelength(frequencies: Frequencies, scaling: Llama3Scaling) -> Frequencies:
    """Long waves divided by `factor`, short ones kept, a linear blend between (Llama 3.1)."""
    waves = 2 * np.pi / frequencies
    turns = scaling.original_context_tokens / waves  # whole turns within the original context
    blend = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
    return _blend(frequencies, kept=blend, factor=scaling.factor)


def _by_turns(frequencies: Frequencies, scaling: YarnScaling, *, theta: float, head_dim: int) -> Frequencies:
    """YaRN's ramp is linear in the number of the pair, not in its wavelength."""

    def pair_with(turns: float) -> float:
        """Which pair makes so many turns within the original context (a fraction, perhaps outside the head)."""
        return head_dim * math.log(scaling.original_context_tokens / (turns * 2 * math.pi)) / (2 * math.log(theta))

    low, high = pair_with(scaling.beta_fast), pair_with(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, head_dim - 1)
    span = high - low if high != low else 0.001  # a ramp of no length would divide by zero
    ramp = (np.arange(head_dim // 2, dtype=np.float32) - np.float32(low)) / np.float32(span)
    return _blend(frequencies, kept=1 - ramp, factor=scaling.factor)


def _blend(frequencies: Frequencies, *, kept: NDArray[np.floating[Any]], factor: float) -> Frequencies:
    """Each frequency between itself (kept 1) and its `factor`-th part (kept 0)."""
    kept = np.clip(kept, 0.0, 1.0)
    blended: Frequencies = (kept * frequencies + (1 - kept) * frequencies / factor).astype(np.float32)
    return blended
