"""How evenly experts are used, and how many of them have a series of their own."""

from __future__ import annotations

import numpy as np

from flash_runtime.backend.experts import MAX_EXPERT_SERIES, has_series, skews


def test_the_skew_of_a_layer_is_its_busiest_expert_over_the_mean() -> None:
    load = np.array([[5, 5, 5, 5], [20, 0, 0, 0], [6, 2, 0, 0], [0, 0, 0, 0]])
    assert skews(load).tolist() == [1.0, 4.0, 3.0, 0.0]


def test_single_experts_are_told_of_only_up_to_a_bound() -> None:
    assert has_series(np.zeros((16, MAX_EXPERT_SERIES // 16), dtype=np.int64))
    assert not has_series(np.zeros((16, MAX_EXPERT_SERIES // 16 + 1), dtype=np.int64))
