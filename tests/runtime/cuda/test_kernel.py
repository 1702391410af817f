"""The triton-lang kernel under triton-lang's interpreter against the NumPy reference: bit for bit, without torch.

It also goes through the real compiler for two GPUs, down to machine code, which needs no GPU.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from fakes.numpy_tensor import NumpyTensor
from fakes.packed_linears import packed_experts
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_runtime.kernels import reference
from flash_runtime.kernels.cuda.layout import rows_of
from flash_runtime.kernels.layout import FloatArray, PackedLinear

pytest.importorskip("triton", reason="triton-lang is not installed (make gpu-test)")

from flash_runtime.kernels.cuda.kernel import BLOCK_N, FEW_ROWS, GROUP_M, MANY_ROWS, launch

# triton-lang before 3.6 reads loop bounds in a way that NumPy has deprecated.
pytestmark = pytest.mark.filterwarnings("ignore:Conversion of an array with ndim:DeprecationWarning")
interpreted = pytest.mark.skipif(os.environ["TRITON_INTERPRET"] != "1", reason="NumPy arrays need the interpreter")


@dataclass(frozen=True)
class Case:
    """Rows [T, K], the experts each one goes to [T, R], and the experts."""

    x: FloatArray
    chosen: np.ndarray
    packed: PackedLinear
    n: int
    bias: FloatArray | None = None


def a_case(
    *, tokens: int, n: int, k: int, experts: int = 1, per_token: int = 1, bias: bool = False, seed: int = 0
) -> Case:
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(experts)[:per_token] for _ in range(tokens)])
    return Case(
        x=rng.standard_normal((tokens, k)).astype(np.float32),
        chosen=chosen,
        packed=packed_experts(experts, n, k, seed=seed),
        n=n,
        bias=rng.standard_normal((experts, n)).astype(np.float32) if bias else None,
    )


def expected(case: Case) -> FloatArray:
    """[P, N], pair after pair."""
    rows = []
    for row, experts in zip(case.x[:, None, :], case.chosen, strict=True):
        for expert in experts:
            bias = None if case.bias is None else case.bias[expert]
            weight, scale = case.packed.weight[expert], case.packed.scale[expert]
            rows.append(reference.linear(row, weight, scale, n=case.n, bias=bias)[0])
    return np.stack(rows)


def found(case: Case, *, block_rows: int = FEW_ROWS, empty_blocks: int = 0) -> FloatArray:
    """The kernel's [P, N]; NaN where it wrote nothing."""
    pairs = case.chosen.size
    slots, owners = obvious_routing(case.chosen.reshape(-1), block_rows)
    slots += [pairs] * block_rows * empty_blocks
    owners += [-1] * empty_blocks
    rows = rows_of(case.packed.weight, case.packed.scale, n=case.n, k=case.x.shape[1])
    quantised = reference.quantise(case.x)
    out = np.full((pairs, case.n), np.nan, dtype=np.float32)
    launch(
        NumpyTensor(quantised.values),
        NumpyTensor(quantised.scale),
        NumpyTensor(rows.weight),
        NumpyTensor(rows.scale),
        None if case.bias is None else NumpyTensor(case.bias),
        NumpyTensor(out),
        NumpyTensor(np.array(slots, dtype=np.int32)),
        NumpyTensor(np.array(owners, dtype=np.int32)),
        num_pairs=pairs,
        pairs_per_row=case.chosen.shape[1],
        block_rows=block_rows,
    )
    return out


