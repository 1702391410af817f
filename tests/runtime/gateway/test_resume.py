"""What a client sees of an engine that dies in the middle of its answer: nothing."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator, Sequence
from typing import Any

import pytest
from fakes.scripted_engine import Clock, ScriptedEngine, a_chat, a_stack

from flash_runtime.gateway import resume
from flash_runtime.gateway.engine import (
    Chunk,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineStalled,
    EngineUnavailable,
)
from flash_runtime.gateway.resume import MAX_RESUMES, Resuming, continuation
from flash_runtime.wire import FinishReason, GenerateRequest

PROMPT = (1, 2, 3)
REQUEST = GenerateRequest(max_tokens=10)


class Counting:
    """Continues any sequence with its length, one token each; dies as it is told: after so many tokens, and how."""

    def __init__(self, *deaths: tuple[int, EngineError] | None, cached: int = 0) -> None:
        self.requests: list[tuple[tuple[int, ...], GenerateRequest]] = []
        self._deaths: Iterator[tuple[int, EngineError] | None] = iter(deaths)
        self._cached = cached

    async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.requests.append((tuple(prompt_ids), request))
        death = next(self._deaths, None)
        for index in range(request.max_tokens):
            if death is not None and index == death[0]:
                raise death[1]
            yield Chunk((100 + len(prompt_ids) + index,))
        if death is not None:
            raise death[1]
        yield Chunk((), FinishReason.LENGTH, self._cached)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "PAUSE_SECONDS", 0.0)


async def answer(engine: Any, *, patience: float = 5.0, clock: Clock | None = None, **fields: Any) -> list[Chunk]:
    request = REQUEST.model_copy(update=fields)
    resuming = Resuming(engine, patience_seconds=patience, clock=clock or Clock())
    return [chunk async for chunk in resuming.generate(PROMPT, request)]


def tokens(chunks: Sequence[Chunk]) -> list[int]:
    return [id_ for chunk in chunks for id_ in chunk.token_ids]


UNDISTURBED = [103 + index for index in range(REQUEST.max_tokens)]


@pytest.mark.parametrize("died", [EngineFailed("x"), EngineUnavailable("x"), EngineOverloaded("x")])
@pytest.mark.parametrize("after", range(1, REQUEST.max_tokens + 1))
async def test_wherever_an_engine_dies_the_answer_is_the_same(died: EngineError, after: int) -> None:
    chunks = await answer(Counting((after, died)))
    assert tokens(chunks) == UNDISTURBED
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == [FinishReason.LENGTH]


async def test_the_next_engine_gets_what_was_sent_and_is_asked_for_the_rest() -> None:
    engine = Counting((4, EngineFailed("x")))
    await answer(engine)
    (_, (prompt, request)) = engine.requests
    assert prompt == (*PROMPT, 103, 104, 105, 106)
    assert request == REQUEST.model_copy(update={"max_tokens": 6})


async def test_a_stream_waits_until_an_engine_is_back() -> None:
    away = [(0, EngineUnavailable("none"))] * 20
    assert tokens(await answer(Counting((3, EngineFailed("x")), *away))) == UNDISTURBED


async def test_it_does_not_wait_for_ever() -> None:
    clock = Clock()

    class Away(Counting):
        async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
            clock.now += 1
            async for chunk in super().generate(prompt_ids, request):
                yield chunk

    engine = Away((3, EngineFailed("the first")), *[(0, EngineUnavailable("none"))] * 20)
    with pytest.raises(EngineFailed, match="the first"):
        await answer(engine, clock=clock, patience=5)
    assert len(engine.requests) == 1 + 5


async def test_a_request_that_breaks_every_engine_ends() -> None:
    engine = Counting(*[(1, EngineFailed("again"))] * 50)
    with pytest.raises(EngineFailed):
        await answer(engine)
    assert len(engine.requests) == 1 + MAX_RESUMES


@pytest.mark.parametrize("died", [EngineFailed("x"), EngineUnavailable("x"), EngineOverloaded("x"), EngineRefused("x")])
async def test_before_the_first_token_a_failure_is_told(died: EngineError) -> None:
    engine = Counting((0, died))
    with pytest.raises(type(died)):
        await answer(engine)
    assert len(engine.requests) == 1


async def test_a_silent_engine_is_no_dead_one() -> None:
    with pytest.raises(EngineStalled):
        await answer(Counting((3, EngineStalled("x"))))


async def test_a_continuation_that_is_refused_is_the_engines_failure_and_not_the_clients() -> None:
    with pytest.raises(EngineFailed, match="died"):
        await answer(Counting((3, EngineFailed("died")), (0, EngineRefused("prompt too long"))))


async def test_tokens_of_the_answer_are_no_cached_tokens_of_the_prompt() -> None:
    chunks = await answer(Counting((4, EngineFailed("x")), cached=7))
    assert chunks[-1].cached_tokens == len(PROMPT)


def test_only_penalties_that_count_the_output_are_told_how_much_of_it_there_is() -> None:
    plain = continuation(REQUEST, [7, 8])
    assert "num_resumed" not in plain.model_dump(exclude_defaults=True)
    for field in ("frequency_penalty", "presence_penalty"):
        assert continuation(REQUEST.model_copy(update={field: 0.5}), [7, 8]).num_resumed == 2


async def test_over_http_a_broken_stream_is_whole() -> None:
    stack = a_stack(Resumable(fail_after=3, failure=EngineFailed("x")), patience_seconds=5.0)
    async with stack.client() as client:
        response = await client.post("/v1/chat/completions", json=a_chat())
    assert response.json()["choices"][0]["message"]["content"] == ScriptedEngine.text


class Resumable(ScriptedEngine):
    """Fails once, then goes on where it is told to."""

    async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        begun = len(prompt_ids) - len(self.requests[0][0]) if self.requests else 0
        if begun:
            self.failure = None
        skipped = 0
        async for chunk in super().generate(prompt_ids, request):
            skipped += len(chunk.token_ids)
            if skipped > begun or chunk.finish_reason is not None:
                yield chunk
