"""One side with N objects on a control plane of its own: from the first object to a restart. Times and counts only."""

from __future__ import annotations

import asyncio
import contextlib
import statistics
import tempfile
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from calls import Calls
from control_plane import ControlPlane
from live_api import MERGE, LiveApi, cancelled
from process import Process
from sides import Side
from stand_in import paused_controller_manager, roll_out_everything

CREATORS: Final = 16
NAMESPACE: Final = "bench"
POLL_SECONDS: Final = 0.05
QUIET_SECONDS: Final = 5.0
"""So long without a write is the end of the work."""
DEADLINE_SECONDS: Final = 900.0


class TooSlow(Exception):
    """A step is not over within its deadline."""


@dataclass
class Figures:
    """Of one side at one number of objects."""

    objects: int
    create_seconds: float = 0.0
    reconciled_seconds: float = 0.0
    """From the first object's creation to the last one's end."""
    reconcile_cpu_seconds: float = 0.0
    writes_per_object: float = 0.0
    idle_seconds: float = 0.0
    idle_writes: int = 0
    idle_passes: int = 0
    idle_lists: int = 0
    idle_cpu_share: float = 0.0
    rss_peak_bytes: int = 0
    change_seconds: list[float] = field(default_factory=list)
    restart_seconds: float = 0.0
    restart_writes: int = 0
    restart_cpu_seconds: float = 0.0
    writes: dict[str, int] = field(default_factory=dict)

    def change_quantile(self, share: float) -> float:
        return statistics.quantiles(self.change_seconds, n=100, method="inclusive")[round(share * 100) - 1]


@dataclass(frozen=True)
class Plan:
    """How much to measure."""

    objects: int
    idle_seconds: float
    changes: int
    factor: float
    """Looks at steady objects are so many times as frequent as they usually are."""


async def measure(side: Side, plan: Plan) -> Figures:
    """Starts a control plane, measures, and leaves nothing behind. Raises TooSlow and OperatorFailed."""
    # API calls of the control plane's own start-up block; nothing else runs then.
    with ControlPlane(crds=(side.crds,)) as plane, tempfile.TemporaryDirectory(prefix="flash-bench-") as folder:
        kubeconfig = _account(plane)
        async with LiveApi(plane.kubeconfig) as api:
            with paused_controller_manager(plane.pids):
                run = _Run(side, plan, plane, api, kubeconfig, Path(folder))
                return await run.all()


def _account(plane: ControlPlane) -> Path:
    plane.kubectl("create", "namespace", NAMESPACE)
    plane.kubectl("-n", NAMESPACE, "create", "serviceaccount", "operator")
    plane.kubectl(
        *("create", "clusterrolebinding", "bench", "--clusterrole=cluster-admin"),
        f"--serviceaccount={NAMESPACE}:operator",
    )
    return plane.kubeconfig_for_service_account(NAMESPACE, "operator")


