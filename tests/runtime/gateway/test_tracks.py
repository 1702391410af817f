"""Which share of the requests a revision on trial answers, and what becomes of those that it cannot."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest
from fakes.scripted_engine import MODEL, Clock, ScriptedEngine, ScriptedReplica, a_chat, a_stack
from fakes.tiny_text import text_assets
from hypothesis import given
from hypothesis import strategies as st

from flash_api.config.gateway import CanaryEngines
from flash_runtime.gateway.discovery import Addresses, Dns
from flash_runtime.gateway.engine import (
    Chunk,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineStalled,
    EngineUnavailable,
)
from flash_runtime.gateway.replicas import ReplicaPool
from flash_runtime.gateway.requests import parse_chat, parse_completion
from flash_runtime.gateway.tracks import Result, Track, Tracks, is_chosen, session_of
from flash_runtime.wire import FinishReason, GenerateRequest, vocabulary_of

REQUEST = GenerateRequest(max_tokens=100)


class Side:
    """The replicas of one revision, which come and go."""

    def __init__(self, *names: str, **engine: Any) -> None:
        self.known: Addresses = names
        self.replicas = {name: ScriptedReplica("hello world", **engine) for name in names}
        self.pool = ReplicaPool(self, self.replicas.__getitem__, clock=Clock())

    async def addresses(self) -> Addresses:
        return self.known

    @property
    def asked(self) -> int:
        return sum(len(replica.requests) for replica in self.replicas.values())


class World:
    def __init__(self, *, percent: int = 50, **canary: Any) -> None:
        self.stable, self.canary = Side("a", "b"), Side("c", **canary)
        self.tracks = Tracks(self.stable.pool, self.canary.pool, percent=percent)
        self.counts: Counter[tuple[Track, Result]] = Counter()

    def count(self, track: Track, result: Result) -> None:
        self.counts[track, result] += 1

    async def stream(self, session: str | None) -> AsyncGenerator[Chunk, None]:
        trial = await self.tracks.choose(session, self.count)
        return trial.generate([1], REQUEST)

    async def ask(self, session: str | None) -> list[Chunk]:
        return [chunk async for chunk in await self.stream(session)]


def chosen_one(percent: int = 50) -> str:
    return next(name for name in map(str, range(1000)) if is_chosen(name, percent))


@pytest.mark.parametrize("percent", [1, 10, 50])
async def test_the_canary_gets_its_share_of_the_conversations(percent: int) -> None:
    world = World(percent=percent)
    number = 2000
    for index in range(number):
        await world.ask(f"conversation {index}")
    share = percent / 100
    # Five standard deviations of a binomial distribution: a fair hash is beyond them once in a million runs.
    assert abs(world.canary.asked - number * share) <= 5 * (number * share * (1 - share)) ** 0.5
    assert world.stable.asked + world.canary.asked == number
    assert world.counts.total() == number


@given(session=st.text(), percent=st.integers(1, 49))
def test_a_conversation_on_the_canary_stays_there_when_the_share_grows(session: str, percent: int) -> None:
    assert is_chosen(session, percent) <= is_chosen(session, percent + 1)


def test_turns_of_one_conversation_have_one_session() -> None:
    system = {"role": "system", "content": "Be brief."}
    turns = [{"role": "user", "content": "What is a MoE?"}, {"role": "assistant", "content": "A mixture."}]
    first = parse_chat(a_chat(messages=[system, turns[0]]))
    later = parse_chat(a_chat(messages=[system, *turns, {"role": "user", "content": "Of what?"}], temperature=0.3))
    other = parse_chat(a_chat(messages=[system, {"role": "user", "content": "And a MLP?"}]))
    assert session_of(first, "me") == session_of(later, "me")
    assert len({session_of(first, "me"), session_of(first, "you"), session_of(other, "me")}) == 3


def test_the_clients_own_key_of_a_conversation_comes_first() -> None:
    one, two = (parse_chat(a_chat(prompt_cache_key="k", messages=[{"role": "user", "content": c}])) for c in "xy")
    assert session_of(one, "") == session_of(two, "")


def test_a_longer_version_of_a_text_has_its_session() -> None:
    text = "Once upon a time " * 40
    short, long = (parse_completion({"model": MODEL, "prompt": p}) for p in (text, text + "there was"))
    assert session_of(short, "") == session_of(long, "")
    ids = [parse_completion({"model": MODEL, "prompt": list(range(n))}) for n in (100, 200)]
    assert session_of(ids[0], "") == session_of(ids[1], "")


async def test_without_pods_of_a_canary_everything_is_stable() -> None:
    world = World()
    world.canary.known = ()
    await world.ask(chosen_one())
    assert (world.stable.asked, world.canary.asked) == (1, 0)


@pytest.mark.parametrize("failure", [EngineUnavailable("x"), EngineFailed("x"), EngineOverloaded("x")])
async def test_what_the_canary_cannot_begin_the_stable_revision_answers(failure: EngineError) -> None:
    world = World(failure=failure)
    assert (await world.ask(chosen_one()))[-1].finish_reason is FinishReason.STOP
    failed = 0 if isinstance(failure, EngineOverloaded) else 1
    assert world.counts[Track.CANARY, Result.FAILED] == failed
    assert world.counts[Track.STABLE, Result.ANSWERED] == 0, "a request that was moved says nothing of the stable one"


@pytest.mark.parametrize(
    ("failure", "after", "result"),
    [
        (EngineFailed("x"), 1, Result.FAILED),
        (EngineRefused("x"), 0, Result.REFUSED),
        (EngineStalled("x"), 0, Result.FAILED),
    ],
)
async def test_what_it_has_begun_or_refused_is_not_moved_and_is_counted(
    failure: EngineError, after: int, result: Result
) -> None:
    world = World(failure=failure, fail_after=after)
    with pytest.raises(EngineError):
        await world.ask(chosen_one())
    assert (world.stable.asked, world.counts[Track.CANARY, result]) == (0, 1)


async def test_a_stream_that_is_closed_after_its_first_token_was_answered() -> None:
    world = World()
    stream = await world.stream(chosen_one())
    await anext(stream)
    await stream.aclose()
    assert world.counts == {(Track.CANARY, Result.ANSWERED): 1}


@pytest.mark.parametrize("side", ["canary", "stable"])
async def test_streams_on_the_removed_side_finish(side: str) -> None:
    world = World()
    removed = world.canary if side == "canary" else world.stable
    session = chosen_one() if side == "canary" else None
    streams = [await world.stream(session) for _ in range(3)]
    for stream in streams:
        await anext(stream)
    removed.known = ()
    if side == "canary":
        await world.ask(session)
        assert world.stable.asked == 1, "the next one goes elsewhere"
    for stream in streams:
        assert [chunk async for chunk in stream][-1].finish_reason is FinishReason.STOP


async def test_a_request_that_proves_the_route_is_not_given_to_pods_on_trial() -> None:
    world = World()
    await world.ask(None)
    assert (world.stable.asked, world.canary.asked) == (1, 0)


async def test_latencies_and_results_are_told_by_revision() -> None:
    stack = a_stack()
    canary = Side("c")
    stack.gateway._tracks = Tracks(ScriptedEngine(), canary.pool, percent=50)
    async with stack.client() as client:
        for index in range(20):
            message = {"role": "user", "content": f"hello {index}"}
            answer = await client.post("/v1/chat/completions", json=a_chat(messages=[message]))
            assert answer.status_code == 200
        page = (await client.get("/metrics")).text
    labels = f'model="{MODEL}",track="canary"'
    assert f'flashplane_gateway_track_streams_total{{model="{MODEL}",result="answered",track="canary"}} ' in page
    assert f"flashplane_gateway_track_time_to_first_token_seconds_count{{{labels}}} {canary.asked}.0" in page
    assert f"flashplane_gateway_track_time_per_output_token_seconds_count{{{labels}}} {canary.asked}.0" in page
    assert f'flashplane_gateway_time_to_first_token_seconds_count{{model="{MODEL}"}} 20.0' in page
    assert 0 < canary.asked < 20


@pytest.mark.parametrize("may_try", [False, True])
async def test_engines_are_told_the_tokenizer_where_another_model_may_be_on_trial(*, may_try: bool) -> None:
    stack = a_stack(canary=CanaryEngines(engine="canary.svc:8001", percent=10) if may_try else None)
    async with stack.client() as client:
        assert (await client.post("/v1/chat/completions", json=a_chat())).status_code == 200
    ((_, request),) = stack.engine.requests
    assert request.vocabulary == (vocabulary_of(text_assets().tokenizer_json) if may_try else "")


class Resolver:
    def __init__(self, *answers: Sequence[str] | OSError) -> None:
        self.answers = list(answers)

    async def __call__(self, host: str, port: int) -> Addresses:
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return tuple(answer)


async def test_a_name_that_may_be_empty_is_empty_when_the_resolver_says_so_and_nobody_waits_for_it() -> None:
    clock = Clock()
    gone = socket.gaierror(socket.EAI_NONAME, "no such name")
    resolver = Resolver(gone, ["10.0.0.1:8001"], socket.gaierror(socket.EAI_AGAIN, "try again"), gone)
    dns = Dns("canary.svc:8001", clock=clock, refresh_seconds=3.0, resolve=resolver, may_be_empty=True)
    found = []
    for _ in range(5):
        found.append(await dns.addresses())
        for _ in range(5):
            await asyncio.sleep(0)
        clock.now += 3.0
    assert found == [(), (), ("10.0.0.1:8001",), ("10.0.0.1:8001",), ()]
