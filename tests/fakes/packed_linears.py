"""Random linears in the packed file's int8 form."""

from __future__ import annotations

import numpy as np

from flash_runtime.kernels.layout import PackedLinear, pack_experts, pack_linear


def packed_linear(n: int, k: int, *, seed: int = 0) -> PackedLinear:
    """An [N, K] linear."""
    return pack_linear(np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32))


def packed_experts(experts: int, n: int, k: int, *, seed: int = 0) -> PackedLinear:
    """A stack of [N, K] linears."""
    return pack_experts(np.random.default_rng(seed).standard_normal((experts, n, k)).astype(np.float32))
