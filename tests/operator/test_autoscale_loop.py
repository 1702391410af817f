"""Trajectories of a whole deployment on a cluster in a dict, with gateways that tell what they are told to."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from builders import a_manifest

from flash_api import names
from flash_operator.cluster.memory import MemoryCluster
from flash_operator.cluster.protocol import ClusterError, Key, Manifest
from flash_operator.observation import ProbeResult
from flash_operator.plan.autoscale_load import GatewayReading, Histogram
from flash_operator.reconcile import Outcome, ReconcileSettings, reconcile
from flash_operator.scaling import Scaler

KEY = Key("default", "chat")
ENGINE, GATEWAY = Key("default", "chat-engine"), Key("default", "chat-gateway")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
BOUNDS = (0.1, 1.0, float("inf"))
AUTOSCALING = {
    "minReplicas": 1,
    "maxReplicas": 8,
    "targets": {"ttftMilliseconds": 100, "queuedRequests": 4},
    "scaleDownStabilizationSeconds": 120,
}


class World:
    """One FlashDeployment, its cluster, its gateways and the time."""

    def __init__(self, *, gateways: int = 1, **engine: Any) -> None:
        self.cluster: Any = MemoryCluster()
        self.memory: MemoryCluster = self.cluster
        engine = engine or {"autoscaling": AUTOSCALING}
        self.memory.create(a_manifest(engine=engine, gateway={"replicas": gateways}))
        self.memory.gateways = [f"http://10.0.0.{number}:8080" for number in range(1, gateways + 1)]
        self.pages = {
            f"{url}/metrics": GatewayReading(ttft=Histogram(BOUNDS, (0, 0, 0))) for url in self.memory.gateways
        }
        self.now = NOON
        self.pods_start = True
        self.restart()

    def restart(self) -> None:
        """A new operator process, which knows nothing."""
        self.scaler = Scaler(self._scrape)

    async def _scrape(self, url: str) -> GatewayReading | None:
        return self.pages.get(url)

    def holds(self, inflight: float, *, fast: int = 0, slow: int = 0) -> None:
        """Each gateway holds so many requests and has seen so many first tokens since the last time."""
        for url, page in self.pages.items():
            counts = page.ttft.counts
            more = (counts[0] + fast, counts[1] + fast + slow, counts[2] + fast + slow)
            self.pages[url] = replace(page, inflight=inflight, ttft=Histogram(BOUNDS, more))

    async def step(self) -> Outcome:
        """One pass, then what the deployment controller does, then 15 seconds."""
        outcome = await reconcile(
            self.cluster, KEY, probe=answers, now=lambda: self.now, settings=ReconcileSettings(), scaler=self.scaler
        )
        controllers_act(self.memory, engines=self.pods_start)
        self.now += timedelta(seconds=15)
        return outcome

    async def steps(self, number: int) -> list[Outcome]:
        return [await self.step() for _ in range(number)]

    @property
    def engines(self) -> int:
        return int(self.memory.get("Deployment", ENGINE)["spec"]["replicas"])

    @property
    def scaling(self) -> dict[str, Any]:
        found: dict[str, Any] = self.memory.get(names.KIND, KEY)["status"].get("scaling", {})
        return found


async def answers(url: str) -> ProbeResult:
    del url
    return ProbeResult(ok=True, message="")


def controllers_act(cluster: MemoryCluster, *, engines: bool = True) -> None:
    def settle(manifest: dict[str, Any]) -> None:
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), manifest["spec"]["replicas"])
        manifest["status"] = {"observedGeneration": manifest["metadata"]["generation"], **counts}

    for key in (ENGINE, GATEWAY) if engines else (GATEWAY,):
        if cluster.get("Deployment", key) is not None:
            cluster.edit("Deployment", key, settle)


def fact(outcome: Outcome, kind: str) -> str:
    found = next((c for c in outcome.status["conditions"] if c["type"] == kind), None)
    return f"{found['status']} {found['reason']}" if found else "absent"


async def test_a_burst_and_the_quiet_after_it() -> None:
    world = World()
    await world.steps(3)
    assert (world.engines, world.scaling["reason"]) == (1, "WithinTargets")
    world.holds(90)
    raised = await world.step()
    assert (world.engines, fact(raised, "ScalingActive")) == (5, "True QueueAboveTarget")
    world.holds(2)
    await world.steps(7)
    assert world.engines == 5
    seen = []
    for _ in range(24):
        await world.step()
        seen.append(world.engines)
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {5, 4, 3, 2, 1}
    moves = [(event["fromReplicas"], event["toReplicas"]) for event in world.scaling["history"]]
    assert moves == [(2, 1), (3, 2), (4, 3), (5, 4), (1, 5)]
    assert world.scaling["history"][-1]["message"] == "74 requests wait for 1 ready pod, target 4 each."


async def test_slow_first_tokens_add_pods() -> None:
    world = World()
    await world.steps(2)
    world.holds(3, slow=40)
    await world.step()
    assert (world.engines, world.scaling["reason"]) == (2, "TtftAboveTarget")


async def test_gateways_are_summed() -> None:
    world = World(gateways=3)
    await world.steps(2)
    world.holds(13)
    await world.step()
    assert world.engines == 2


async def test_a_steady_load_writes_nothing_although_every_look_differs() -> None:
    world = World()
    await world.steps(6)
    world.memory.writes.clear()
    for number in range(40):
        world.holds(2 + number % 5, fast=20 + number)
        assert (await world.step()).writes == 0
    assert world.memory.writes == []


async def test_adding_pods_keeps_the_deployment_ready_and_reconciling() -> None:
    world = World()
    await world.steps(3)
    world.holds(90)
    world.pods_start = False
    await world.step()
    outcome = await world.step()
    assert fact(outcome, "EnginesReady") == "True EnginesStarting"
    assert (fact(outcome, "Ready"), fact(outcome, "Reconciling")) == ("True Serving", "True InProgress")


@pytest.mark.parametrize("silence", ["gateways", "pages", "forbidden"])
async def test_without_metrics_nothing_moves_and_the_status_says_why(silence: str) -> None:
    world = World()
    await world.steps(2)
    world.holds(50)
    await world.step()
    assert world.engines == 3
    if silence == "gateways":
        world.memory.gateways.clear()
    elif silence == "pages":
        world.pages.clear()
    else:

        class Forbidding(Wrapped):
            async def gateway_urls(self, key: Key, port: int) -> tuple[str, ...]:
                raise ClusterError("the Kubernetes API answered 403: endpointslices is forbidden")

        world.cluster = Forbidding(world.memory)
    outcomes = await world.steps(40)
    assert world.engines == 3
    assert {fact(outcome, "ScalingActive") for outcome in outcomes[3:]} == {"False MetricsMissing"}
    assert fact(outcomes[-1], "Ready") == "True Serving"
    says = {
        "gateways": "No gateway takes requests.",
        "pages": "None of 1 gateways answered with its metrics.",
        "forbidden": "Gateways could not be listed: the Kubernetes API answered 403: endpointslices is forbidden",
    }
    assert world.scaling["message"] == says[silence]


async def test_a_restart_of_the_operator_neither_moves_nor_forgets() -> None:
    world = World()
    await world.steps(2)
    world.holds(90)
    await world.step()
    world.holds(2)
    await world.steps(6)
    before = world.scaling
    for _ in range(30):
        world.restart()
        assert (await world.step()).writes in (0, 1)
        assert (world.engines, world.scaling["desiredReplicas"]) == (5, 5)
    assert world.scaling["history"] == before["history"]
    await world.steps(9)
    assert world.engines == 4, "it stabilizes anew and goes on"


class Wrapped:
    """A cluster with another behaviour in one place."""

    def __init__(self, inner: MemoryCluster) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class KilledError(Exception):
    """The operator process is gone."""


class Mortal(Wrapped):
    """Dies right after its n-th write."""

    def __init__(self, inner: MemoryCluster, writes: int) -> None:
        super().__init__(inner)
        self.left = writes

    async def apply(self, manifest: Manifest) -> None:
        await self._inner.apply(manifest)
        self._count()

    async def write_status(self, key: Key, status: Manifest) -> None:
        await self._inner.write_status(key, status)
        self._count()

    def _count(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise KilledError


@pytest.mark.parametrize("writes", [1, 2, 3])
async def test_a_crash_after_any_write_of_a_change_takes_nothing_back(writes: int) -> None:
    world = World()
    await world.steps(3)
    world.holds(90)
    world.cluster = Mortal(world.memory, writes)
    with pytest.raises(KilledError):
        await world.step()
    world.cluster = world.memory
    world.restart()
    world.holds(60)
    seen = []
    for _ in range(6):
        await world.step()
        seen.append(world.engines)
    assert seen == [5] * 6
    assert [event["toReplicas"] for event in world.scaling["history"]] == [5]


async def test_the_decision_is_written_down_before_it_is_acted_on() -> None:
    world = World()
    await world.steps(3)
    world.memory.writes.clear()
    world.holds(90)
    await world.step()
    assert world.memory.writes[0] == "status chat"
    assert "apply Deployment/chat-engine" in world.memory.writes[1:]


async def test_a_hand_at_the_engine_deployment_is_taken_back() -> None:
    world = World()
    await world.steps(3)
    for number in (7, 0):
        world.memory.edit("Deployment", ENGINE, lambda m, number=number: m["spec"].update(replicas=number))
        await world.step()
        assert world.engines == 1
    assert "history" not in world.scaling or world.scaling["history"] == []


def edit(world: World, change: Callable[[dict[str, Any]], None]) -> None:
    world.memory.edit(names.KIND, KEY, lambda manifest: change(manifest["spec"]))


async def test_autoscaling_begins_with_the_pods_that_there_are() -> None:
    world = World(replicas=3)
    await world.steps(3)
    edit(world, lambda spec: spec.update(engine={"autoscaling": AUTOSCALING}))
    await world.steps(3)
    assert (world.engines, world.scaling["desiredReplicas"], world.scaling["history"]) == (3, 3, [])
    edit(world, lambda spec: spec.update(engine={"replicas": 2}))
    outcome = await world.step()
    assert (world.engines, world.scaling) == (2, {})
    assert fact(outcome, "ScalingActive") == "absent"


async def test_bounds_of_an_edit_hold_at_once() -> None:
    world = World()
    await world.steps(2)
    edit(world, lambda spec: spec.update(engine={"autoscaling": {**AUTOSCALING, "minReplicas": 4}}))
    await world.step()
    assert (world.engines, world.scaling["reason"]) == (4, "AtMinimum")


async def test_a_refused_spec_keeps_the_number_for_when_it_is_mended() -> None:
    world = World()
    await world.steps(2)
    world.holds(90)
    await world.step()
    edit(world, lambda spec: spec["engine"]["autoscaling"].update(scaleToZeroAfterSeconds=900))
    await world.step()
    assert (world.engines, world.scaling["desiredReplicas"]) == (5, 5)
    edit(world, lambda spec: spec["engine"]["autoscaling"].pop("scaleToZeroAfterSeconds"))
    await world.step()
    assert world.engines == 5


async def test_passes_in_a_hurry_do_not_ask_the_gateways_each_time() -> None:
    world = World()
    await world.steps(3)
    asked = []

    async def counting(url: str) -> GatewayReading | None:
        asked.append(url)
        return world.pages[url]

    world.scaler = Scaler(counting)
    for _ in range(10):
        await world.step()
        world.now += timedelta(seconds=1 - 15)
    assert len(asked) == 2
