"""Weights that give NaN for one token: whoever uses it is told so, and nobody else notices."""

from __future__ import annotations

from typing import Any

import numpy as np

from flash_runtime.engine.errors import NonFiniteLogits
from flash_runtime.engine.loop import Engine, EngineLimits, Output
from flash_runtime.kernels.provider import CpuProvider
from flash_runtime.wire import FinishReason, GenerateRequest

DAMAGED = 7
GOOD, BAD = [1, 2, 3, 4], [1, 2, DAMAGED, 4]


def answers(model: Any, **prompts: list[int]) -> dict[str, list[Output]]:
    engine = Engine(CpuProvider(model, kv_cache_bytes=2**21, threads=2), limits=EngineLimits())
    for name, prompt in prompts.items():
        # Not chosen by anyone: its own logit is damaged or not, depending on whether the head shares the weights.
        engine.add(name, prompt, GenerateRequest(max_tokens=12, logit_bias={DAMAGED: -100.0}))
    outputs: dict[str, list[Output]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
    assert engine.stats().kv_blocks_used == 0
    return outputs


def test_a_sequence_whose_logits_are_not_finite_ends_alone_with_an_error(tiny_model: Any) -> None:
    whole = tiny_model()
    scale = whole.blob("embedding.scale").copy()
    scale[DAMAGED] = np.nan
    damaged = whole.with_blob("embedding.scale", scale)
    outputs = answers(damaged, good=GOOD, bad=BAD, other=GOOD[::-1])
    (failure,) = outputs["bad"]
    assert isinstance(failure.error, NonFiniteLogits)
    assert "position 4: its weights may be damaged" in str(failure.error)
    expected = answers(whole, good=GOOD, other=GOOD[::-1])
    for name in ("good", "other"):
        assert outputs[name] == expected[name]
        assert outputs[name][-1].finish_reason == FinishReason.LENGTH