def obvious_routing(flat: np.ndarray, block_rows: int) -> tuple[list[int], list[int]]:
    """Expert after expert, its pairs in order, filled up to whole blocks."""
    slots: list[int] = []
    owners: list[int] = []
    for expert in np.unique(flat):
        pairs = np.flatnonzero(flat == expert).tolist()
        blocks = -(-len(pairs) // block_rows)
        slots += pairs + [len(flat)] * (blocks * block_rows - len(pairs))
        owners += [int(expert)] * blocks
    return slots, owners


CASES = {
    "one_of_each": {"tokens": 1, "n": 1, "k": 1},
    "one_row": {"tokens": 1, "n": 70, "k": 130},
    "plain_linear_with_bias": {"tokens": 37, "n": 70, "k": 130, "bias": True},
    "whole_tiles": {"tokens": 32, "n": 2 * BLOCK_N, "k": 128},
    "more_blocks_than_walk_together": {"tokens": FEW_ROWS * (GROUP_M + 3) + 1, "n": BLOCK_N + 1, "k": 64},
    "experts": {"tokens": 13, "n": 33, "k": 65, "experts": 5, "per_token": 2},
    "experts_with_bias": {"tokens": 9, "n": 20, "k": 64, "experts": 4, "per_token": 3, "bias": True},
    "most_experts_empty": {"tokens": 2, "n": 48, "k": 72, "experts": 40, "per_token": 2},
    "all_experts": {"tokens": 3, "n": 17, "k": 100, "experts": 8, "per_token": 8},
}


@interpreted
@pytest.mark.parametrize("block_rows", [FEW_ROWS, MANY_ROWS])
@pytest.mark.parametrize("kind", CASES)
def test_it_gives_the_bits_of_the_reference(kind: str, block_rows: int) -> None:
    case = a_case(**CASES[kind])
    assert np.array_equal(found(case, block_rows=block_rows), expected(case))


@interpreted
@settings(max_examples=30, deadline=None)
@given(
    tokens=st.integers(1, 40),
    n=st.integers(1, 100),
    k=st.integers(1, 200),
    experts=st.integers(1, 9),
    data=st.data(),
)
def test_odd_sizes_give_the_bits_of_the_reference(
    tokens: int, n: int, k: int, experts: int, data: st.DataObject
) -> None:
    per_token = data.draw(st.integers(1, experts))
    case = a_case(tokens=tokens, n=n, k=k, experts=experts, per_token=per_token, bias=data.draw(st.booleans()))
    assert np.array_equal(found(case), expected(case))


@interpreted
@pytest.mark.parametrize("value", [0.0, 1e-38, 1e-30, 1e30, -1e30])
def test_extreme_rows_give_the_bits_of_the_reference(value: float) -> None:
    case = a_case(tokens=3, n=20, k=130)
    case.x[1] = value
    assert np.array_equal(found(case), expected(case))


@interpreted
def test_the_largest_products_do_not_overflow() -> None:
    case = a_case(tokens=2, n=16, k=64)
    case.x[:] = 5.0
    case.packed.weight[:] = 255  # 127, the largest
    assert np.array_equal(found(case), expected(case))
    assert np.isfinite(found(case)).all()


@interpreted
def test_empty_blocks_write_nothing() -> None:
    case = a_case(tokens=5, n=20, k=64, experts=3)
    assert np.array_equal(found(case, empty_blocks=4), expected(case))


@interpreted
def test_a_row_gets_the_same_bits_alone_and_in_company() -> None:
    case = a_case(tokens=40, n=70, k=130, experts=4, per_token=2)
    together = found(case, block_rows=MANY_ROWS)
    one = Case(case.x[7:8], case.chosen[7:8], case.packed, case.n)
    assert np.array_equal(found(one), together[14:16])


@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("block_rows", [FEW_ROWS, MANY_ROWS])
def test_it_compiles_to_int8_tensor_core_code_without_spills_or_fused_additions(
    capability: int, block_rows: int, tmp_path: Path
) -> None:
    """Ampere and Hopper machine code. A fused multiply-add would round once where the reference rounds twice."""
    done = subprocess.run(
        [sys.executable, Path(__file__).with_name("compile_kernel.py"), str(capability), str(block_rows)],
        env={**os.environ, "TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    counts = json.loads(done.stdout)
    assert counts["tensor_core"] > 0
    assert counts["spill"] == counts["fused"] == 0
