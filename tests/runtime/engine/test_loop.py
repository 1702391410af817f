"""The engine over a model whose memory is checked by its own output."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from fakes.paged_model import PagedModel
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from flash_runtime.engine.errors import NonFiniteLogits, NoTokenAllowed, QueueFull, RequestRefused
from flash_runtime.engine.loop import Engine, EngineLimits, Output
from flash_runtime.wire import FinishReason, GenerateRequest, TokenLogprobs

PROMPT = [5, 6, 7, 8, 9, 10]


def an_engine(model: PagedModel | None = None, *, eos: tuple[int, ...] = (), **limits: int) -> Engine:
    return Engine(model or PagedModel(), limits=EngineLimits(**limits), eos_token_ids=eos)


def run(engine: Engine) -> dict[str, list[Output]]:
    """Everything until the engine is idle, per request."""
    outputs: dict[str, list[Output]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.check_integrity()
    return outputs


def tokens(outputs: list[Output]) -> list[int]:
    return [token for output in outputs for token in output.token_ids]


def logprobs(outputs: list[Output]) -> list[TokenLogprobs]:
    return [one for output in outputs for one in output.logprobs]


class Counting:
    """Allows 10, then 11, then 12 … and, where `width` is not the vocabulary's, nothing."""

    def __init__(self, *, width: int = 97, first: int = 10) -> None:
        self._width = width
        self._next = first

    def allowed(self) -> NDArray[np.bool_]:
        return np.arange(self._width) == self._next

    def advance(self, token_id: int) -> None:
        self._next += 1

    def count_allowed(self, token_ids: Sequence[int]) -> int:
        matches = zip(token_ids, range(self._next, self._next + len(token_ids)), strict=True)
        return next((at for at, (token, allowed) in enumerate(matches) if token != allowed), len(token_ids))


def test_a_greedy_request_gets_the_models_own_continuation() -> None:
    model = PagedModel()
    engine = an_engine(model)
    engine.add("a", PROMPT, GenerateRequest(max_tokens=12))
    outputs = run(engine)["a"]
    assert tokens(outputs) == model.expected(PROMPT, 12)
    assert [output.finish_reason for output in outputs] == [None] * 11 + [FinishReason.LENGTH]


def test_an_end_token_ends_the_stream_and_is_not_part_of_it() -> None:
    model = PagedModel()
    expected = model.expected(PROMPT, 12)
    engine = an_engine(model, eos=(expected[4],))
    engine.add("a", PROMPT, GenerateRequest(max_tokens=12))
    outputs = run(engine)["a"]
    assert tokens(outputs) == expected[:4]
    assert outputs[-1].finish_reason == FinishReason.STOP


def test_a_stop_token_of_the_request_ends_it_even_when_end_tokens_are_ignored() -> None:
    model = PagedModel()
    expected = model.expected(PROMPT, 12)
    engine = an_engine(model, eos=(expected[2],))
    engine.add("a", PROMPT, GenerateRequest(max_tokens=12, ignore_eos=True, stop_token_ids=(expected[5],)))
    assert tokens(run(engine)["a"]) == expected[:5]


def test_generation_stops_at_the_context_window() -> None:
    engine = an_engine(max_context_tokens=16)
    engine.add("a", PROMPT, GenerateRequest(max_tokens=100))
    outputs = run(engine)["a"]
    assert len(tokens(outputs)) == 10
    assert outputs[-1].finish_reason == FinishReason.LENGTH


def test_a_repeated_prompt_reports_its_cached_tokens_and_gives_the_same_answer() -> None:
    engine = an_engine()
    for name in ("first", "second"):
        engine.add(name, PROMPT, GenerateRequest(max_tokens=3))
        outputs = run(engine)[name]
        assert tokens(outputs) == PagedModel().expected(PROMPT, 3)
    assert outputs[-1].cached_tokens == 4
    assert engine.stats().cached_prompt_tokens == 4
    assert engine.stats().prompt_tokens == 12


def test_memory_is_free_after_the_last_request() -> None:
    engine = an_engine()
    engine.add("a", PROMPT, GenerateRequest(max_tokens=3))
    engine.step()
    assert engine.stats().kv_blocks_used == 2
    run(engine)
    stats = engine.stats()
    assert (stats.kv_blocks_used, stats.running, stats.waiting, stats.generated_tokens) == (0, 0, 0, 3)


def test_a_cancelled_request_is_gone_and_says_nothing_more() -> None:
    engine = an_engine()
    engine.add("a", PROMPT, GenerateRequest(max_tokens=50))
    engine.step()
    assert engine.cancel("a")
    assert not engine.cancel("a")
    assert engine.step() == []
    assert engine.stats().kv_blocks_used == 0


def test_one_sequence_without_finite_logits_fails_alone() -> None:
    model = PagedModel()
    model.poisoned_token = 96
    engine = an_engine(model)
    engine.add("bad", [1, 96, 2], GenerateRequest(max_tokens=4))
    engine.add("good", PROMPT, GenerateRequest(max_tokens=4))
    outputs = run(engine)
    assert isinstance(outputs["bad"][-1].error, NonFiniteLogits)
    assert outputs["good"][-1].finish_reason == FinishReason.LENGTH


