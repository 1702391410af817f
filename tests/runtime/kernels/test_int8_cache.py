"""Keys and values in int8: against NumPy, the same bits however a prompt is run, and how much a cache holds."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from flash_runtime.kernels import _native
from flash_runtime.kernels.provider import CpuProvider, KvDtype, block_bytes
from flash_runtime.model.plan import ModelPlan

SHAPES: dict[str, dict[str, Any]] = {
    "dense": {},
    "bias_and_norms": {"bias": True, "norms": "head", "head_dim": 32, "kv_heads": 1, "heads": 2},
    "wide_heads": {"heads": 2, "kv_heads": 2, "head_dim": 70},
    "moe": {"hidden": 128, "experts": 9, "top_k": 3, "width": 40, "norms": "head"},
    "window_over_chunks": {"window": 70, "heads": 2, "kv_heads": 2, "head_dim": 20},
}
PROMPT = np.random.default_rng(3).integers(0, 101, 150)
BLOCKS = [9, 4, 7, 1, 0, 8, 2, 6, 5, 3]


@pytest.fixture(scope="session", params=SHAPES)
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Any:
    return tiny_model(**SHAPES[request.param])


def provider(model: Any, **arguments: Any) -> CpuProvider:
    return CpuProvider(model, **{"kv_cache_bytes": 2**21, "threads": 2, "kv_dtype": KvDtype.INT8, **arguments})


def assert_close(logits: np.ndarray, expected: np.ndarray) -> None:
    """Summed in another order, a value may round to its neighbour: an int8 step is 1/127 of the largest beside it."""
    difference = np.abs(logits - expected)
    assert np.median(difference) < 1e-2
    assert difference.max() < 0.25 * expected.std()


def test_a_prompt_gives_the_reference_logits(model: Any, emulate: Any, batch: Any, piece: Any, isa: str) -> None:
    logits = provider(model, isa=isa).step(batch(piece(PROMPT, 0, list(range(10))))).logits
    assert_close(logits, emulate(model, PROMPT, cache="int8"))


def test_the_rounding_is_the_one_of_the_reference(model: Any, emulate: Any, batch: Any, piece: Any) -> None:
    logits = provider(model).step(batch(piece(PROMPT, 0, list(range(10))))).logits
    to_int8 = np.median(np.abs(logits - emulate(model, PROMPT, cache="int8")))
    assert to_int8 < 0.7 * np.median(np.abs(logits - emulate(model, PROMPT)))


def test_all_instruction_sets_give_the_same_bits(model: Any, batch: Any, piece: Any) -> None:
    whole = batch(piece(PROMPT, 0, list(range(10))))
    results = [provider(model, isa=isa).step(whole).logits for isa in _native.supported_isas()]
    assert all(np.array_equal(results[0], result) for result in results)


@pytest.mark.parametrize("block_size", [16, 32])
def test_cutting_a_prompt_into_steps_changes_no_bit(
    model: Any, batch: Any, piece: Any, isa: str, block_size: int
) -> None:
    whole = provider(model, isa=isa).step(batch(piece(PROMPT, 0, list(range(10))))).logits
    cut = provider(model, isa=isa, block_size=block_size, threads=1)
    parts = [cut.step(batch(piece(PROMPT[a:b], a, BLOCKS))).logits for a, b in pairwise([0, 1, 8, 72, 73, 140, 150])]
    assert np.array_equal(np.concatenate(parts), whole)


def test_company_in_the_batch_changes_no_bit(model: Any, batch: Any, piece: Any, isa: str) -> None:
    alone = provider(model, isa=isa).step(batch(piece(PROMPT[:40], 0, [0, 1, 2]))).logits
    others = np.random.default_rng(9).integers(0, 101, (2, 60))
    left, right = piece(others[0], 0, [10, 11, 12, 13]), piece(others[1], 0, [20, 21, 22, 23])
    mixed = provider(model, isa=isa).step(batch(left, piece(PROMPT[:40], 0, [7, 3, 5]), right)).logits
    assert np.array_equal(mixed[60:100], alone)


def test_a_long_prompt_gives_the_same_bits_on_any_number_of_threads_and_in_pieces(
    tiny_model: Any, batch: Any, piece: Any, isa: str
) -> None:
    model = tiny_model(hidden=64, heads=4, head_dim=8, width=64).with_plan(max_context_tokens=4096)
    prompt = np.random.default_rng(4).integers(0, 101, 1100)
    blocks = list(range(69))
    alone = provider(model, isa=isa, threads=1).step(batch(piece(prompt, 0, blocks))).logits
    cut = provider(model, isa=isa, threads=3)
    parts = [
        cut.step(batch(piece(prompt[a:b], a, blocks))).logits for a, b in pairwise([0, 1000, 1024, 1030, 1099, 1100])
    ]
    assert np.array_equal(np.concatenate(parts), alone)


def test_what_a_broken_sequence_left_in_a_block_harms_nobody(tiny_model: Any, batch: Any, piece: Any, isa: str) -> None:
    model = tiny_model()
    scale = model.blob("embedding.scale").copy()
    scale[5] = np.nan
    shared = provider(model.with_blob("embedding.scale", scale), isa=isa)
    assert np.isnan(shared.step(batch(piece([5] * 32, 0, [0, 1]))).logits).all()
    prompt = PROMPT[PROMPT != 5][:20]
    fresh = provider(model, isa=isa).step(batch(piece(prompt, 0, [0, 1]))).logits
    assert np.array_equal(shared.step(batch(piece(prompt, 0, [0, 1]))).logits, fresh)


def test_int8_holds_nearly_twice_the_tokens(tiny_model: Any) -> None:
    plan = ModelPlan.from_json(tiny_model(head_dim=64).header["model"])
    assert block_bytes(plan, 16) == 2 * 2 * 16 * 128 * 2
    assert block_bytes(plan, 16, KvDtype.INT8) == 2 * 2 * 16 * (128 + 8)
    own = provider(tiny_model(head_dim=64), kv_cache_bytes=2**20)
    assert own.num_blocks == 2**20 // block_bytes(plan, 16, KvDtype.INT8)
