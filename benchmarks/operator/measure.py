"""One side on one control plane, phase by phase: from the first object to a restart. Times and counts only."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import figures as stored
from calls import Calls
from figures import Figures
from live_api import MERGE, LiveApi, cancelled
from plane import NAMESPACE, USER, Plane
from process import Process
from sides import Side
from stand_in import roll_out_everything

CREATORS: Final = 16
POLL_SECONDS: Final = 0.05
QUIET_SECONDS: Final = 5.0
"""So long without a write is the end of the work."""
DEADLINE_SECONDS: Final = 900.0
PASSES_OF_AN_HOUR: Final = 12
"""Over each object, if nothing happens: one every five minutes, and fewer with thousands of objects."""
PHASES: Final = ("create", "steady", "hour")


class TooSlow(Exception):
    """A step is not over within its deadline."""


@dataclass(frozen=True)
class Wanted:
    """How much to measure."""

    objects: int
    """In all; what is there already counts."""
    idle_seconds: float
    changes: int
    factor: float
    """In the phase `hour`, looks and passes over steady objects are so many times as frequent as they usually are."""


async def measure(side: Side, wanted: Wanted, plane: Plane, phases: tuple[str, ...]) -> Figures:
    """Figures of these phases and, on a plane that was kept, of earlier ones. Raises TooSlow and OperatorFailed."""
    async with LiveApi(Path(plane.admin)) as api:
        return await _Run(side, wanted, plane, api).all(phases)


class _Run:
    def __init__(self, side: Side, wanted: Wanted, plane: Plane, api: LiveApi) -> None:
        self._side = side
        self._wanted = wanted
        self._plane = plane
        self._api = api
        self._folder = Path(plane.folder)
        self._calls = Calls(Path(plane.audit_log), USER)
        self._names = [f"bench-{number:05d}" for number in range(wanted.objects)]
        self._finished: set[str] = set()
        self._replicas: dict[str, int] = {}
        self._news = asyncio.Event()
        self._figures = stored.load(self._folder, wanted.objects)

    async def all(self, phases: tuple[str, ...]) -> Figures:
        steps = {"create": self._create_all, "steady": self._steady, "hour": self._hour}
        async with self._watching():
            for phase in phases:
                if self._side.name == "ours" or phase != "hour":  # the peer has no passes of its own
                    await steps[phase]()
                    stored.save(self._folder, self._figures)
        return self._figures

    def _start(self, factor: float = 1.0) -> Process:
        return self._side.start(Path(self._plane.operator), NAMESPACE, self._folder, factor)

    async def _create_all(self) -> None:
        """What is missing up to the number; the time that a smaller number took before is added."""
        smaller = [found for found in self._known() if found.create_seconds is not None]
        before = smaller[-1] if smaller else Figures(0, 0.0, 0.0, 0.0, 0.0)
        with self._start() as operator:
            await self._create("warm-up")  # neither start-up nor the first imports are what is measured
            await self._until(operator, lambda: "warm-up" in self._finished, "the operator acts")
            await self._quiet(operator)
            writes, cpu, begin = self._calls.writes, operator.cpu_seconds, time.perf_counter()
            queue = iter(self._names[before.objects :])

            async def creator() -> None:
                for name in queue:
                    await self._create(name)

            await asyncio.gather(*(creator() for _ in range(CREATORS)))
            created = time.perf_counter() - begin
            wanted = set(self._names)
            await self._until(operator, lambda: wanted <= self._finished, "all objects are reconciled")
            figures = self._figures
            figures.create_seconds = (before.create_seconds or 0.0) + created
            figures.reconciled_seconds = (before.reconciled_seconds or 0.0) + time.perf_counter() - begin
            figures.reconcile_cpu_seconds = (before.reconcile_cpu_seconds or 0.0) + operator.cpu_seconds - cpu
            await self._quiet(operator)
            earlier = (before.writes_per_object or 0.0) * before.objects
            figures.writes_per_object = (earlier + self._calls.writes - writes) / self._wanted.objects
            self._note_memory(operator)

    def _known(self) -> list[Figures]:
        found = [int(path.stem.partition("-")[2]) for path in self._folder.glob("figures-*.json")]
        return [stored.load(self._folder, each) for each in sorted(found) if each < self._wanted.objects]

    async def _steady(self) -> None:
        """A restart, a while without anything to do, and changes of single objects."""
        figures, calls = self._figures, self._calls.read()
        writes, passes, begin = calls.writes, self._passes(), time.perf_counter()
        with self._start() as operator:
            if self._side.name == "ours":
                # Every pass begins by reading its object, and a steady one's next is not due before all had a first.
                seen = self._wanted.objects
                await self._until(operator, lambda: self._passes() - passes >= seen, "all objects are seen again")
                figures.restart_seconds = time.perf_counter() - begin
                figures.restart_cpu_seconds = operator.cpu_seconds
            await self._quiet(operator)
            figures.restart_writes = calls.writes - writes
            await self._idle(operator)
            if self._side.name == "ours":
                await self._change()
            self._note_memory(operator)

    async def _idle(self, operator: Process) -> None:
        calls = self._calls.read()
        begin, cpu = time.perf_counter(), operator.cpu_seconds
        writes, lists, passes = calls.writes, calls.lists, self._passes()
        await asyncio.sleep(self._wanted.idle_seconds)  # the period itself is what is measured
        figures = self._figures
        figures.idle_seconds = time.perf_counter() - begin
        figures.idle_cpu_share = (operator.cpu_seconds - cpu) / figures.idle_seconds
        calls.read()
        operator.require_running()
        figures.idle_writes = calls.writes - writes
        figures.idle_lists = calls.lists - lists
        figures.idle_passes = self._passes() - passes

    async def _change(self) -> None:
        path = await self._api.path(self._side.api_version, self._side.kind, NAMESPACE)
        step = max(1, len(self._names) // self._wanted.changes)
        self._figures.change_seconds = []
        for name in self._names[::step]:
            child = f"{name}-engine"
            replicas = 3 - self._replicas[child]
            change = {"spec": {"engine": {"replicas": replicas}}}
            begin = time.perf_counter()
            (await self._api.request("PATCH", f"{path}/{name}", change, content_type=MERGE)).require()
            done = self._has(child, replicas)
            await self._until(None, done, f"{child} has {replicas} replicas")
            self._figures.change_seconds.append(time.perf_counter() - begin)

    def _has(self, child: str, replicas: int) -> Callable[[], bool]:
        return lambda: self._replicas.get(child) == replicas

    async def _hour(self) -> None:
        """As many passes as an hour has, one after the other."""
        with self._start(self._wanted.factor) as operator:
            begun = self._passes()
            wanted = self._wanted.objects
            await self._until(operator, lambda: self._passes() - begun >= wanted, "all objects are seen again")
            await self._quiet(operator)
            writes, passes = self._calls.writes, self._passes()
            enough = wanted * PASSES_OF_AN_HOUR
            await self._until(operator, lambda: self._passes() - passes >= enough, "the passes of an hour are made")
            self._figures.hour_writes = self._calls.writes - writes
            self._figures.hour_passes = self._passes() - passes
            self._note_memory(operator)

    def _note_memory(self, operator: Process) -> None:
        self._figures.rss_peak_bytes = max(self._figures.rss_peak_bytes, operator.rss_peak_bytes)

    def _passes(self) -> int:
        return self._calls.by_verb["get", f"{self._side.kind.lower()}s"]

    async def _create(self, name: str) -> None:
        path = await self._api.path(self._side.api_version, self._side.kind, NAMESPACE)
        made = await self._api.request("POST", path, self._side.manifest(name))
        if made.status != 409:  # an earlier run made it
            made.require()

    async def _until(self, operator: Process | None, holds: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), POLL_SECONDS)
            if operator is not None:
                self._calls.read()
                operator.require_running()
            if time.monotonic() > deadline:
                raise TooSlow(f"{self._side.name} with {self._wanted.objects} objects: {what}")

    async def _quiet(self, operator: Process) -> None:
        known, since, deadline = self._calls.read().writes, time.monotonic(), time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() - since < QUIET_SECONDS:
            await asyncio.sleep(POLL_SECONDS)
            operator.require_running()
            if self._calls.read().writes != known:
                known, since = self._calls.writes, time.monotonic()
            if time.monotonic() > deadline:
                raise TooSlow(f"{self._side.name} with {self._wanted.objects} objects: writes do not end")

    @contextlib.asynccontextmanager
    async def _watching(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(roll_out_everything(self._api, NAMESPACE, self._deployment))]
        if self._side.result[1] != "Deployment":
            tasks.append(asyncio.create_task(self._follow()))
        try:
            yield
        finally:
            await cancelled(*tasks)

    async def _follow(self) -> None:
        async for event in self._api.events(*self._side.result, NAMESPACE, ""):
            self._see(event["object"])

    def _deployment(self, live: dict[str, Any]) -> None:
        self._replicas[live["metadata"]["name"]] = live["spec"].get("replicas", 1)
        if self._side.result[1] == "Deployment":
            self._see(live)
        self._news.set()

    def _see(self, live: dict[str, Any]) -> None:
        if name := self._side.finished(live):
            self._finished.add(name)
            self._news.set()