class _Run:
    def __init__(
        self, side: Side, plan: Plan, plane: ControlPlane, api: LiveApi, kubeconfig: Path, folder: Path
    ) -> None:
        self._side = side
        self._plan = plan
        self._api = api
        self._kubeconfig = kubeconfig
        self._folder = folder
        self._calls = Calls(plane.audit_log, f"system:serviceaccount:{NAMESPACE}:operator")
        self._names = [f"bench-{number:05d}" for number in range(plan.objects)]
        self._finished: set[str] = set()
        self._replicas: dict[str, int] = {}
        self._news = asyncio.Event()
        self._figures = Figures(plan.objects)

    async def all(self) -> Figures:
        async with self._watching():
            with self._start() as operator:
                await self._reconcile(operator)
                await self._idle(operator)
                if self._side.name == "ours":
                    await self._change()
                    await self._quiet(operator)
                self._figures.rss_peak_bytes = operator.rss_peak_bytes
            if self._side.name == "ours":
                with self._start() as operator:
                    await self._restart(operator)
                    self._figures.rss_peak_bytes = max(self._figures.rss_peak_bytes, operator.rss_peak_bytes)
        return self._figures

    def _start(self) -> Process:
        return self._side.start(self._kubeconfig, NAMESPACE, self._folder, self._plan.factor)

    async def _reconcile(self, operator: Process) -> None:
        await self._create("warm-up")  # neither start-up nor the first imports are what is measured
        await self._until(operator, lambda: "warm-up" in self._finished, "the operator acts")
        await self._quiet(operator)
        writes, cpu, begin = self._calls.writes, operator.cpu_seconds, time.perf_counter()
        before = dict(self._calls.by_verb)
        queue = iter(self._names)

        async def creator() -> None:
            for name in queue:
                await self._create(name)

        await asyncio.gather(*(creator() for _ in range(CREATORS)))
        self._figures.create_seconds = time.perf_counter() - begin
        wanted = set(self._names)
        await self._until(operator, lambda: wanted <= self._finished, "all objects are reconciled")
        self._figures.reconciled_seconds = time.perf_counter() - begin
        self._figures.reconcile_cpu_seconds = operator.cpu_seconds - cpu
        await self._quiet(operator)
        self._figures.writes_per_object = (self._calls.writes - writes) / self._plan.objects
        self._figures.writes = {
            " ".join(call): count - before.get(call, 0) for call, count in self._calls.by_verb.items()
        }

    async def _idle(self, operator: Process) -> None:
        calls = self._calls.read()
        begin, cpu = time.perf_counter(), operator.cpu_seconds
        writes, lists, passes = calls.writes, calls.lists, self._passes()
        await asyncio.sleep(self._plan.idle_seconds)  # the period itself is what is measured
        calls.read()
        operator.require_running()
        figures = self._figures
        figures.idle_seconds = time.perf_counter() - begin
        figures.idle_cpu_share = (operator.cpu_seconds - cpu) / figures.idle_seconds
        figures.idle_writes = calls.writes - writes
        figures.idle_lists = calls.lists - lists
        figures.idle_passes = self._passes() - passes

    async def _change(self) -> None:
        path = await self._api.path(self._side.api_version, self._side.kind, NAMESPACE)
        step = max(1, len(self._names) // self._plan.changes)
        for name in self._names[::step]:
            child = f"{name}-engine"
            begin = time.perf_counter()
            change = {"spec": {"engine": {"replicas": 2}}}
            (await self._api.request("PATCH", f"{path}/{name}", change, content_type=MERGE)).require()
            await self._until(None, lambda child=child: self._replicas.get(child) == 2, f"{child} has two replicas")
            self._figures.change_seconds.append(time.perf_counter() - begin)

    async def _restart(self, operator: Process) -> None:
        calls = self._calls.read()
        writes, passes, begin = calls.writes, self._passes(), time.perf_counter()
        cpu = operator.cpu_seconds
        # Every pass begins by reading its object, and a steady object's next one is not due before all had their first.
        await self._until(operator, lambda: self._passes() - passes >= self._plan.objects, "all objects are seen again")
        self._figures.restart_seconds = time.perf_counter() - begin
        self._figures.restart_cpu_seconds = operator.cpu_seconds - cpu
        await self._quiet(operator)
        self._figures.restart_writes = calls.writes - writes

    def _passes(self) -> int:
        return self._calls.by_verb["get", f"{self._side.kind.lower()}s"]

    async def _create(self, name: str) -> None:
        path = await self._api.path(self._side.api_version, self._side.kind, NAMESPACE)
        (await self._api.request("POST", path, self._side.manifest(name))).require()

    async def _until(self, operator: Process | None, holds: Any, what: str) -> None:
        deadline = time.monotonic() + DEADLINE_SECONDS
        while not holds():
            self._news.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._news.wait(), POLL_SECONDS)
            self._calls.read()
            if operator is not None:
                operator.require_running()
            if time.monotonic() > deadline:
                raise TooSlow(f"{self._side.name} with {self._plan.objects} objects: {what}")

    async def _quiet(self, operator: Process) -> None:
        known, since, deadline = self._calls.read().writes, time.monotonic(), time.monotonic() + DEADLINE_SECONDS
        while time.monotonic() - since < QUIET_SECONDS:
            await asyncio.sleep(POLL_SECONDS)
            operator.require_running()
            if self._calls.read().writes != known:
                known, since = self._calls.writes, time.monotonic()
            if time.monotonic() > deadline:
                raise TooSlow(f"{self._side.name} with {self._plan.objects} objects: writes do not end")

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
