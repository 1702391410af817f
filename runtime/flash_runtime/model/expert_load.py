"""How evenly a mixture of experts spreads its tokens, layer by layer. Counts in, facts out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flash_runtime.model.plan import ModelPlan, MoeMlp


@dataclass(frozen=True)
class LayerLoad:
    """The experts of one layer."""

    layer: int
    tokens: tuple[int, ...]
    """How many tokens chose each expert."""

    @property
    def shares(self) -> tuple[float, ...]:
        """Load of each expert as a multiple of the layer's mean; 1 everywhere = perfectly even."""
        mean = sum(self.tokens) / len(self.tokens)
        return tuple(count / mean if mean else 0.0 for count in self.tokens)

    @property
    def skew(self) -> float:
        """The busiest expert's load over the mean. A step waits for its busiest expert."""
        return max(self.shares)

    @property
    def dead(self) -> tuple[int, ...]:
        """Experts that no token chose."""
        return tuple(index for index, count in enumerate(self.tokens) if not count)


def layer_loads(counts: NDArray[np.int64], plan: ModelPlan) -> list[LayerLoad]:
    """The layers that have experts, from the engine's counts [layers, most experts]."""
    return [
        LayerLoad(index, tuple(counts[index, : layer.mlp.num_experts].tolist()))
        for index, layer in enumerate(plan.layers)
        if isinstance(layer.mlp, MoeMlp)
    ]
