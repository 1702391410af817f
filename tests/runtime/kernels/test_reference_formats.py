"""The NumPy linears of each format stay close to the float product of the unpacked weights."""

from __future__ import annotations

import numpy as np
import pytest

from flash_runtime.kernels import reference
from flash_runtime.kernels.layout import LinearFormat, pack_linear, unpack_linear


@pytest.mark.parametrize("kind", LinearFormat)
@pytest.mark.parametrize("k", [1, 33, 64, 200])
def test_a_linear_is_the_product_with_the_unpacked_weights(kind: LinearFormat, k: int) -> None:
    rng = np.random.default_rng(k)
    weight, x = rng.standard_normal((20, k)).astype(np.float32), rng.standard_normal((3, k)).astype(np.float32)
    bias = rng.standard_normal(20).astype(np.float32)
    packed = pack_linear(weight, kind)
    exact = x @ unpack_linear(packed, n=20, k=k).T + bias
    found = reference.packed_linear(x, packed, n=20, bias=bias)
    assert np.abs(found - exact).max() < 0.02 * np.sqrt(k)
