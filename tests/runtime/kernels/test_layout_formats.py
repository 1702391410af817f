"""Packing and unpacking of int4 and bf16 weights, and what every format refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_runtime.kernels.int4 import INT4_GROUP
from flash_runtime.kernels.layout import (
    LinearFormat,
    PackedLinear,
    from_bf16,
    pack_experts,
    pack_int4_blocks,
    pack_linear,
    part_shapes,
    to_bf16,
    unpack_int4_blocks,
    unpack_linear,
)

SIZES = st.integers(1, 150)
SEEDS = st.integers(0, 2**31)


def blocks(n: int, k: int, seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    shape = (n, -(-k // INT4_GROUP))
    q = rng.integers(0, 16, (n, k), dtype=np.uint8)
    return q, rng.standard_normal(shape).astype(np.float16), rng.standard_normal(shape).astype(np.float16)


def rounding_error(weight: np.ndarray) -> np.ndarray:
    """Squared error of each row after plain rounding to 16 steps between the least and the largest of each group."""
    n, k = weight.shape
    groups = np.pad(weight, ((0, 0), (0, -k % INT4_GROUP)), mode="edge").reshape(n, -1, INT4_GROUP)
    low, high = groups.min(axis=2, keepdims=True), groups.max(axis=2, keepdims=True)
    d, m = (((high - low) / 15).astype(np.float16).astype(np.float32), low.astype(np.float16).astype(np.float32))
    q = np.clip(np.rint((groups - m) / np.where(d == 0, 1, d)), 0, 15)
    error: np.ndarray = ((groups - q * d - m) ** 2).sum(axis=(1, 2))
    return error


@pytest.mark.parametrize("kind", LinearFormat)
@settings(max_examples=25, deadline=None)
@given(n=SIZES, k=SIZES, seed=SEEDS)
def test_the_parts_have_the_shapes_that_the_format_says(kind: LinearFormat, n: int, k: int, seed: int) -> None:
    weight = np.random.default_rng(seed).standard_normal((n, k)).astype(np.float32)
    parts = pack_linear(weight, kind).parts
    expected = part_shapes(kind, n, k)
    assert {name: (array.dtype.name, array.shape) for name, array in parts.items()} == {
        name: (part.dtype, part.shape) for name, part in expected.items()
    }
    assert all(array.flags.c_contiguous for array in parts.values())


@settings(max_examples=40, deadline=None)
@given(n=SIZES, k=SIZES, seed=SEEDS)
def test_int4_blocks_survive_packing_without_loss(n: int, k: int, seed: int) -> None:
    q, d, m = blocks(n, k, seed)
    packed = pack_int4_blocks(q, d, m)
    assert all(np.array_equal(a, b) for a, b in zip(unpack_int4_blocks(packed, n=n, k=k), (q, d, m), strict=True))
    wide_d, wide_m = (x.astype(np.float32).repeat(INT4_GROUP, axis=1)[:, :k] for x in (d, m))
    assert np.array_equal(unpack_linear(packed, n=n, k=k), q * wide_d + wide_m)


def test_the_blocks_of_a_symmetric_checkpoint_are_taken_over_without_loss() -> None:
    q, d, _ = blocks(16, 64, 1)
    packed = pack_int4_blocks(q, d, np.float16(-8) * d)
    expected = (q.astype(np.float32) - 8) * d.astype(np.float32).repeat(INT4_GROUP, axis=1)
    assert np.array_equal(unpack_linear(packed, n=16, k=64), expected)


def test_an_int4_line_holds_a_quad_in_its_low_and_the_next_in_its_high_nibbles() -> None:
    q = np.zeros((17, 70), dtype=np.uint8)
    q[3, 2], q[3, 6], q[16, 64] = 5, 9, 7
    packed = pack_int4_blocks(q, np.ones((17, 3), np.float16), np.ones((17, 3), np.float16))
    assert packed.weight[0, 0, 3, 2] == 5 | (9 << 4)
    assert packed.weight[1, 8, 0, 0] == 7
    assert packed.scale is not None
    assert (packed.scale[1, :3, 1:] == 0).all()
    assert (packed.scale[1, 3] == 0).all()


@settings(max_examples=25, deadline=None)
@given(n=SIZES, k=SIZES, seed=SEEDS, spread=st.sampled_from([1e-6, 1e-2, 1.0, 1e3]))
def test_int4_rounding_is_never_worse_than_sixteen_even_steps(n: int, k: int, seed: int, spread: float) -> None:
    weight = (np.random.default_rng(seed).standard_normal((n, k)) * spread + spread).astype(np.float32)
    found = unpack_linear(pack_linear(weight, LinearFormat.INT4), n=n, k=k)
    assert (((found - weight) ** 2).sum(axis=1) <= rounding_error(weight) * 1.001 + 1e-30).all()


def test_the_search_lowers_the_error_of_normal_weights() -> None:
    weight = np.random.default_rng(0).standard_normal((64, 1024)).astype(np.float32)
    found = unpack_linear(pack_linear(weight, LinearFormat.INT4), n=64, k=1024)
    assert ((found - weight) ** 2).sum() < 0.92 * rounding_error(weight).sum()


@pytest.mark.parametrize("value", [0.0, 0.37, -2.5e-4, 65504.0, -65504.0])
def test_equal_weights_keep_float16_precision_in_int4(value: float) -> None:
    weight = np.full((3, 65), value, dtype=np.float32)
    assert np.allclose(unpack_linear(pack_linear(weight, LinearFormat.INT4), n=3, k=65), weight, rtol=2**-11, atol=1e-7)


def test_vanishing_weights_become_zero_in_int4() -> None:
    weight = np.random.default_rng(0).standard_normal((2, 64)).astype(np.float32) * np.float32(1e-38)
    assert not unpack_linear(pack_linear(weight, LinearFormat.INT4), n=2, k=64).any()


def test_the_whole_float16_range_is_usable_in_int4() -> None:
    weight = np.linspace(-65504, 65504, 64, dtype=np.float32).reshape(1, 64)
    error = np.abs(unpack_linear(pack_linear(weight, LinearFormat.INT4), n=1, k=64) - weight)
    assert error.max() < 65504 / 15 * 0.6


@settings(max_examples=40, deadline=None)
@given(n=SIZES, k=SIZES, seed=SEEDS, spread=st.sampled_from([1e-40, 1.0, 1e37]))
def test_bf16_weights_come_back_rounded_to_nearest(n: int, k: int, seed: int, spread: float) -> None:
    weight = (np.random.default_rng(seed).uniform(-1, 1, (n, k)) * spread).astype(np.float32)
    found = unpack_linear(pack_linear(weight, LinearFormat.BF16), n=n, k=k)
    assert np.array_equal(found, from_bf16(to_bf16(weight)))
    assert np.allclose(found, weight, rtol=2**-8, atol=1e-40)


@pytest.mark.parametrize("kind", LinearFormat)
def test_experts_of_every_format_are_packed_like_single_linears(kind: LinearFormat) -> None:
    weight = np.random.default_rng(0).standard_normal((3, 20, 70)).astype(np.float32)
    packed = pack_experts(weight, kind)
    for index in range(3):
        one = pack_linear(weight[index], kind)
        assert all(np.array_equal(array, one.parts[name]) for name, array in packed.expert(index).parts.items())


@pytest.mark.parametrize("kind", LinearFormat)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_weights_that_are_no_numbers_are_refused(kind: LinearFormat, bad: float) -> None:
    weight = np.ones((4, 40), dtype=np.float32)
    weight[3, 39] = bad
    with pytest.raises(ValueError, match="must be finite, found NaN or infinity"):
        pack_linear(weight, kind)


def test_weights_beyond_the_range_of_a_format_are_refused() -> None:
    with pytest.raises(ValueError, match=r"within \+-65504 \(float16\), found 70000; use int8"):
        pack_linear(np.full((1, 32), 70000, np.float32), LinearFormat.INT4)
    with pytest.raises(ValueError, match=r"stay finite in bfloat16, found 3.4e\+38; use int8"):
        pack_linear(np.full((1, 32), 3.4e38, np.float32), LinearFormat.BF16)


def test_blocks_that_are_none_are_refused() -> None:
    q, d, m = blocks(2, 64, 0)
    with pytest.raises(ValueError, match=r"uint8 in 0..15, found uint8 up to 16"):
        pack_int4_blocks(np.full((2, 64), 16, np.uint8), d, m)
    with pytest.raises(ValueError, match=r"need d as float16 \[2, 2\], found float32 \[2, 2\]"):
        pack_int4_blocks(q, d.astype(np.float32), m)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"need m as float16 \[2, 2\], found float16 \[2, 1\]"):
        pack_int4_blocks(q, d, m[:, :1])
    with pytest.raises(ValueError, match="int4 linear's m must be finite"):
        pack_int4_blocks(q, d, m * np.float16(np.inf))


@pytest.mark.parametrize("kind", LinearFormat)
def test_unpacking_any_format_names_the_size_it_expected(kind: LinearFormat) -> None:
    packed = PackedLinear(np.zeros(10, np.uint8), np.zeros(16, np.float32), np.zeros(16, np.float16), kind)
    with pytest.raises(ValueError, match=r"a packed \[3, 64\] linear has \d+ bytes, found 10"):
        unpack_linear(packed, n=3, k=64)
