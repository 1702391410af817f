"""A container's process: restarts and probes, with a clock that never waits."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from flash_operator.local.container import Container
from flash_operator.local.podspec import ContainerSpec, Probe
from flash_operator.local.restarts import RestartPolicy

Ask = Callable[[ContainerSpec, Probe, int], Awaitable[str | None]]
HTTP = Probe(http="http://127.0.0.1:1/ready", period_seconds=5, failure_threshold=3)


async def well(*_: object) -> None:
    return None


class Watched:
    """A container and the states it went through."""

    def __init__(self, spec: ContainerSpec, clock: Any, ask: Ask = well) -> None:
        self.changed = asyncio.Event()
        self.container = Container(
            spec, clock=clock, ask=ask, changed=self.changed.set, policy=RestartPolicy(), grace_seconds=5
        )

    async def until(self, holds: Callable[[Container], bool]) -> None:
        async with asyncio.timeout(20):
            while not holds(self.container):
                self.changed.clear()
                await self.changed.wait()


@asynccontextmanager
async def running(spec: ContainerSpec, clock: Any, ask: Ask = well) -> AsyncIterator[Watched]:
    watched = Watched(spec, clock, ask)
    task = asyncio.ensure_future(watched.container.run_forever())
    yield watched
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def spec(program: Callable[[str, str], Path], tmp_path: Path) -> ContainerSpec:
    path = program("forever", "import signal\nsignal.pause()\n")
    return ContainerSpec("main", (str(path),), {}, tmp_path / "main.log", tmp_path / "progress")


def failing(spec: ContainerSpec, program: Callable[[str, str], Path]) -> ContainerSpec:
    path = program("failing", "import sys\nprint('no weights here', file=sys.stderr)\nsys.exit(3)\n")
    return replace(spec, argv=(str(path),))


async def test_a_crashing_container_waits_longer_each_time(spec: Any, program: Any, clock: Any) -> None:
    async with running(failing(spec, program), clock) as watched:
        await watched.until(lambda container: container.state.restarts == 4)
    assert clock.slept[:4] == [1, 2, 4, 8]


async def test_a_crash_leaves_its_exit_code_and_last_words(spec: Any, program: Any, clock: Any) -> None:
    async with running(failing(spec, program), clock) as watched:
        await watched.until(lambda container: container.state.last_exit_code is not None)
        assert watched.container.state.last_exit_code == 3
        assert watched.container.state.last_line == "no weights here"
        assert not watched.container.state.ready


async def test_a_program_that_is_not_there_is_a_failure_with_its_name(spec: Any, clock: Any) -> None:
    async with running(replace(spec, argv=("/nowhere/flash-engine",)), clock) as watched:
        await watched.until(lambda container: container.state.restarts == 2)
        assert watched.container.state.last_line == "/nowhere/flash-engine cannot be started: No such file or directory"


async def test_an_init_container_runs_until_it_succeeds(spec: Any, program: Any, clock: Any, tmp_path: Path) -> None:
    source = f"""
        import pathlib, sys
        tries = pathlib.Path({str(tmp_path / "tries")!r})
        tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
        sys.exit(len(tries.read_text()) < 3)
    """
    watched = Watched(replace(spec, argv=(str(program("third-time", source)),)), clock)
    await watched.container.run_to_completion()
    assert watched.container.state.done
    assert watched.container.state.restarts == 2


async def test_a_container_is_ready_when_its_probe_says_so(spec: Any, clock: Any) -> None:
    answers = iter(["it does not listen yet", "/readyz answered 503"])

    async def ask(*_: object) -> str | None:
        return next(answers, None)

    async with running(replace(spec, readiness=HTTP), clock, ask) as watched:
        await watched.until(lambda container: bool(container.state.probe_failure))
        assert not watched.container.state.ready
        await watched.until(lambda container: container.state.ready)
        assert watched.container.state.probe_failure == ""


async def test_one_missed_probe_does_not_make_a_ready_container_unready(spec: Any, clock: Any) -> None:
    answers = iter([None, "no answer within 1 s", "no answer within 1 s", None, "gone", "gone", "gone"])
    seen: list[bool] = []

    async def ask(*_: object) -> str | None:
        seen.append(watched.container.state.ready)
        return next(answers, "gone")

    async with running(replace(spec, readiness=HTTP), clock, ask) as watched:
        await watched.until(lambda container: container.state.ready)
        await watched.until(lambda container: not container.state.ready)
    assert seen[:7] == [False, True, True, True, True, True, True]


async def test_a_container_that_is_not_alive_is_restarted(spec: Any, clock: Any) -> None:
    asked: list[int] = []

    async def ask(_: ContainerSpec, __: Probe, pid: int) -> str | None:
        asked.append(pid)
        return None if pid != asked[0] else "no answer within 15 s"

    async with running(replace(spec, liveness=HTTP), clock, ask) as watched:
        await watched.until(lambda container: container.state.restarts == 1 and container.state.ready)
    assert asked[:3] == [asked[0]] * 3


async def test_a_container_that_does_not_start_within_its_time_is_stopped(spec: Any, clock: Any) -> None:
    async def ask(*_: object) -> str | None:
        return "it does not listen yet"

    startup = replace(HTTP, period_seconds=5, failure_threshold=2)
    async with running(replace(spec, startup=startup), clock, ask) as watched:
        await watched.until(lambda container: container.state.restarts == 1)
    assert clock.now() >= 10


async def test_readiness_is_not_asked_before_the_start_is_over(spec: Any, clock: Any) -> None:
    asked: list[str | None] = []

    async def ask(_: ContainerSpec, probe: Probe, __: int) -> str | None:
        asked.append(probe.http)
        return "not yet" if len(asked) < 3 else None

    startup = replace(HTTP, http="http://127.0.0.1:1/started")
    async with running(replace(spec, startup=startup, readiness=HTTP), clock, ask) as watched:
        await watched.until(lambda container: container.state.ready)
    assert asked[:4] == [startup.http] * 3 + [HTTP.http]
