"""Drafts in tritonservers of their own: whatever becomes of them, an engine's answers are the same."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable
from random import Random

import pytest
from engine_streams import generate
from fakes.paged_model import PagedModel
from tritonserver_plugin import RunningEngine, eventually

from flash_api.v1alpha1.engine import DraftMode
from flash_runtime.backend.canary import NotAlive, probe

StartEngine = Callable[..., RunningEngine]
PROMPT = [5, 6, 7, 8, 9, 10]


def pods(*drafts: RunningEngine, revision: str = "1", lookahead: int | None = 4) -> dict[str, object]:
    """The engine config's draft section."""
    endpoints = [draft.grpc for draft in drafts]
    return {"mode": DraftMode.PODS, "endpoints": endpoints, "rollout_revision": revision, "lookahead": lookahead}


def fallbacks(engine: RunningEngine) -> dict[str, float]:
    series = engine.series("flash_engine_draft_fallbacks_total")
    return {name.partition('reason="')[2].partition('"')[0]: value for name, value in series}


async def test_proposals_of_a_draft_hold_and_both_sides_count_them(
    start_engine: StartEngine, start_draft: StartEngine
) -> None:
    draft = start_draft()
    engine = start_engine(draft=pods(draft))
    probe("127.0.0.1", draft.listen.http_port, 5.0, is_draft=True)
    eventually(lambda: draft.metrics_of("flash_draft_streams") == 1)
    for start in range(4):
        prompt = [start, *PROMPT]
        stream = await generate(engine, prompt, max_tokens=300)
        assert stream.tokens == PagedModel().expected(prompt, 300)
    eventually(lambda: engine.metrics()["flash_engine_accepted_tokens_total"] > 300)
    eventually(lambda: engine.metrics_of("flash_engine_draft_active") == 1)
    assert engine.metrics()["flash_engine_steps_total"] < 900
    eventually(lambda: draft.metrics_of("flash_draft_proposed_tokens_total") > 300)
    eventually(lambda: draft.metrics_of("flash_draft_ahead_tokens_total") > 0)
    eventually(lambda: draft.metrics_of("flash_draft_sequences") <= 1)
    assert engine.stop() == 0
    eventually(lambda: draft.metrics_of("flash_draft_streams") == 0)
    assert draft.stop() == 0


async def test_drafts_killed_at_random_moments_under_load_change_and_fail_no_stream(
    start_engine: StartEngine, start_draft: StartEngine
) -> None:
    draft = start_draft()
    engine = start_engine(draft=pods(draft), max_concurrent_requests=8)
    draw = Random(3)
    done = asyncio.Event()
    kills = 0

    async def load() -> None:
        while kills < 4:
            prompts = [[draw.randrange(97) for _ in range(draw.randint(1, 40))] for _ in range(8)]
            streams = await asyncio.gather(*(generate(engine, prompt, max_tokens=150) for prompt in prompts))
            for prompt, stream in zip(prompts, streams, strict=True):
                assert stream.tokens == PagedModel().expected(prompt, 150)
        done.set()

    async def kill() -> None:
        nonlocal draft, kills
        while not done.is_set():
            await asyncio.sleep(draw.uniform(0.0, 0.5))
            os.kill(draft.model_pid(), signal.SIGKILL)
            kills += 1
            await asyncio.to_thread(draft.process.wait)
            draft = await asyncio.to_thread(start_draft, listen=draft.listen)

    await asyncio.gather(load(), kill())
    eventually(lambda: fallbacks(engine)["disconnected"] > 0)
    assert engine.metrics()["flash_engine_accepted_tokens_total"] > 0


async def test_a_draft_that_hangs_is_left_for_another_one(start_engine: StartEngine, start_draft: StartEngine) -> None:
    first, second = start_draft(), start_draft()
    engine = start_engine(draft=pods(first, second))
    eventually(lambda: first.metrics_of("flash_draft_streams") + second.metrics_of("flash_draft_streams") == 1)
    met, other = (first, second) if first.metrics_of("flash_draft_streams") else (second, first)
    os.kill(met.model_pid(), signal.SIGSTOP)
    try:
        while other.metrics_of("flash_draft_streams") == 0:
            stream = await generate(engine, PROMPT, max_tokens=200)
            assert stream.tokens == PagedModel().expected(PROMPT, 200)
        with pytest.raises(NotAlive, match=r"no answer within 0\.5 s"):
            probe("127.0.0.1", met.listen.http_port, 0.5, is_draft=True)
    finally:
        os.kill(met.model_pid(), signal.SIGCONT)
    assert fallbacks(engine)["late"] > 0