@pytest.mark.parametrize(
    ("prompt", "rule"),
    [
        ([], "input_ids (0 tokens) must hold at least one token"),
        ([1, 97], "input_ids (97) must hold token ids from 0 to 96"),
        ([-1, 2], "input_ids (-1) must hold token ids from 0 to 96"),
        ([1] * 40, "input_ids (40 tokens) must be shorter than the context window of 40 tokens"),
    ],
)
def test_a_prompt_that_can_never_run_is_refused_with_field_value_and_rule(prompt: list[int], rule: str) -> None:
    engine = an_engine(max_context_tokens=40)
    with pytest.raises(RequestRefused) as refusal:
        engine.add("a", prompt, GenerateRequest(max_tokens=1))
    assert str(refusal.value) == rule
    assert not engine.has_work


def test_a_prompt_larger_than_the_kv_memory_is_refused() -> None:
    engine = an_engine(PagedModel(num_blocks=4, block_size=4))
    with pytest.raises(RequestRefused, match="must be shorter than the KV cache, which holds 16 tokens"):
        engine.add("a", [1] * 16, GenerateRequest(max_tokens=1))


def test_an_answer_that_cannot_fit_into_the_kv_memory_is_refused_and_disturbs_nobody() -> None:
    engine = an_engine(PagedModel(num_blocks=4, block_size=4))
    engine.add("fits", [1] * 6, GenerateRequest(max_tokens=10))
    with pytest.raises(
        RequestRefused,
        match=r"^max_tokens \(11\) is too much after a prompt of 6 tokens: .* holds 16 tokens "
        r"\(ask for at most 10, or raise kv_cache_bytes\)$",
    ):
        engine.add("a", [1] * 6, GenerateRequest(max_tokens=11))
    assert len(tokens(run(engine)["fits"])) == 10


def test_a_full_engine_says_so() -> None:
    engine = an_engine(max_running=1, max_queued=1)
    for name in ("a", "b"):
        engine.add(name, PROMPT, GenerateRequest(max_tokens=1))
    with pytest.raises(QueueFull, match="already holds 2 requests"):
        engine.add("c", PROMPT, GenerateRequest(max_tokens=1))


def test_a_bias_outside_the_vocabulary_is_refused_with_field_value_and_rule() -> None:
    with pytest.raises(RequestRefused, match=r"logit_bias \(97\) must hold token ids from 0 to 96"):
        an_engine().add("a", PROMPT, GenerateRequest(max_tokens=1, logit_bias={3: 1.0, 97: 1.0}))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_bias_forces_a_token(temperature: float) -> None:
    engine = an_engine()
    engine.add("a", PROMPT, GenerateRequest(max_tokens=4, temperature=temperature, logit_bias={33: 100.0}))
    assert tokens(run(engine)["a"]) == [33] * 4


def test_penalties_keep_a_greedy_answer_from_repeating_itself_and_its_prompt() -> None:
    strong = {"frequency_penalty": 2.0, "presence_penalty": 2.0, "repetition_penalty": 10.0}
    engine = an_engine()
    engine.add("a", list(range(40)), GenerateRequest(max_tokens=30, **strong))
    answer = tokens(run(engine)["a"])
    assert len(set(answer)) == 30
    assert min(answer) >= 40


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_token_mask_decides_what_may_come(temperature: float) -> None:
    engine = an_engine()
    request = GenerateRequest(max_tokens=5, temperature=temperature, top_p=0.9, logit_bias={50: 100.0})
    engine.add("masked", PROMPT, request, mask=Counting())
    engine.add("free", PROMPT, GenerateRequest(max_tokens=5))
    outputs = run(engine)
    assert tokens(outputs["masked"]) == [10, 11, 12, 13, 14]
    assert tokens(outputs["free"]) == PagedModel().expected(PROMPT, 5)


def test_a_mask_survives_preemption() -> None:
    engine = an_engine(PagedModel(num_blocks=6))
    for name in ("a", "b", "c"):
        engine.add(name, PROMPT, GenerateRequest(max_tokens=12, temperature=1.0), mask=Counting())
    outputs = run(engine)
    assert engine.stats().preemptions > 0
    assert [tokens(outputs[name]) for name in ("a", "b", "c")] == [list(range(10, 22))] * 3


@pytest.mark.parametrize("mask", [Counting(first=500), Counting(width=12)])
def test_a_mask_that_leaves_nothing_fails_its_own_sequence_only(mask: Counting) -> None:
    engine = an_engine()
    engine.add("stuck", PROMPT, GenerateRequest(max_tokens=5), mask=mask)
    engine.add("free", PROMPT, GenerateRequest(max_tokens=5))
    outputs = run(engine)
    assert isinstance(outputs["stuck"][-1].error, NoTokenAllowed)
    assert tokens(outputs["free"]) == PagedModel().expected(PROMPT, 5)


