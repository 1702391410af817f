"""Readiness is a real token, asked for seldom; liveness is an answer."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from fakes.scripted_engine import ScriptedEngine, Stack, a_chat, a_stack
from fakes.tiny_text import text_assets

from flash_runtime.gateway import health
from flash_runtime.gateway.engine import EngineOverloaded, EngineUnavailable


async def readyz(stack: Stack) -> tuple[int, str]:
    async with stack.client() as client:
        response = await client.get("/readyz")
    return response.status_code, response.text.strip()


async def test_ready_means_that_one_token_came_through_the_chat_route() -> None:
    stack = a_stack()
    assert await readyz(stack) == (200, "ok")
    ((ids, request),) = stack.engine.requests
    assert request.max_tokens == 1
    assert len(ids) > 1
    assert 'time_to_first_token_seconds_count{model="tiny"} 0.0' in stack.gateway.metrics.render().decode()


async def test_a_model_without_chat_template_is_asked_by_a_raw_prompt() -> None:
    assert await readyz(a_stack(assets=text_assets(chat_template=""))) == (200, "ok")


async def test_an_answer_is_reused_for_canary_seconds() -> None:
    stack = a_stack(canary_seconds=5.0)
    for _ in range(3):
        assert (await readyz(stack))[0] == 200
    assert len(stack.engine.requests) == 1
    stack.clock.now += 5.0
    await readyz(stack)
    assert len(stack.engine.requests) == 2


async def test_tokens_of_clients_are_proof_enough() -> None:
    stack = a_stack()
    async with stack.client() as client:
        await client.post("/v1/chat/completions", json=a_chat())
    assert (await readyz(stack))[0] == 200
    assert len(stack.engine.requests) == 1


@pytest.mark.parametrize("fail_after", [0, 3])
async def test_a_failed_request_ends_the_proof_at_once(fail_after: int) -> None:
    stack = a_stack()
    assert (await readyz(stack))[0] == 200
    stack.engine.failure, stack.engine.fail_after = EngineUnavailable("x"), fail_after
    async with stack.client() as client:
        await client.post("/v1/chat/completions", json=a_chat(stream=True))
    stack.engine.fail_after = 0
    assert (await readyz(stack))[0] == 503


async def test_probes_at_the_same_time_share_one_request() -> None:
    stack = a_stack()
    verdicts = await asyncio.gather(*(readyz(stack) for _ in range(5)))
    assert verdicts == [(200, "ok")] * 5
    assert len(stack.engine.requests) == 1


async def test_a_probe_that_leaves_does_not_end_the_request_of_the_others() -> None:
    stack = a_stack(ScriptedEngine(block_after=0))
    canary = health.Canary(stack.gateway, clock=stack.clock)
    first, second = asyncio.create_task(canary.verdict()), asyncio.create_task(canary.verdict())
    await stack.engine.blocked.wait()
    first.cancel()
    await asyncio.gather(first, return_exceptions=True)
    assert stack.engine.num_cancelled == 0
    second.cancel()
    await asyncio.gather(second, return_exceptions=True)
    canary._running.cancel()
    await asyncio.gather(canary._running, return_exceptions=True)


async def test_an_unreachable_engine_is_not_ready_and_is_asked_again_soon() -> None:
    stack = a_stack(ScriptedEngine(failure=EngineUnavailable("x")))
    status, reason = await readyz(stack)
    assert (status, reason.startswith("No engine can be reached")) == (503, True)
    stack.engine.failure = None
    assert (await readyz(stack))[0] == 503
    stack.clock.now += health.FAILURE_SECONDS
    assert await readyz(stack) == (200, "ok")


async def test_a_silent_engine_is_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "DEADLINE_SECONDS", 0.05)
    stack = a_stack(ScriptedEngine(block_after=0))
    assert await readyz(stack) == (503, "no token within 0.05 s")
    assert stack.engine.num_cancelled == 1


async def test_a_full_engine_is_alive() -> None:
    assert await readyz(a_stack(ScriptedEngine(failure=EngineOverloaded("full")))) == (200, "busy")


async def test_an_engine_that_shows_life_is_alive_and_not_kept_busy_by_the_probe() -> None:
    stack = a_stack(ScriptedEngine(signs_of_life=1, block_after=0))
    assert await readyz(stack) == (200, "busy")
    assert stack.engine.num_cancelled == 1


async def test_a_draining_gateway_is_not_ready_but_still_answers_and_closes_connections() -> None:
    stack = a_stack()
    stack.drain.started = True
    assert await readyz(stack) == (503, "draining")
    async with stack.client() as client:
        answer: Any = await client.post("/v1/chat/completions", json=a_chat())
        alive = await client.get("/livez")
    assert answer.status_code == alive.status_code == 200
    assert answer.headers["connection"] == "close"
