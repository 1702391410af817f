"""Packing and unpacking of int8 weights."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_runtime.kernels.layout import PackedLinear, pack_experts, pack_linear, unpack_linear, unpack_quantised

SIZES = st.integers(1, 150)


@settings(max_examples=40, deadline=None)
@given(n=SIZES, k=SIZES, seed=st.integers(0, 2**31))
def test_unpacking_gives_the_weights_back_to_half_a_rounding_step(n: int, k: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)
    packed = pack_linear(weight)
    assert packed.weight.shape == (-(-n // 16), -(-k // 64) * 16, 16, 4)
    assert packed.scale.shape == (-(-n // 16) * 16,)
    error = np.abs(unpack_linear(packed, n=n, k=k) - weight)
    assert (error <= packed.scale[:n, None] * 0.5001).all()


def test_a_line_holds_sixteen_features_of_four_inputs() -> None:
    weight = np.arange(1, 17 * 65 + 1, dtype=np.float32).reshape(17, 65)
    packed = pack_linear(weight)
    quantised = np.rint(weight / packed.scale[:17, None]) + 128
    assert packed.weight[0, 0, 3, 2] == quantised[3, 2]
    assert packed.weight[1, 16, 0, 0] == quantised[16, 64]
    assert (packed.weight[1, :, 1:] == 128).all()
    assert (packed.scale[17:] == 0).all()


def test_a_zero_or_vanishing_row_packs_to_scale_zero() -> None:
    weight = np.zeros((2, 64), dtype=np.float32)
    weight[1] = 1e-40
    packed = pack_linear(weight)
    assert (packed.scale == 0).all()
    assert (unpack_quantised(packed.weight, n=2, k=64) == 0).all()


def test_huge_weights_keep_their_relative_precision() -> None:
    weight = np.full((1, 64), 3e37, dtype=np.float32)
    weight[0, 0] = -3e38
    assert np.allclose(unpack_linear(pack_linear(weight), n=1, k=64), weight, rtol=0.05)


def test_experts_are_packed_like_single_linears() -> None:
    weight = np.random.default_rng(0).standard_normal((3, 20, 70)).astype(np.float32)
    packed = pack_experts(weight)
    for index in range(3):
        one = pack_linear(weight[index])
        assert np.array_equal(packed.weight[index], one.weight)
        assert np.array_equal(packed.scale[index], one.scale)


@pytest.mark.parametrize("weight", [np.zeros(4), np.zeros((0, 4)), np.array([[np.nan]]), np.array([[np.inf]])])
def test_what_is_no_finite_matrix_is_refused(weight: np.ndarray) -> None:
    with pytest.raises(ValueError, match="a linear's weight must be"):
        pack_linear(weight.astype(np.float32))


def test_unpacking_names_the_size_it_expected() -> None:
    with pytest.raises(ValueError, match=r"a packed \[3, 64\] linear has 1024 bytes, found 10"):
        unpack_linear(PackedLinear(np.zeros(10, np.uint8), np.zeros(16, np.float32)), n=3, k=64)
