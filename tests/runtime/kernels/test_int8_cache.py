"""Keys and values in int8: against NumPy, and how much a cache holds."""

from __future__ import annotations

from typing import Any

import kernel_shapes
import numpy as np
import pytest

from flash_runtime.kernels.provider import CpuProvider, KvDtype, block_bytes
from flash_runtime.model.plan import ModelPlan

SHAPES = ("dense", "dense_bias_norms", "wide_heads", "moe", "window_over_chunks")
"""Those whose attention differs."""
PROMPT = np.random.default_rng(3).integers(0, 101, 150)


@pytest.fixture(scope="session", params=SHAPES)
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Any:
    return tiny_model(**kernel_shapes.SHAPES[request.param])


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


def test_int8_holds_nearly_twice_the_tokens(tiny_model: Any) -> None:
    plan = ModelPlan.from_json(tiny_model(head_dim=64).header["model"])
    assert block_bytes(plan, 16) == 2 * 2 * 16 * 128 * 2
    assert block_bytes(plan, 16, KvDtype.INT8) == 2 * 2 * 16 * (128 + 8)
    own = provider(tiny_model(head_dim=64), kv_cache_bytes=2**20)
    assert own.num_blocks == 2**20 // block_bytes(plan, 16, KvDtype.INT8)
