"""The engine over a model whose memory is checked by its own output."""

from __future__ import annotations

import pytest
from fakes.paged_model import PagedModel
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_runtime.engine.errors import NonFiniteLogits, QueueFull, RequestRefused
from flash_runtime.engine.loop import Engine, EngineLimits, Output
from flash_runtime.wire import FinishReason, GenerateRequest

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


def test_a_full_engine_says_so() -> None:
    engine = an_engine(max_running=1, max_queued=1)
    for name in ("a", "b"):
        engine.add(name, PROMPT, GenerateRequest(max_tokens=1))
    with pytest.raises(QueueFull, match="already holds 2 requests"):
        engine.add("c", PROMPT, GenerateRequest(max_tokens=1))


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
        alone.append(tokens(run(engine)["only"]))
    # Few blocks and a small budget: preemption, chunked prefill and prefix hits all happen.
    together = an_engine(PagedModel(num_blocks=num_blocks), max_running=max_running, max_batch_tokens=max_batch_tokens)
    for index, (prompt, request) in enumerate(requests):
        together.add(str(index), prompt, request)
    outputs = run(together)
    assert [tokens(outputs[str(index)]) for index in range(len(requests))] == alone