@pytest.mark.parametrize(
    ("other", "reason"), [({"vocabulary": "other"}, "tokenizer"), ({"rollout_revision": "2"}, "revision")]
)
async def test_drafts_of_another_tokenizer_or_revision_are_not_asked(
    start_engine: StartEngine, start_draft: StartEngine, other: dict[str, str], reason: str
) -> None:
    engine = start_engine(draft=pods(start_draft(**other)))

    async def counted() -> float:
        stream = await generate(engine, PROMPT, max_tokens=100)
        assert stream.tokens == PagedModel().expected(PROMPT, 100)
        return fallbacks(engine)[reason]

    while await counted() == 0:
        pass
    assert engine.metrics()["flash_engine_accepted_tokens_total"] == 0


async def test_a_draft_that_is_told_to_end_lets_go_and_another_takes_over(
    start_engine: StartEngine, start_draft: StartEngine
) -> None:
    first = start_draft()
    engine = start_engine(draft=pods(first))
    eventually(lambda: first.metrics_of("flash_draft_streams") == 1)
    running = asyncio.create_task(generate(engine, PROMPT, max_tokens=800))
    assert await asyncio.to_thread(first.stop) == 0
    second = start_draft(listen=first.listen)
    assert (await running).tokens == PagedModel().expected(PROMPT, 800)
    eventually(lambda: second.metrics_of("flash_draft_streams") == 1)


async def test_a_draft_rollout_under_load_fails_and_changes_no_stream(
    start_engine: StartEngine, start_draft: StartEngine
) -> None:
    old_draft = start_draft()
    engines = [start_engine(draft=pods(old_draft), max_concurrent_requests=4)]
    draw = Random(4)
    is_over = asyncio.Event()
    streams_of: Counter[int] = Counter()

    async def load() -> None:
        while not is_over.is_set():
            number = draw.randrange(len(engines))
            prompt = [draw.randrange(97) for _ in range(draw.randint(1, 30))]
            stream = await generate(engines[number], prompt, max_tokens=120)
            assert stream.tokens == PagedModel().expected(prompt, 120)
            streams_of[number] += 1

    async def roll_out() -> None:
        try:
            await _until(lambda: engines[0].metrics()["flash_engine_accepted_tokens_total"] > 0)
            # The new revision's draft takes the old one's place before the old engine is gone.
            assert await asyncio.to_thread(old_draft.stop) == 0
            new_draft = await asyncio.to_thread(start_draft, listen=old_draft.listen, rollout_revision="2")
            await _until(lambda: fallbacks(engines[0])["revision"] > 0)
            new_engine = await asyncio.to_thread(
                start_engine, draft=pods(new_draft, revision="2"), max_concurrent_requests=4
            )
            engines.append(new_engine)
            await _until(lambda: new_engine.metrics()["flash_engine_accepted_tokens_total"] > 0)
            await _until(lambda: new_draft.metrics_of("flash_draft_streams") == 1)  # the old engine is not among them
        finally:
            is_over.set()

    await asyncio.gather(roll_out(), *(load() for _ in range(4)))
    assert streams_of.keys() == {0, 1}


async def _until(condition: Callable[[], bool]) -> None:
    """Look until it holds; a metrics endpoint begins to listen after the model is ready."""

    def holds() -> bool:
        try:
            return condition()
        except OSError:
            return False

    await asyncio.to_thread(eventually, holds, 120.0)


async def test_an_engine_that_restarts_finds_its_draft_again(
    start_engine: StartEngine, start_draft: StartEngine
) -> None:
    draft = start_draft()
    for _ in range(2):
        engine = start_engine(draft=pods(draft))
        eventually(lambda: draft.metrics_of("flash_draft_streams") == 1)
        running = asyncio.create_task(generate(engine, PROMPT, max_tokens=50_000))
        await asyncio.to_thread(eventually, lambda: draft.metrics_of("flash_draft_sequences") == 1)
        engine.kill()
        with pytest.raises(Exception):  # noqa: B017 the engine is gone, however its client says so
            await running
        eventually(lambda: draft.metrics_of("flash_draft_streams") == 0)
    assert draft.metrics_of("flash_draft_sequences") == 0
