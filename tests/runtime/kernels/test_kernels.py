"""Single kernels of every instruction set against the NumPy reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_runtime.kernels import _native, reference
from flash_runtime.kernels.layout import pack_linear
from flash_runtime.kernels.weights import native_linear as native_weights

MAGNITUDES = st.sampled_from([0.0, 1e-38, 1e-20, 1.0, 1e4, 1e30])


def rows_of(seed: int, tokens: int, features: int, magnitude: float) -> np.ndarray:
    """Random rows whose groups differ widely in size, some zero."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((tokens, features)) * rng.choice([0.0, 1e-3, 1.0], (tokens, features), p=[0.2, 0.3, 0.5])
    return np.ascontiguousarray(x * magnitude, dtype=np.float32)


def native_quantise(isa: str, x: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    groups = -(-x.shape[1] // 64)
    values = np.empty((len(x), groups * 64), np.int8)
    scale, offset = np.empty((len(x), groups), np.float32), np.empty((len(x), groups), np.int32)
    _native.quantise(isa, x, values, scale, offset)
    return values, scale, offset


def native_linear(isa: str, x: np.ndarray, weight: np.ndarray, bias: np.ndarray | None) -> np.ndarray:
    packed = pack_linear(weight)
    n, k = weight.shape
    layer = native_weights(packed, bias, n=n, k=k)
    out = np.full((len(x), n), np.nan, np.float32)
    _native.linear(isa, x, layer, out)
    return out


@settings(max_examples=40, deadline=None)
@given(tokens=st.integers(1, 4), features=st.integers(1, 200), magnitude=MAGNITUDES, seed=st.integers(0, 2**31))
def test_quantised_activations_equal_the_reference(
    isa: str, tokens: int, features: int, magnitude: float, seed: int
) -> None:
    x = rows_of(seed, tokens, features, magnitude)
    values, scale, offset = native_quantise(isa, x)
    expected = reference.quantise(x)
    assert np.array_equal(values, expected.values)
    assert np.array_equal(scale, expected.scale)
    assert np.array_equal(offset, -128 * expected.values.reshape(tokens, -1, 64).sum(axis=2, dtype=np.int32))


@settings(max_examples=60, deadline=None)
@given(
    tokens=st.integers(1, 15),
    n=st.integers(1, 140),
    k=st.integers(1, 200),
    magnitude=MAGNITUDES,
    biased=st.booleans(),
    seed=st.integers(0, 2**31),
)
def test_a_linear_equals_the_reference_bit_for_bit(
    isa: str, tokens: int, n: int, k: int, magnitude: float, biased: bool, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    weight = rng.standard_normal((n, k)).astype(np.float32)
    weight[rng.integers(n)] = 0
    bias = rng.standard_normal(n).astype(np.float32) if biased else None
    x = rows_of(seed, tokens, k, magnitude)
    packed = pack_linear(weight)
    expected = reference.linear(x, packed.weight, packed.scale, n=n, bias=bias)
    assert np.array_equal(native_linear(isa, x, weight, bias), expected)


def test_extreme_operands_fill_the_integer_range_exactly(isa: str) -> None:
    x = np.ones((7, 64), dtype=np.float32)
    out = native_linear(isa, x, -np.ones((33, 64), dtype=np.float32), None)
    assert np.allclose(out, -64, rtol=1e-6)


def test_values_that_are_no_numbers_harm_their_own_row_only(isa: str) -> None:
    weight = np.random.default_rng(0).standard_normal((20, 64)).astype(np.float32)
    x = np.ones((3, 64), dtype=np.float32)
    clean = native_linear(isa, x, weight, None)
    x[1, 5] = np.inf
    out = native_linear(isa, x, weight, None)
    assert not np.isfinite(out[1]).any()
    assert np.array_equal(out[[0, 2]], clean[[0, 2]])


def test_swiglu_follows_its_formula_over_the_whole_range(isa: str) -> None:
    gate = np.concatenate([np.linspace(-120, 120, 4001), np.linspace(-1, 1, 1001)]).astype(np.float32)[None]
    out = np.empty_like(gate)
    _native.swiglu(isa, gate, np.ones_like(gate), out)
    exact = gate.astype(np.float64) / (1 + np.exp(-gate.astype(np.float64)))
    assert np.allclose(out, exact, rtol=1e-6, atol=1e-36)


@pytest.mark.parametrize("experts", [1, 3, 16, 33])
def test_softmax_follows_its_formula(isa: str, experts: int) -> None:
    x = (np.random.default_rng(experts).standard_normal((5, experts)) * 20 - 100).astype(np.float32)
    exact = np.exp(x.astype(np.float64) - x.max(axis=1, keepdims=True))
    exact /= exact.sum(axis=1, keepdims=True)
    _native.softmax(isa, x)
    assert np.allclose(x, exact, rtol=1e-5, atol=1e-37)


@pytest.mark.parametrize("features", [1, 12, 16, 100])
def test_rms_norm_follows_its_formula(isa: str, features: int) -> None:
    rng = np.random.default_rng(features)
    x = (rng.standard_normal((3, features)) * 1e3).astype(np.float32)
    weight = rng.standard_normal((1, features)).astype(np.float32)
    out = np.empty_like(x)
    _native.rms_norm(isa, x, weight, 1e-6, out)
    exact = x / np.sqrt(np.mean(x.astype(np.float64) ** 2, axis=1, keepdims=True) + 1e-6) * weight
    assert np.allclose(out, exact, rtol=1e-5)
