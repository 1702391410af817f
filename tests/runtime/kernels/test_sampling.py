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
    "cloud": {"weight_format": "bf16", "head_format": "bf16", "experts": 5, "width": 40},
    "nano": {"weight_format": "int4", "head_format": "int8", "experts": 5, "width": 40},
}
REQUESTS: dict[str, dict[str, Any]] = {
    "greedy": {"logprobs": None},
    "greedy_with_logprobs": {},
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


def an_engine(model: Any, *, blocks: int = 200, keeps_all_blocks: bool = False, **limits: int) -> Engine:
    probe = CpuProvider(model, kv_cache_bytes=2**21, threads=1)
    block_bytes = 2**21 // probe.num_blocks
    provider = CpuProvider(model, kv_cache_bytes=blocks * block_bytes, threads=2)
    if keeps_all_blocks:
        provider.window = None
    return Engine(provider, limits=EngineLimits(**limits))


def add(engine: Engine, name: str, kind: str, prompt: list[int], *, num_tokens: int = NUM_TOKENS) -> None:
    request = GenerateRequest(**{"max_tokens": num_tokens, "seed": 11, "logprobs": 3, **REQUESTS[kind]})
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
    assert len(expected[0]) == NUM_TOKENS
    assert len(expected[1]) == (0 if kind == "greedy" else NUM_TOKENS)

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


def test_the_best_token_is_the_same_whether_logits_are_wanted_or_not(model: Any) -> None:
    engine = an_engine(model)
    add(engine, "best", "greedy", PROMPT)
    add(engine, "logits", "greedy_with_logprobs", PROMPT)
    answers = run(engine)
    assert answers["best"][0] == answers["logits"][0]


def test_choices_of_one_prompt_differ_by_their_seed_alone(model: Any) -> None:
    together, alone = an_engine(model), {}
    for seed in range(4):
        request = GenerateRequest(max_tokens=NUM_TOKENS, temperature=1.0, seed=seed)
        together.add(str(seed), PROMPT, request)
        engine = an_engine(model)
        engine.add(str(seed), PROMPT, request)
        alone |= run(engine)
    assert run(together) == alone
    assert len({tuple(tokens) for tokens, _ in alone.values()}) == 4


@pytest.mark.parametrize("kind", ["greedy", "filters"])
def test_blocks_before_the_window_of_all_layers_are_given_back_and_no_token_changes(tiny_model: Any, kind: str) -> None:
    model = tiny_model(window=40, experts=5, width=24)
    layers = [{**layer, "window": window} for layer, window in zip(model.plan["layers"], (20, 40), strict=True)]
    model = model.with_plan(layers=layers)
    whole = an_engine(model, keeps_all_blocks=True)
    freeing = an_engine(model, blocks=40, max_batch_tokens=48)
    long = PROMPT * 3
    for engine in (whole, freeing):
        add(engine, "it", kind, long, num_tokens=250)
    others = np.random.default_rng(2).integers(0, VOCAB, 300).tolist()
    add(freeing, "other", "temperature", others, num_tokens=90)  # takes the blocks that were given back
    answers: dict[str, Answer] = {}
    most = 0
    while freeing.has_work:
        for output in freeing.step():
            take(answers, output)
        freeing.check_integrity()
        if freeing.stats().running == 1 and "other" in answers:
            most = max(most, freeing.stats().kv_blocks_used)
    assert answers["it"] == run(whole)["it"]
    assert most == 4, "the window's 40 tokens and the block that is being filled"
