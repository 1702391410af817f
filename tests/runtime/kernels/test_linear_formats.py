"""int4 and bf16 linears of every instruction set, and rows of every format, against the NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_runtime.kernels import _native, reference
from flash_runtime.kernels.layout import LinearFormat, PackedLinear, pack_int4_blocks, pack_linear, unpack_linear
from flash_runtime.kernels.weights import native_linear

NEW = [LinearFormat.INT4, LinearFormat.BF16]
MAGNITUDES = st.sampled_from([0.0, 1e-38, 1e-20, 1.0, 1e4, 1e30])


def through(isa: str, x: np.ndarray, packed: PackedLinear, n: int, bias: np.ndarray | None = None) -> np.ndarray:
    out = np.full((len(x), n), np.nan, np.float32)
    _native.linear(isa, x, native_linear(packed, bias, n=n, k=x.shape[1]), out)
    return out


@pytest.mark.parametrize("kind", NEW)
@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 15),
    n=st.integers(1, 140),
    k=st.integers(1, 200),
    magnitude=MAGNITUDES,
    spread=st.sampled_from([0.0, 1e-7, 1.0, 1e4]),
    biased=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_linear_equals_the_reference_bit_for_bit(
    isa: str,
    kind: LinearFormat,
    tokens: int,
    n: int,
    k: int,
    magnitude: float,
    spread: float,
    biased: bool,
    seed: int,
) -> None:
    rng = np.random.default_rng(seed)
    weight = (rng.standard_normal((n, k)) * spread).astype(np.float32)
    weight[rng.integers(n)] = 0.25
    bias = rng.standard_normal(n).astype(np.float32) if biased else None
    x = rng.standard_normal((tokens, k)) * rng.choice([0.0, 1e-3, 1.0], (tokens, k), p=[0.2, 0.3, 0.5])
    x = np.ascontiguousarray(x * magnitude, dtype=np.float32)
    packed = pack_linear(weight, kind)
    expected = reference.packed_linear(x, packed, n=n, bias=bias)
    assert np.array_equal(through(isa, x, packed, n, bias), expected)


def test_the_largest_int4_products_do_not_overflow(isa: str) -> None:
    q = np.full((33, 64), 15, np.uint8)
    ones = np.ones((33, 2), np.float16)
    packed = pack_int4_blocks(q, ones, ones * np.float16(0))
    x = np.ones((7, 64), dtype=np.float32)
    assert np.allclose(through(isa, x, packed, 33), 15 * 64, rtol=1e-6)
    assert np.allclose(through(isa, -x, packed, 33), -15 * 64, rtol=1e-6)


def test_the_smallest_and_largest_float16_scales_are_exact(isa: str) -> None:
    bits = np.array([0x0001, 0x8001, 0x03FF, 0x0400, 0x7BFF, 0xFBFF, 0x0000, 0x8000], np.uint16)
    d = bits.view(np.float16).reshape(8, 1).repeat(2, axis=1)
    packed = pack_int4_blocks(np.ones((8, 64), np.uint8), d, d[::-1].copy())
    x = np.ones((3, 64), dtype=np.float32)
    expected = reference.packed_linear(x, packed, n=8)
    assert np.array_equal(through(isa, x, packed, 8), expected)


@pytest.mark.parametrize("kind", LinearFormat)
def test_rows_do_not_depend_on_their_company(isa: str, kind: LinearFormat) -> None:
    rng = np.random.default_rng(1)
    packed = pack_linear(rng.standard_normal((70, 130)).astype(np.float32), kind)
    x = rng.standard_normal((13, 130)).astype(np.float32)
    together = through(isa, x, packed, 70)
    assert all(np.array_equal(through(isa, x[i : i + 1], packed, 70)[0], together[i]) for i in range(13))


@pytest.mark.parametrize("kind", NEW)
def test_values_that_are_no_numbers_harm_their_own_row_only(isa: str, kind: LinearFormat) -> None:
    packed = pack_linear(np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32), kind)
    x = np.ones((3, 64), dtype=np.float32)
    clean = through(isa, x, packed, 20)
    x[1, 5] = np.inf
    out = through(isa, x, packed, 20)
    assert not np.isfinite(out[1]).any()
    assert np.array_equal(out[[0, 2]], clean[[0, 2]])


@pytest.mark.parametrize("kind", LinearFormat)
def test_a_row_is_read_as_it_unpacks(kind: LinearFormat) -> None:
    weight = np.random.default_rng(2).standard_normal((20, 75)).astype(np.float32)
    weight[5] *= 1e-6
    packed = pack_linear(weight, kind)
    layer, row = native_linear(packed, None, n=20, k=75), np.empty((1, 75), np.float32)
    for feature in (0, 5, 17, 19):
        _native.read_row(layer, feature, 3.0, row)
        assert np.array_equal(row[0], unpack_linear(packed, n=20, k=75)[feature] * np.float32(3))
