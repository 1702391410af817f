"""Rounding, routing and grouped linears on torch tensors against NumPy, bit for bit."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from fakes.packed_linears import packed_experts, packed_linear

from flash_runtime.kernels import reference
from flash_runtime.kernels.cuda.layout import rows_of

torch = pytest.importorskip("torch", reason="torch is not installed (make gpu-test)")
pytest.importorskip("triton", reason="triton-lang is not installed (make gpu-test)")

from flash_runtime.kernels.cuda.kernel import FEW_ROWS, MANY_ROWS  # noqa: E402
from flash_runtime.kernels.cuda.linear import Linear, grouped, quantise  # noqa: E402
from flash_runtime.kernels.cuda.routing import Routing, block_rows, by_expert, one_expert  # noqa: E402


def linear_on(device: str, packed: Any, *, n: int, k: int) -> Linear:
    rows = rows_of(packed.weight, packed.scale, n=n, k=k)
    weight, scale = torch.from_numpy(rows.weight), torch.from_numpy(rows.scale)
    return Linear(weight.to(device), scale.to(device), bias=None)


def random_rows(tokens: int, k: int) -> np.ndarray:
    """A row of zeros, one far below and one far above the rest are among them."""
    x = np.random.default_rng(tokens + k).standard_normal((tokens, k)).astype(np.float32)
    for row, factor in zip(range(tokens), (0.0, 1e-37, 1e30), strict=False):
        x[row] *= np.float32(factor)
    return x


@pytest.mark.parametrize(("tokens", "k"), [(1, 1), (5, 64), (7, 130), (40, 96)])
def test_activations_are_rounded_as_the_reference_rounds_them(tokens: int, k: int, device: str) -> None:
    x = random_rows(tokens, k)
    values, scale = quantise(torch.from_numpy(x).to(device))
    expected = reference.quantise(x)
    assert np.array_equal(values.cpu().numpy(), expected.values)
    assert np.array_equal(scale.cpu().numpy(), expected.scale)


@pytest.mark.parametrize("tokens", [1, 3, 33])
def test_a_plain_linear_gives_the_bits_of_the_reference(tokens: int, device: str) -> None:
    packed, x = packed_linear(70, 130), random_rows(tokens, 130)
    found = linear_on(device, packed, n=70, k=130)(torch.from_numpy(x).to(device))
    assert np.array_equal(found.cpu().numpy(), reference.linear(x, packed.weight, packed.scale, n=70))


def test_no_rows_give_no_rows(device: str) -> None:
    found = linear_on(device, packed_linear(20, 70), n=20, k=70)(torch.zeros((0, 70), device=device))
    assert found.shape == (0, 20)


@pytest.mark.parametrize(
    ("tokens", "experts", "per_token"), [(1, 8, 2), (9, 4, 4), (64, 3, 1), (100, 2, 2), (5, 60, 6)]
)
def test_experts_give_each_pair_the_bits_of_its_expert(tokens: int, experts: int, per_token: int, device: str) -> None:
    packed, x = packed_experts(experts, 33, 65), random_rows(tokens, 65)
    chosen = some_experts(tokens, experts, per_token)
    routing = by_expert(torch.from_numpy(chosen).to(device), experts)
    linear = linear_on(device, packed, n=33, k=65)
    found = grouped(linear, torch.from_numpy(x).to(device), routing, pairs_per_row=per_token).cpu().numpy()
    for pair, expert in enumerate(chosen.reshape(-1)):
        row = x[pair // per_token, None]
        expected = reference.linear(row, packed.weight[expert], packed.scale[expert], n=33)[0]
        assert np.array_equal(found[pair], expected)


@pytest.mark.parametrize(
    ("tokens", "experts", "per_token"), [(1, 8, 2), (9, 4, 4), (200, 3, 1), (5, 60, 6), (33, 7, 7)]
)
def test_every_pair_has_one_slot_in_a_block_of_its_expert(
    tokens: int, experts: int, per_token: int, device: str
) -> None:
    chosen = some_experts(tokens, experts, per_token)
    routing = by_expert(torch.from_numpy(chosen).to(device), experts)
    slots, owners = slots_of(routing)
    assert sorted(slots[slots < chosen.size].tolist()) == list(range(chosen.size))
    for block, owner in zip(slots, owners, strict=True):
        pairs = block[block < chosen.size]
        assert (chosen.reshape(-1)[pairs] == owner).all()
        assert (owner >= 0) == (len(pairs) > 0)


def test_one_expert_takes_the_rows_in_their_order(device: str) -> None:
    slots, owners = slots_of(one_expert(20, device))
    assert slots.reshape(-1)[:20].tolist() == list(range(20))
    assert owners.tolist() == [0, 0]


@pytest.mark.parametrize(
    ("pairs", "experts", "rows"), [(1, 1, FEW_ROWS), (31, 1, FEW_ROWS), (32, 1, MANY_ROWS), (500, 128, FEW_ROWS)]
)
def test_blocks_are_wide_only_when_experts_can_fill_them(pairs: int, experts: int, rows: int) -> None:
    assert block_rows(pairs, experts) == rows


def slots_of(routing: Routing) -> tuple[np.ndarray, np.ndarray]:
    """Pairs [B, M] and experts [B]."""
    slots = routing.pair_of_slot.cpu().numpy().reshape(-1, routing.block_rows)
    return slots, routing.expert_of_block.cpu().numpy()


def some_experts(tokens: int, experts: int, per_token: int) -> np.ndarray:
    rng = np.random.default_rng(tokens)
    return np.stack([rng.permutation(experts)[:per_token] for _ in range(tokens)])