def test_logprobs_come_with_each_token_and_show_the_models_own_distribution() -> None:
    plain, engine = an_engine(), an_engine()
    request = GenerateRequest(max_tokens=6, logprobs=3)
    plain.add("a", PROMPT, request)
    greedy = run(plain)["a"]
    for output in greedy:
        assert len(output.logprobs) == len(output.token_ids)
    assert [one.top[0] for one in logprobs(greedy)] == [
        (token, one.logprob) for token, one in zip(tokens(greedy), logprobs(greedy), strict=True)
    ]
    # Neither temperature nor bias changes what is reported of the same position.
    engine.add("a", PROMPT, request.model_copy(update={"temperature": 2.0, "logit_bias": {33: 100.0}}))
    forced = logprobs(run(engine)["a"])[0]
    assert forced.top == logprobs(greedy)[0].top
    assert forced.logprob < forced.top[-1][1]


def test_a_stop_token_leaves_no_logprobs() -> None:
    expected = PagedModel().expected(PROMPT, 12)
    engine = an_engine(eos=(expected[4],))
    engine.add("a", PROMPT, GenerateRequest(max_tokens=12, logprobs=0))
    outputs = run(engine)["a"]
    assert len(logprobs(outputs)) == len(tokens(outputs)) == 4


def test_a_request_id_in_use_is_refused() -> None:
    engine = an_engine()
    engine.add("a", PROMPT, GenerateRequest(max_tokens=1))
    with pytest.raises(RequestRefused, match="request_id"):
        engine.add("a", PROMPT, GenerateRequest(max_tokens=1))


requests = st.lists(
    st.tuples(
        st.lists(st.integers(0, 2), min_size=1, max_size=18),
        st.builds(
            GenerateRequest,
            max_tokens=st.integers(1, 10),
            temperature=st.sampled_from([0.0, 0.8]),
            top_p=st.sampled_from([1.0, 0.9]),
            top_k=st.sampled_from([0, 20]),
            min_p=st.sampled_from([0.0, 0.1]),
            frequency_penalty=st.sampled_from([0.0, 0.5]),
            presence_penalty=st.sampled_from([0.0, -0.5]),
            repetition_penalty=st.sampled_from([1.0, 1.2]),
            logit_bias=st.sampled_from([{}, {1: 2.0, 2: 2.0}]),
            logprobs=st.sampled_from([None, 2]),
            seed=st.integers(0, 3),
        ),
    ),
    min_size=1,
    max_size=6,
)


@settings(deadline=None, max_examples=60)
@given(
    requests=requests, num_blocks=st.integers(8, 24), max_running=st.integers(1, 4), max_batch_tokens=st.integers(4, 32)
)
def test_a_request_gets_the_same_tokens_alone_and_in_any_company(
    requests: list[tuple[list[int], GenerateRequest]], num_blocks: int, max_running: int, max_batch_tokens: int
) -> None:
    alone = []
    for prompt, request in requests:
        engine = an_engine(PagedModel(num_blocks=24))
        engine.add("only", prompt, request)
        outputs = run(engine)["only"]
        alone.append((tokens(outputs), logprobs(outputs)))
    # Few blocks and a small budget: preemption, chunked prefill and prefix hits all happen.
    together = an_engine(PagedModel(num_blocks=num_blocks), max_running=max_running, max_batch_tokens=max_batch_tokens)
    for index, (prompt, request) in enumerate(requests):
        together.add(str(index), prompt, request)
    answers = run(together)
    assert [(tokens(answers[str(index)]), logprobs(answers[str(index)])) for index in range(len(requests))] == alone


def test_a_prompt_is_found_again_by_its_own_tenant_and_by_no_other() -> None:
    engine = an_engine()
    cached = []
    for tenant in ("a", "b", "a", ""):
        engine.add(tenant, PROMPT, GenerateRequest(max_tokens=3, cache_salt=tenant))
        outputs = run(engine)[tenant]
        assert tokens(outputs) == PagedModel().expected(PROMPT, 3)
        cached.append(outputs[-1].cached_tokens)
    assert cached == [0, 0, 4, 0]


def test_a_window_bounds_the_memory_of_a_long_answer() -> None:
    model = PagedModel(window=10)
    engine = an_engine(model)
    engine.add("a", PROMPT, GenerateRequest(max_tokens=200))
    answer: list[int] = []
    most = 0
    while engine.has_work:
        answer += [token for output in engine.step() for token in output.token_ids]
        engine.check_integrity()
        most = max(most, engine.stats().kv_blocks_used)
    assert answer == model.expected(PROMPT, 200)
    assert most == 3, "the 9 tokens that the next one sees, in blocks of 4 at any offset"


def test_a_prefix_is_found_when_the_blocks_before_its_window_are_gone() -> None:
    model = PagedModel(window=6, num_blocks=12)
    engine = an_engine(model)
    long = [index % 90 for index in range(33)]
    engine.add("first", long, GenerateRequest(max_tokens=2))
    run(engine)
    # Takes the blocks that were given back first: those of the beginning.
    engine.add("other", [91] * 18, GenerateRequest(max_tokens=2))
    run(engine)
    engine.add("again", long, GenerateRequest(max_tokens=2))
    outputs = run(engine)["again"]
    assert tokens(outputs) == model.expected(long, 2)
    assert outputs[-1].cached_tokens == 32
