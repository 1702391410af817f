"""What an operator is told of a mixture's experts: how evenly each layer uses them, and how much each one does.

Pure: counts in, numbers out. Knows no tritonserver.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

MAX_EXPERT_SERIES: Final = 512
"""Counters of single experts, layers times experts, that one engine may add to a Prometheus; beyond it only the skew
of each layer is told."""

Counts = NDArray[np.int64]


def skews(load: Counts) -> NDArray[np.float64]:
    """Of each layer, its busiest expert's tokens over the mean: 1 = even. 0 for one that was given none. [layers].

    From counts [layers, experts].
    """
    mean = load.mean(axis=1)
    return np.divide(load.max(axis=1), mean, out=np.zeros(len(load)), where=mean > 0)


def has_series(load: Counts) -> bool:
    """Whether each expert has a counter of its own."""
    return load.size <= MAX_EXPERT_SERIES
