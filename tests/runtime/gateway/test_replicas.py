"""Which replica answers, and what happens when it does not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path

import pytest
from fakes.scripted_engine import Clock, ScriptedReplica

from flash_runtime.gateway.discovery import Addresses, Dns, HostsFile
from flash_runtime.gateway.engine import (
    Chunk,
    EngineError,
    EngineFailed,
    EngineOverloaded,
    EngineRefused,
    EngineStalled,
    EngineUnavailable,
)
from flash_runtime.gateway.replicas import REST_SECONDS, ReplicaPool
from flash_runtime.wire import FinishReason, GenerateRequest

REQUEST = GenerateRequest(max_tokens=100)


class Fleet:
    """Replicas by address, and a pool over them."""

    def __init__(self, **failures: EngineError | None) -> None:
        self.clock = Clock()
        self.connections = {name: ScriptedReplica("hello world", failure=error) for name, error in failures.items()}
        self.known: Addresses = tuple(sorted(failures))
        self.pool = ReplicaPool(self, self.connections.__getitem__, clock=self.clock)

    async def addresses(self) -> Addresses:
        return self.known

    def asked(self) -> dict[str, int]:
        return {name: len(connection.requests) for name, connection in self.connections.items()}


async def answer(pool: ReplicaPool, prompt: Sequence[int] = (1,)) -> list[Chunk]:
    return [chunk async for chunk in pool.generate(prompt, REQUEST)]


async def test_the_replica_with_the_fewest_open_requests_answers() -> None:
    fleet = Fleet(a=None, b=None, c=None)
    streams: list[AsyncGenerator[Chunk, None]] = []
    for _ in range(6):
        streams.append(fleet.pool.generate([1], REQUEST))
        await anext(streams[-1])
    assert fleet.asked() == {"a": 2, "b": 2, "c": 2}
    await streams[1].aclose()
    streams.append(fleet.pool.generate([1], REQUEST))
    await anext(streams[-1])
    assert fleet.asked() == {"a": 2, "b": 3, "c": 2}
    for stream in streams:
        await stream.aclose()


@pytest.mark.parametrize("failure", [EngineUnavailable("x"), EngineOverloaded("x"), EngineFailed("x")])
async def test_before_the_first_token_another_replica_takes_over(failure: EngineError) -> None:
    fleet = Fleet(a=failure, b=None)
    chunks = await answer(fleet.pool)
    assert chunks[-1].finish_reason is FinishReason.STOP
    assert fleet.asked() == {"a": 1, "b": 1}


async def test_a_sign_of_life_is_no_token() -> None:
    fleet = Fleet(a=EngineFailed("x"), b=None)
    fleet.connections["a"].signs_of_life = 2
    assert (await answer(fleet.pool))[-1].finish_reason is FinishReason.STOP
    assert fleet.asked() == {"a": 1, "b": 1}


async def test_when_every_replica_fails_the_last_failure_is_told() -> None:
    fleet = Fleet(a=EngineUnavailable("x"), b=EngineOverloaded("x"))
    with pytest.raises(EngineOverloaded):
        await answer(fleet.pool)
    assert fleet.asked() == {"a": 1, "b": 1}


async def test_after_the_first_token_no_other_replica_is_asked() -> None:
    fleet = Fleet(a=EngineUnavailable("x"), b=None)
    fleet.connections["a"].fail_after = 2
    with pytest.raises(EngineFailed):
        await answer(fleet.pool)
    assert fleet.asked() == {"a": 1, "b": 0}


@pytest.mark.parametrize("failure", [EngineRefused("x"), EngineStalled("x")])
async def test_a_refusal_or_a_silence_is_not_tried_elsewhere(failure: EngineError) -> None:
    fleet = Fleet(a=failure, b=None)
    with pytest.raises(type(failure)):
        await answer(fleet.pool)
    assert fleet.asked() == {"a": 1, "b": 0}


async def test_a_failed_replica_rests() -> None:
    fleet = Fleet(a=EngineUnavailable("x"), b=None)
    await answer(fleet.pool)
    await answer(fleet.pool)
    assert fleet.asked() == {"a": 1, "b": 2}
    fleet.clock.now += REST_SECONDS
    await answer(fleet.pool)
    assert fleet.asked()["a"] == 2


async def test_a_resting_replica_is_asked_when_it_is_the_only_one() -> None:
    fleet = Fleet(a=EngineUnavailable("x"))
    with pytest.raises(EngineUnavailable):
        await answer(fleet.pool)
    fleet.connections["a"].failure = None
    assert await answer(fleet.pool)


async def test_without_replicas_nothing_is_available() -> None:
    with pytest.raises(EngineUnavailable, match="no engine replica"):
        await answer(Fleet().pool)


async def test_a_replica_that_left_keeps_its_streams_and_is_closed_after_them() -> None:
    fleet = Fleet(a=None, b=None)
    stream = fleet.pool.generate([1], REQUEST)
    await anext(stream)
    fleet.known = ("b",)
    await answer(fleet.pool)
    assert not fleet.connections["a"].closed
    assert [chunk async for chunk in stream][-1].finish_reason is FinishReason.STOP
    assert fleet.connections["a"].closed
    assert not fleet.connections["b"].closed
    await fleet.pool.close()
    assert fleet.connections["b"].closed


async def test_a_hosts_file_is_followed(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    hosts = HostsFile(path, "chat-engine.default.svc:8001")
    assert await hosts.addresses() == ()
    path.write_text("# local\nother.svc:8001 127.0.0.1:1\nchat-engine.default.svc:8001 127.0.0.1:3 127.0.0.1:2 # x\n")
    assert await hosts.addresses() == ("127.0.0.1:2", "127.0.0.1:3")
    path.write_text("chat-engine.default.svc:8001 127.0.0.1:44\n")
    assert await hosts.addresses() == ("127.0.0.1:44",)
    path.write_text("\n")
    assert await hosts.addresses() == ()


class Resolver:
    def __init__(self) -> None:
        self.answers: list[Addresses | OSError] = []
        self.asked: list[tuple[str, int]] = []

    async def __call__(self, host: str, port: int) -> Addresses:
        self.asked.append((host, port))
        answer = self.answers.pop(0)
        if isinstance(answer, OSError):
            raise answer
        return answer


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_dns_answers_from_memory_and_asks_again_when_that_is_old() -> None:
    clock, resolver = Clock(), Resolver()
    resolver.answers = [("10.0.0.1:8001",), ("10.0.0.1:8001", "10.0.0.2:8001"), OSError("no such name")]
    dns = Dns("engine.svc:8001", clock=clock, refresh_seconds=3.0, resolve=resolver)
    assert await dns.addresses() == ("10.0.0.1:8001",)
    assert await dns.addresses() == ("10.0.0.1:8001",)
    assert resolver.asked == [("engine.svc", 8001)]
    clock.now += 3.0
    assert await dns.addresses() == ("10.0.0.1:8001",)
    await settle()
    assert await dns.addresses() == ("10.0.0.1:8001", "10.0.0.2:8001")
    clock.now += 3.0
    await dns.addresses()
    await settle()
    assert await dns.addresses() == ("10.0.0.1:8001", "10.0.0.2:8001"), "a failing resolver keeps the last answer"


async def test_the_systems_resolver_finds_loopback() -> None:
    dns = Dns("localhost:8001", clock=Clock())
    assert "127.0.0.1:8001" in await dns.addresses()
