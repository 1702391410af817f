"""On the real kernels: a step that verifies five tokens gives each of them the bits that it has alone."""

from __future__ import annotations

from itertools import count
from random import Random
from typing import Any

import numpy as np
import pytest
from fakes.proposers import Liar, Oracle

from flash_runtime.engine.loop import Engine, EngineLimits
from flash_runtime.engine.speculation import Speculation
from flash_runtime.kernels.provider import CpuProvider, KvDtype
from flash_runtime.wire import GenerateRequest

SHAPES: dict[str, dict[str, Any]] = {
    "dense": {},
    "moe": {"hidden": 128, "experts": 9, "top_k": 3, "width": 40, "norms": "head"},
    "moe_shared_window": {"experts": 5, "top_k": 2, "width": 24, "shared": 70, "window": 11},
    "int4": {"weight_format": "int4", "bias": True},
    "bf16_moe": {"weight_format": "bf16", "head_format": "bf16", "experts": 5, "width": 90, "shared": 33},
}


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Any:
    return tiny_model(**SHAPES[request.param])


@pytest.mark.parametrize("kv_dtype", KvDtype)
def test_a_verified_token_has_the_bits_of_one_computed_alone(
    model: Any, batch: Any, piece: Any, isa: str, kv_dtype: KvDtype
) -> None:
    """Also after other proposals stood in the same places, and past the positions where attention is cut in parts."""
    model = model.with_plan(max_context_tokens=1200)
    token_ids = np.random.default_rng(5).integers(0, 101, 1050)
    blocks = list(range(70))

    def filled(threads: int) -> CpuProvider:
        one = CpuProvider(model, kv_cache_bytes=2**23, threads=threads, isa=isa, kv_dtype=kv_dtype)
        one.step(batch(piece(token_ids[:1015], 0, blocks)))
        return one

    alone = filled(1)
    expected = [alone.step(batch(piece(token_ids[at : at + 1], at, blocks))).logits[0] for at in range(1015, 1050)]
    verifying = filled(2)
    at, rows = 1015, []
    for held, guessed in zip([4, 0, 2, 1, 4, 3, 4, 0, 4, 2, 0], [5, 3, 8, 1, 4, 8, 6, 8, 5, 2, 1], strict=True):
        right = token_ids[at : at + 1 + min(held, guessed)]
        wrong = (token_ids[at + len(right) : at + 1 + guessed] + 1) % 101
        answers = verifying.step(batch(piece(np.concatenate([right, wrong]), at, blocks)))
        rows += list(answers.logits[: len(right)])
        at += len(right)
    assert len(rows) > 30
    assert np.array_equal(np.stack(rows), np.stack(expected[: len(rows)]))


@pytest.mark.parametrize("kv_dtype", KvDtype)
def test_answers_are_the_same_with_proposals_and_without(model: Any, kv_dtype: KvDtype) -> None:
    draw = Random(3)
    requests = [
        (
            [draw.randrange(101) for _ in range(draw.randint(1, 60))],
            GenerateRequest(
                max_tokens=draw.randint(4, 30),
                temperature=draw.choice([0.0, 0.0, 0.8]),
                top_p=draw.choice([1.0, 0.9]),
                repetition_penalty=draw.choice([1.0, 1.1]),
                logprobs=draw.choice([None, 3]),
                seed=number,
            ),
        )
        for number in range(16)
    ]

    def answers(speculation: Speculation | None, kv_cache_bytes: int) -> tuple[list[Any], Engine]:
        provider = CpuProvider(model, kv_cache_bytes=kv_cache_bytes, threads=2, kv_dtype=kv_dtype)
        engine = Engine(provider, limits=EngineLimits(max_batch_tokens=80), speculation=speculation)
        got: list[Any] = [([], []) for _ in requests]
        for number, (prompt, request) in enumerate(requests):
            engine.add(str(number), prompt, request)
        while engine.has_work:
            for output in engine.step():
                tokens, logprobs = got[int(output.request_id)]
                tokens += output.token_ids
                logprobs += output.logprobs
            engine.check_integrity()
        return got, engine

    plain, _ = answers(None, 2**23)
    known = [prompt + tokens for (prompt, _), (tokens, _) in zip(requests, plain, strict=True)]
    for proposer, lookahead in (
        (Oracle(known, accuracy=0.8, vocab_size=101), 8),
        (Liar(known, accuracy=0.5, vocab_size=101), 3),
        (Oracle(known, accuracy=0.9, vocab_size=101), None),
    ):
        ticks = count()
        drafts = Speculation(
            proposer, vocab_size=101, clock=lambda ticks=ticks: float(next(ticks)), lookahead=lookahead
        )
        got, engine = answers(drafts, 2**18)
        assert got == plain
        assert engine.stats().accepted_tokens > 20
