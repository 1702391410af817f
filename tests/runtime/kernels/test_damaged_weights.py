"""Weights that give NaN for one token: whoever uses it is told so, and nobody else notices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from flash_runtime.engine.errors import NonFiniteLogits
from flash_runtime.engine.loop import Engine, EngineLimits, Output
from flash_runtime.kernels.provider import CpuProvider, KvDtype
from flash_runtime.wire import FinishReason, GenerateRequest

ONES = np.array([0xFFFFFFFF], dtype=np.uint32).view(np.float32)[0]
"""What erased memory holds: a NaN that a careless rounding to bfloat16 carries over into zero."""
FORMATS = ["int8", "int4", "bf16"]
DAMAGED = 7
GOOD, BAD = [1, 2, 3, 4], [1, 2, DAMAGED, 4]


def answers(model: Any, isa: str, **prompts: list[int]) -> dict[str, list[Output]]:
    engine = Engine(CpuProvider(model, kv_cache_bytes=2**21, threads=2, isa=isa), limits=EngineLimits())
    for name, prompt in prompts.items():
        # Not chosen by anyone: its own logit is damaged or not, depending on whether the head shares the weights.
        engine.add(name, prompt, GenerateRequest(max_tokens=12, logit_bias={DAMAGED: -100.0}))
    outputs: dict[str, list[Output]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    assert engine.stats().kv_blocks_used == 0
    return outputs


def damage(model: Any, format: str, linear: str, row: int) -> Any:
    """The model with one value of a row of a linear that is no number any more."""
    name = f"{linear}.{'weight' if format == 'bf16' else 'scale'}"
    blob = model.blob(name).copy()
    match format:
        case "int8":
            blob[row] = ONES
        case "int4":  # float16 [panels, groups, 16]
            blob[row // 16, 1, row % 16] = np.array([0xFFFF], dtype=np.uint16).view(np.float16)[0]
        case "bf16":  # bits [panels, K / 2, 16, 2]
            blob[row // 16, 3, row % 16, 1] = 0xFFFF
    return model.with_blob(name, blob)


@pytest.mark.parametrize("format", FORMATS)
def test_a_sequence_whose_logits_are_not_finite_ends_alone_with_an_error(
    tiny_model: Any, isa: str, format: str
) -> None:
    whole = tiny_model(weight_format=format, head_format=format)
    damaged = damage(whole, format, "embedding", DAMAGED)
    outputs = answers(damaged, isa, good=GOOD, bad=BAD, other=GOOD[::-1])
    (failure,) = outputs["bad"]
    assert isinstance(failure.error, NonFiniteLogits)
    assert "position 4: its weights may be damaged" in str(failure.error)
    expected = answers(whole, isa, good=GOOD, other=GOOD[::-1])
    for name in ("good", "other"):
        assert outputs[name] == expected[name]
        assert outputs[name][-1].finish_reason == FinishReason.LENGTH


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("row", [0, 73, 85])
def test_a_damaged_query_key_or_value_row_gives_no_finite_logits(
    tiny_model: Any, batch: Any, piece: Any, isa: str, format: str, row: int
) -> None:
    model = damage(tiny_model(weight_format=format, head_format=format), format, "0.qkv", row)
    logits = CpuProvider(model, kv_cache_bytes=2**21, isa=isa).step(batch(piece(GOOD * 9, 0, [0, 1, 2]))).logits
    assert not np.isfinite(logits.max(axis=1)).any()


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("name", ["0.attn_norm", "0.q_norm", "0.k_norm", "1.mlp_norm", "1.router", "final_norm"])
@pytest.mark.parametrize("value", [np.nan, ONES])
def test_a_damaged_vector_gives_no_finite_logits(
    tiny_model: Any, batch: Any, piece: Any, isa: str, format: str, name: str, value: float
) -> None:
    model = tiny_model(experts=5, width=24, norms="head", weight_format=format, head_format=format)
    blob = model.blob(name).copy()
    blob.reshape(-1)[5] = value
    model = model.with_blob(name, blob)
    logits = CpuProvider(model, kv_cache_bytes=2**21, isa=isa).step(batch(piece(GOOD * 9, 0, [0, 1, 2]))).logits
    assert not np.isfinite(logits.max(axis=1)).any()


@pytest.mark.parametrize("format", FORMATS)
def test_a_damaged_row_of_the_head_gives_no_best_token(
    tiny_model: Any, batch: Any, piece: Any, isa: str, format: str
) -> None:
    model = damage(tiny_model(weight_format=format, head_format=format), format, "head", 90)
    logits = CpuProvider(model, kv_cache_bytes=2**21, isa=isa).step(batch(piece(GOOD, 0, [0]))).logits
    assert np.isnan(logits[:, 90]).all()
    assert np.isfinite(np.delete(logits, 90, axis=1)).all()


@pytest.mark.parametrize("kv_dtype", list(KvDtype))
@pytest.mark.parametrize("window", [None, 9])
def test_tokens_before_a_damaged_one_do_not_notice_it(
    tiny_model: Any, batch: Any, piece: Any, isa: str, window: int | None, kv_dtype: KvDtype
) -> None:
    whole = tiny_model(window=window)
    tokens = [1, 2, 3, 4, 5] * 28
    tokens[131] = DAMAGED
    everything = piece(tokens, 0, list(range(9)))
    expected, found = (
        CpuProvider(model, kv_cache_bytes=2**21, isa=isa, kv_dtype=kv_dtype).step(batch(everything)).logits
        for model in (whole, damage(whole, "int8", "embedding", DAMAGED))
    )
    np.testing.assert_array_equal(found[:131], expected[:131])
    assert np.isnan(found[131:]).all()


def test_a_request_goes_on_when_a_damaged_token_has_left_its_windows(tiny_model: Any, isa: str) -> None:
    whole = tiny_model(window=9)
    whole = whole.with_plan(layers=[{**layer, "window": 9} for layer in whole.plan["layers"]])
    prompt = [*[1, 2, 3, 4] * 5, DAMAGED, *[11, 12, 13, 14] * 8]
    outputs = answers(damage(whole, "int8", "embedding", DAMAGED), isa, one=prompt)["one"]
    assert outputs == answers(whole, isa, one=prompt)["one"]
    assert outputs[-1].finish_reason == FinishReason.LENGTH
