"""The engine over the real kernels: a request's tokens and log-probabilities do not depend on the company it keeps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from flash_runtime.engine.loop import Engine, EngineLimits, Output
from flash_runtime.kernels.provider import CpuProvider
from flash_runtime.wire import GenerateRequest, TokenLogprobs

VOCAB = 101
PROMPT = np.random.default_rng(5).integers(0, VOCAB, 70).tolist()
SHAPES: dict[str, dict[str, Any]] = {
    "dense": {},
    "moe": {"hidden": 128, "experts": 9, "top_k": 3, "width": 40, "norms": "head"},
}
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "temperature": {"temperature": 1.0},
    "filters": {"temperature": 0.9, "top_k": 30, "top_p": 0.9, "min_p": 0.02},
    "penalties": {
        "temperature": 1.2,
        "frequency_penalty": 0.6,
        "presence_penalty": 0.4,
        "repetition_penalty": 1.2,
    },
    "bias": {"temperature": 1.0, "logit_bias": {3: 2.0, 50: -100.0}},
    "mask": {"temperature": 1.0, "top_p": 0.9},
}
NUM_TOKENS = 24
Answer = tuple[list[int], list[TokenLogprobs]]


class EveryOther:
    """Allows even and odd tokens in turn."""

    def __init__(self) -> None:
        self._parity = 0

    def allowed(self) -> NDArray[np.bool_]:
        return np.arange(VOCAB) % 2 == self._parity

    def advance(self, token_id: int) -> None:
        assert token_id % 2 == self._parity
        self._parity ^= 1


@pytest.fixture(scope="module", params=SHAPES)
def model(request: pytest.FixtureRequest, tiny_model: Any) -> Any:
    return tiny_model(**SHAPES[request.param])


def an_engine(model: Any, *, blocks: int = 200, **limits: int) -> Engine:
    probe = CpuProvider(model, kv_cache_bytes=2**21, threads=1)
    block_bytes = 2**21 // probe.num_blocks
    provider = CpuProvider(model, kv_cache_bytes=blocks * block_bytes, threads=2)
    return Engine(provider, limits=EngineLimits(**limits))


def add(engine: Engine, name: str, kind: str, prompt: list[int], *, num_tokens: int = NUM_TOKENS) -> None:
    request = GenerateRequest(max_tokens=num_tokens, seed=11, logprobs=3, **REQUESTS[kind])
    engine.add(name, prompt, request, mask=EveryOther() if kind == "mask" else None)


def run(engine: Engine) -> dict[str, Answer]:
    answers: dict[str, Answer] = {}
    while engine.has_work:
        for output in engine.step():
            take(answers, output)
    return answers


def take(answers: dict[str, Answer], output: Output) -> None:
    assert output.error is None
    tokens, logprobs = answers.setdefault(output.request_id, ([], []))
    tokens += output.token_ids
    logprobs += output.logprobs


@pytest.mark.parametrize("kind", REQUESTS)
def test_a_request_is_answered_the_same_alone_in_a_batch_after_preemption_and_with_a_prefix_hit(
    model: Any, kind: str
) -> None:
    alone = an_engine(model)
    add(alone, "it", kind, PROMPT)
    expected = run(alone)["it"]
    assert len(expected[0]) == len(expected[1]) == NUM_TOKENS

    add(alone, "it", kind, PROMPT)  # the same engine: its prefix is cached now
    assert run(alone)["it"] == expected
    assert alone.stats().cached_prompt_tokens > 0

    crowd = an_engine(model, max_running=16, max_batch_tokens=48)
    for index in range(15):
        others = np.random.default_rng(index).integers(0, VOCAB, 5 + 7 * index).tolist()
        add(crowd, str(index), list(REQUESTS)[index % len(REQUESTS)], others)
    add(crowd, "it", kind, PROMPT)
    assert run(crowd)["it"] == expected
    assert crowd.stats().preemptions == 0

    tight = an_engine(model, blocks=16)
    for index in range(2):
        add(tight, str(index), kind, PROMPT[::-1])
    add(tight, "it", kind, PROMPT)  # the youngest gives way first
    assert run(tight)["it"] == expected
    assert tight.stats().preemptions > 0
