"""The same bits on every instruction set, however a prompt is cut, and whoever shares the batch and the blocks.

Each fact is tried on every shape whose code differs, with keys and values in bfloat16 and in int8.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from kernel_shapes import SHAPES

from flash_runtime.kernels import _native
from flash_runtime.kernels.provider import CpuProvider, KvDtype

# The format of the cache matters to attention alone: those whose attention differs.
INT8_SHAPES = ("dense", "dense_bias_norms", "wide_heads", "moe", "window_over_chunks")
CASES = [(shape, KvDtype.BFLOAT16) for shape in SHAPES] + [(shape, KvDtype.INT8) for shape in INT8_SHAPES]
PROMPT = np.random.default_rng(3).integers(0, 101, 150)

MakeProvider = Callable[..., CpuProvider]


def provider(model: Any, **arguments: Any) -> CpuProvider:
    return CpuProvider(model, **{"kv_cache_bytes": 2**21, "threads": 2, **arguments})


@pytest.fixture(scope="session", params=CASES, ids="-".join)
def make(request: pytest.FixtureRequest, tiny_model: Any) -> MakeProvider:
    """Providers of one shape and one format of the cache."""
    shape, kv_dtype = request.param
    model = tiny_model(**SHAPES[shape])
    return lambda **arguments: provider(model, kv_dtype=kv_dtype, **arguments)


def test_all_instruction_sets_give_the_same_bits(make: MakeProvider, batch: Any, piece: Any) -> None:
    whole = batch(piece(PROMPT, 0, list(range(10))))
    results = [make(isa=isa).step(whole).logits for isa in _native.supported_isas()]
    assert all(np.array_equal(results[0], result) for result in results)


@pytest.mark.parametrize("block_size", [16, 32])
def test_cutting_a_prompt_into_steps_changes_no_bit(
    make: MakeProvider, batch: Any, piece: Any, isa: str, block_size: int
) -> None:
    whole = make(isa=isa).step(batch(piece(PROMPT, 0, list(range(10))))).logits
    cut = make(isa=isa, block_size=block_size, threads=1)
    bounds = [0, 1, 8, 72, 73, 140, 150]
    blocks = [9, 4, 7, 1, 0, 8, 2, 6, 5, 3]
    parts = [cut.step(batch(piece(PROMPT[a:b], a, blocks))).logits for a, b in pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts), whole)


def test_company_in_the_batch_changes_no_bit(make: MakeProvider, batch: Any, piece: Any, isa: str) -> None:
    alone = make(isa=isa)
    expected = [alone.step(batch(piece(PROMPT[:40], 0, [0, 1, 2]))).logits]
    expected += [alone.step(batch(piece(PROMPT[40 + i : 41 + i], 40 + i, [0, 1, 2]))).logits for i in range(5)]
    crowd = make(isa=isa)
    others = np.random.default_rng(9).integers(0, 101, (4, 60))
    own = slice(60, 100)
    mixed = batch(
        piece(others[0], 0, [10, 11, 12, 13]), piece(PROMPT[:40], 0, [7, 3, 5]), piece(others[1], 0, [20, 21, 22, 23])
    )
    got = [crowd.step(mixed).logits[own]]
    for i in range(5):
        step = batch(
            piece(others[2][i : i + 1], 60 + i, [10, 11, 12, 13, 14]),
            piece(PROMPT[40 + i : 41 + i], 40 + i, [7, 3, 5]),
            piece(others[3][8 * i : 8 * i + 8], 60 + 8 * i, [20, 21, 22, 23, 24, 25, 26]),
        )
        got.append(crowd.step(step).logits[1:2])
    assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("kv_dtype", "window"), [(KvDtype.BFLOAT16, None), (KvDtype.BFLOAT16, 1500), (KvDtype.INT8, None)]
)
def test_a_long_prompt_gives_the_same_bits_on_any_number_of_threads_and_in_pieces(
    tiny_model: Any, batch: Any, piece: Any, isa: str, kv_dtype: KvDtype, window: int | None
) -> None:
    model = tiny_model(hidden=64, heads=4, head_dim=8, width=64, window=window).with_plan(max_context_tokens=4096)
    prompt = np.random.default_rng(4).integers(0, 101, 2305)
    blocks = list(range(145))
    alone = provider(model, isa=isa, threads=1, kv_dtype=kv_dtype).step(batch(piece(prompt, 0, blocks))).logits
    cut = provider(model, isa=isa, threads=3, kv_dtype=kv_dtype)
    bounds = [0, 1000, 1024, 1030, 2047, 2049, 2300, 2304, 2305]
    parts = [cut.step(batch(piece(prompt[a:b], a, blocks))).logits for a, b in pairwise(bounds)]
    assert np.array_equal(np.concatenate(parts), alone)


@pytest.mark.parametrize("kv_dtype", KvDtype)
def test_what_a_broken_sequence_left_in_a_block_harms_nobody(
    tiny_model: Any, batch: Any, piece: Any, isa: str, kv_dtype: KvDtype
) -> None:
    model = tiny_model()
    scale = model.blob("embedding.scale").copy()
    scale[5] = np.nan
    shared = provider(model.with_blob("embedding.scale", scale), isa=isa, kv_dtype=kv_dtype)
    assert np.isnan(shared.step(batch(piece([5] * 32, 0, [0, 1]))).logits).all()
    prompt = PROMPT[PROMPT != 5][:20]
    fresh = provider(model, isa=isa, kv_dtype=kv_dtype).step(batch(piece(prompt, 0, [0, 1]))).logits
    assert np.array_equal(shared.step(batch(piece(prompt, 0, [0, 1]))).logits, fresh)
