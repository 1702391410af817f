"""Trajectories in which another controller sets the number of engine pods, on a cluster in a dict."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from builders import a_deployment, a_manifest
from fakes import horizontal

from flash_api import names
from flash_operator.cluster.memory import MemoryCluster
from flash_operator.cluster.protocol import Key, Manifest
from flash_operator.observation import ProbeResult
from flash_operator.plan import PlanSettings, plan
from flash_operator.plan.autoscale_load import GatewayReading
from flash_operator.plan.autoscalers import HORIZONTAL_POD_AUTOSCALER, PAUSED, SCALED_OBJECT
from flash_operator.reconcile import Outcome, ReconcileSettings, reconcile
from flash_operator.scaling import Scaler
from flash_operator.scaling_provider import Carrier

KEY, ENGINE, GATEWAY = Key("default", "chat"), Key("default", "chat-engine"), Key("default", "chat-gateway")
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
AUTOSCALING = {"maxReplicas": 8, "targets": {"queuedRequests": 4}, "scaleDownStabilizationSeconds": 60}
TRACE = (1, 2, 60, 90, 90, 90, 20, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5)
"""Requests in flight, each for two looks."""


class World:
    """One FlashDeployment, the controllers of its cluster, its gateway and the time."""

    def __init__(self, provider: str = "HorizontalPodAutoscaler", **spec: Any) -> None:
        self.memory = MemoryCluster()
        self.memory.kinds = {HORIZONTAL_POD_AUTOSCALER}
        self.memory.gateways = ["http://10.0.0.1:8080"]
        autoscaling = {**AUTOSCALING, "provider": provider}
        self.memory.create(a_manifest(**{"engine": {"autoscaling": autoscaling}, **spec}))
        self.inflight = 1.0
        self.now = NOON
        self.scaler = Scaler(self._scrape)

    async def _scrape(self, url: str) -> GatewayReading:
        del url
        return GatewayReading(self.inflight)

    async def step(self) -> Outcome:
        """One pass, what the controllers make of it, 15 seconds, and one more look at what they made."""
        for _ in range(2):
            outcome = await reconcile(
                self.memory, KEY, probe=answers, now=lambda: self.now, settings=ReconcileSettings(), scaler=self.scaler
            )
            horizontal.look(self.memory, KEY)
            deployments_act(self.memory)
        self.now += timedelta(seconds=15)
        return outcome

    async def steps(self, number: int) -> list[Outcome]:
        return [await self.step() for _ in range(number)]

    def edit(self, change: Callable[[dict[str, Any]], None]) -> None:
        self.memory.edit(names.KIND, KEY, lambda manifest: change(manifest["spec"]))

    def provided_by(self, provider: str) -> None:
        self.edit(lambda spec: spec["engine"]["autoscaling"].update(provider=provider))

    @property
    def engines(self) -> int:
        return int(self.memory.get("Deployment", ENGINE)["spec"]["replicas"])

    @property
    def scaling(self) -> dict[str, Any]:
        found: dict[str, Any] = self.memory.get(names.KIND, KEY)["status"]["scaling"]
        return found

    @property
    def horizontal(self) -> Manifest | None:
        return self.memory.get("HorizontalPodAutoscaler", ENGINE)


async def answers(url: str) -> ProbeResult:
    del url
    return ProbeResult(ok=True, message="")


def deployments_act(cluster: MemoryCluster) -> None:
    def settle(manifest: dict[str, Any]) -> None:
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), manifest["spec"]["replicas"])
        manifest["status"] = {"observedGeneration": manifest["metadata"]["generation"], **counts}

    for key in (ENGINE, GATEWAY, Key("default", "chat-canary")):
        if cluster.get("Deployment", key) is not None:
            cluster.edit("Deployment", key, settle)


def active(outcome: Outcome) -> str:
    found = next(c for c in outcome.status["conditions"] if c["type"] == "ScalingActive")
    return f"{found['status']} {found['reason']}"


async def replayed(provider: str) -> tuple[list[int], dict[str, Any]]:
    world, numbers = World(provider), []
    for inflight in TRACE:
        world.inflight = inflight
        for _ in range(2):
            await world.step()
            numbers.append(world.engines)
    return numbers, world.scaling


async def test_an_hpa_gives_the_same_numbers_as_the_operator_on_a_replayed_trace() -> None:
    ours, built_in = await replayed("BuiltIn")
    theirs, told = await replayed("HorizontalPodAutoscaler")
    assert theirs == ours
    assert max(ours) >= 5
    assert ours[-1] < max(ours)
    assert told["history"] == built_in["history"]
    assert "autoscaler" not in built_in


async def test_the_status_tells_what_the_hpa_did_and_why() -> None:
    world = World()
    await world.steps(2)
    world.inflight = 60
    await world.step()
    done = world.scaling["autoscaler"]
    assert (done["kind"], done["name"], done["replicas"]) == ("HorizontalPodAutoscaler", "chat-engine", world.engines)
    (event,) = done["history"]
    assert (event["fromReplicas"], event["toReplicas"], event["reason"]) == (1, world.engines, "QueueAboveTarget")


async def test_a_settled_deployment_with_an_hpa_causes_no_write() -> None:
    world = World()
    await world.steps(4)
    before = len(world.memory.writes)
    await world.steps(4)
    assert world.memory.writes[before:] == []


@pytest.mark.parametrize("ways", [("BuiltIn", "HorizontalPodAutoscaler"), ("HorizontalPodAutoscaler", "BuiltIn")])
async def test_a_change_of_provider_takes_no_pod_away(ways: tuple[str, str]) -> None:
    world = World(ways[0])
    await world.steps(2)
    world.inflight = 60
    await world.steps(2)
    busy = world.engines
    assert busy >= 3
    seen = []
    world.provided_by(ways[1])
    for _ in range(4):
        await reconcile(
            world.memory, KEY, probe=answers, now=lambda: world.now, settings=ReconcileSettings(), scaler=world.scaler
        )
        seen.append(world.engines)
        horizontal.look(world.memory, KEY)
        seen.append(world.engines)
        deployments_act(world.memory)
    assert set(seen) == {busy}
    assert (world.horizontal is not None) == (ways[1] != "BuiltIn")


async def test_fixed_replicas_hold_at_once_and_the_hpa_is_gone_before_it_could_object() -> None:
    world = World()
    await world.steps(2)
    world.edit(lambda spec: spec.update(engine={"autoscaling": {**spec["engine"]["autoscaling"], "minReplicas": 4}}))
    await world.steps(2)
    assert world.engines == 4
    world.edit(lambda spec: spec.update(engine={"replicas": 2}))
    before = len(world.memory.writes)
    await world.step()
    assert world.engines == 2
    assert world.memory.writes[before] == "delete HorizontalPodAutoscaler/chat-engine"


async def test_suspending_stops_the_pods_and_resuming_begins_with_the_number_decided() -> None:
    world = World()
    await world.steps(2)
    world.inflight = 60
    await world.steps(2)
    busy = world.engines
    world.edit(lambda spec: spec.update(suspend=True))
    suspended = await world.step()
    assert world.engines == 0
    assert "Provider" not in active(suspended)
    await world.steps(2)
    assert world.engines == 0
    world.edit(lambda spec: spec.update(suspend=False))
    await world.step()
    assert world.engines == busy


async def test_a_hand_at_the_number_is_the_business_of_the_hpa_and_other_drift_is_ours() -> None:
    world = World()
    await world.steps(3)

    def meddle(manifest: dict[str, Any]) -> None:
        manifest["spec"]["replicas"] = 7
        manifest["spec"]["template"]["spec"]["containers"][0]["image"] = "example.com/other"

    world.memory.edit("Deployment", ENGINE, meddle)
    await reconcile(world.memory, KEY, probe=answers, now=lambda: world.now, settings=ReconcileSettings())
    live = world.memory.get("Deployment", ENGINE)
    assert live["spec"]["template"]["spec"]["containers"][0]["image"] != "example.com/other"
    assert world.engines == 7
    horizontal.look(world.memory, KEY)
    assert world.engines == 1


async def test_an_hpa_that_changes_the_number_under_our_hands_is_not_overruled() -> None:
    world = World()
    await world.steps(3)

    class Late(MemoryCluster):
        """The HPA acts between our look and our write."""

        def __getattribute__(self, name: str) -> Any:
            if name in ("__dict__", "__class__"):
                return object.__getattribute__(self, name)
            return getattr(world.memory, name) if name != "apply_scaled" else object.__getattribute__(self, name)

        async def apply_scaled(self, manifest: Manifest) -> None:
            world.memory.edit("Deployment", ENGINE, lambda found: found["spec"].update(replicas=5))
            await world.memory.apply_scaled(manifest)

    world.edit(lambda spec: spec.update(engine={**spec["engine"], "maxConcurrentRequests": 2}))
    await reconcile(Late(), KEY, probe=answers, now=lambda: world.now, settings=ReconcileSettings())
    assert world.engines == 5


async def test_a_cluster_without_keda_keeps_the_number_and_says_why() -> None:
    world = World("KEDA")
    await world.steps(2)
    world.inflight = 60
    outcome = await world.step()
    assert (world.engines, active(outcome)) == (1, "False ProviderMissing")
    assert world.memory.get("ScaledObject", ENGINE) is None
    world.memory.kinds.add(SCALED_OBJECT)
    outcome = await world.step()
    assert world.memory.get("ScaledObject", ENGINE) is not None
    assert active(outcome) == "Unknown ProviderPending"


async def test_a_place_without_such_controllers_is_scaled_by_the_operator() -> None:
    world = World("KEDA")
    world.memory.kinds = set()
    await world.steps(2)
    world.inflight = 60
    outcome = await world.step()
    assert world.engines >= 3
    assert active(outcome).startswith("True")


async def test_an_hpa_that_nobody_tells_the_number_is_named() -> None:
    world = World()
    await world.steps(2)
    horizontal.say(world.memory, ENGINE, "False", "FailedGetExternalMetric", "the server could not find the metric")
    outcome = await reconcile(
        world.memory, KEY, probe=answers, now=lambda: world.now, settings=ReconcileSettings(), scaler=world.scaler
    )
    found = next(c for c in outcome.status["conditions"] if c["type"] == "ScalingActive")
    assert (found["status"], found["reason"]) == ("False", "ProviderFailing")
    assert found["message"] == "HorizontalPodAutoscaler chat-engine: the server could not find the metric"


async def test_a_canary_comes_on_top_of_the_pods_that_the_hpa_set() -> None:
    world = World(rollout={"strategy": "Canary", "canaryPercent": 50})
    await world.steps(2)
    world.inflight = 60
    await world.steps(2)
    busy = world.engines
    world.edit(lambda spec: spec["engine"].update(maxConcurrentRequests=4))
    seen = set()
    for _ in range(3):
        await reconcile(
            world.memory, KEY, probe=answers, now=lambda: world.now, settings=ReconcileSettings(), scaler=world.scaler
        )
        seen.add(world.engines)
        deployments_act(world.memory)
    assert seen == {busy}
    assert world.memory.get("Deployment", Key("default", "chat-canary"))["spec"]["replicas"] >= 1


def scaled_object(**spec: Any) -> Manifest:
    deployment = a_deployment(engine={"autoscaling": {**AUTOSCALING, "minReplicas": 2, "provider": "KEDA"}}, **spec)
    objects = plan(deployment, PlanSettings()).objects
    return next(found for found in objects if found["kind"] == "ScaledObject")


def test_keda_reads_the_status_and_leaves_a_suspended_deployment_alone() -> None:
    found = scaled_object()
    (trigger,) = found["spec"]["triggers"]
    assert trigger["metadata"]["url"].endswith("/namespaces/default/flashdeployments/chat")
    assert (found["spec"]["minReplicaCount"], found["spec"]["maxReplicaCount"]) == (2, 8)
    assert PAUSED not in found["metadata"]["annotations"]
    assert scaled_object(suspend=True)["metadata"]["annotations"][PAUSED] == "true"


@pytest.mark.parametrize(
    ("conditions", "reason"),
    [
        ([], "ProviderPending"),
        ([{"type": "Ready", "status": "Unknown"}], "ProviderPending"),
        ([{"type": "Ready", "status": "False", "message": "no trigger"}], "ProviderFailing"),
        ([{"type": "Ready", "status": "True"}], None),
    ],
)
def test_a_scaled_object_says_how_it_is(conditions: list[dict[str, str]], reason: str | None) -> None:
    live = {**scaled_object(), "status": {"conditions": conditions}}
    found = Carrier(SCALED_OBJECT, "chat-engine", served=True).hindrance([live])
    assert (found.reason if found is not None else None) == reason
