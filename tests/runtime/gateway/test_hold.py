"""What becomes of a request that meets no engine: it waits while the outage is young, and is told the truth after."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence

import pytest
from fakes.scripted_engine import Clock

from flash_runtime.gateway import hold
from flash_runtime.gateway.engine import (
    Chunk,
    Engine,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineStalled,
    EngineUnavailable,
)
from flash_runtime.gateway.hold import Holding
from flash_runtime.gateway.tracks import Result, Tracks
from flash_runtime.wire import FinishReason, GenerateRequest

REQUEST = GenerateRequest(max_tokens=100)
NOBODY = EngineUnavailable("nobody")


class Away:
    """Fails so often as it is told to, each time a second later; then answers."""

    def __init__(self, clock: Clock, *failures: EngineError, sign_of_life: bool = False) -> None:
        self._clock = clock
        self._sign_of_life = sign_of_life
        self.failures = list(failures)
        self.num_asked = 0

    async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
        self.num_asked += 1
        if self.failures:
            self._clock.now += 1
            if self._sign_of_life:
                yield Chunk(())
            raise self.failures.pop(0)
        yield Chunk((7,))
        yield Chunk((), FinishReason.STOP)


@pytest.fixture(autouse=True)
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hold, "PAUSE_SECONDS", 0.0)


async def answer(engine: Engine) -> list[int]:
    return [id_ async for chunk in engine.generate((1,), REQUEST) for id_ in chunk.token_ids]


async def test_a_request_waits_until_an_engine_is_there() -> None:
    clock = Clock()
    engine = Away(clock, *[NOBODY] * 5)
    assert await answer(Holding(engine, clock=clock)) == [7]
    assert engine.num_asked == 6


async def test_it_does_not_wait_for_ever() -> None:
    clock = Clock()
    engine = Away(clock, *[NOBODY] * 100)
    with pytest.raises(EngineUnavailable):
        await answer(Holding(engine, seconds=5, clock=clock))
    assert engine.num_asked == 1 + 5


async def test_in_a_long_outage_nobody_waits() -> None:
    clock = Clock()
    engine = Away(clock, *[NOBODY] * 100)
    holding = Holding(engine, seconds=5, clock=clock)
    for num_asked in (6, 7, 8):
        with pytest.raises(EngineUnavailable):
            await answer(holding)
        assert engine.num_asked == num_asked


async def test_the_next_outage_is_young_again() -> None:
    clock = Clock()
    engine = Away(clock, *[NOBODY] * 6)
    holding = Holding(engine, seconds=5, clock=clock)
    with pytest.raises(EngineUnavailable):
        await answer(holding)
    assert await answer(holding) == [7]
    engine.failures = [NOBODY] * 3
    assert await answer(holding) == [7]


async def test_an_outage_that_nobody_saw_for_long_is_over() -> None:
    clock = Clock()
    engine = Away(clock, *[NOBODY] * 6)
    holding = Holding(engine, seconds=5, clock=clock)
    with pytest.raises(EngineUnavailable):
        await answer(holding)
    clock.now += 6
    engine.failures = [NOBODY] * 3
    assert await answer(holding) == [7]


async def test_a_request_that_ends_every_engine_has_an_end() -> None:
    clock = Clock()
    engine = Away(clock, *[NOBODY] * 100, sign_of_life=True)
    with pytest.raises(EngineUnavailable):
        await answer(Holding(engine, seconds=5, clock=clock))
    assert engine.num_asked == 1 + 5


@pytest.mark.parametrize("failure", [EngineFailed("x"), EngineOverloaded("x"), EngineRefused("x"), EngineStalled("x")])
async def test_an_engine_that_answers_is_not_asked_again(failure: EngineError) -> None:
    clock = Clock()
    engine = Away(clock, failure)
    with pytest.raises(type(failure)):
        await answer(Holding(engine, clock=clock))
    assert engine.num_asked == 1


async def test_a_client_that_leaves_ends_the_wait() -> None:
    clock = Clock()
    asked = asyncio.Event()

    class Nobody(Away):
        async def generate(self, prompt_ids: Sequence[int], request: GenerateRequest) -> AsyncGenerator[Chunk, None]:
            asked.set()
            async for chunk in super().generate(prompt_ids, request):
                yield chunk

    engine = Nobody(clock, *[NOBODY] * 100)
    task = asyncio.create_task(answer(Holding(engine, seconds=1000, clock=clock)))
    await asked.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert engine.num_asked < 5


async def test_the_gateways_own_request_is_not_held() -> None:
    clock = Clock()
    engine = Away(clock, NOBODY)
    tracks = Tracks(engine, holding=Holding(engine, clock=clock))
    own = await tracks.choose(None, lambda *_: None)
    with pytest.raises(EngineUnavailable):
        await answer(own)
    engine.failures = [NOBODY]
    assert await answer(await tracks.choose("a client's", lambda *_: None)) == [7]


async def test_a_held_request_counts_once() -> None:
    clock = Clock()
    engine = Away(clock, *[NOBODY] * 3)
    results: list[Result] = []
    tracks = Tracks(engine, holding=Holding(engine, clock=clock))
    trial = await tracks.choose("a client's", lambda _, result: results.append(result))
    assert await answer(trial) == [7]
    assert results == [Result.ANSWERED]
