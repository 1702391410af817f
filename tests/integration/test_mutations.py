"""Every property of the CRD is driven to its bounds and past them: whatever the API server accepts ends ready, or
refused by a documented reason, and what exists is what a fresh apply of the last manifest makes."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest
import yaml
from builders import a_manifest
from control_plane import ControlPlane
from fakes.mutations import SEED, mutated, mutations, pairs
from live_api import LiveApi
from operator_in_process import Lives, World

from flash_api import names
from flash_api.conditions import EXPLANATIONS, Reason
from flash_api.crd import custom_resource_definition
from flash_api.manifest import stored_deployment
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.checks import refusal
from flash_operator.cluster.kubernetes import OWNED_KINDS
from flash_operator.cluster.protocol import Manifest
from flash_operator.difference import Identity, identity, is_as_planned
from flash_operator.plan import plan
from flash_operator.plan.autoscalers import autoscaler_kind
from flash_operator.reconcile import Outcome

LEAST_MANIFESTS, LEAST_PAIRS = 560, 150
CHAINS, EDITS = 56, 4
CONCURRENT = 24
FEW_PODS = 3
NO_END = frozenset({Reason.APPLY_FAILED})
"""Documented, but a spec that leads there should have been refused before."""

SCHEMA = custom_resource_definition()["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = {"properties": {"spec": SCHEMA["properties"]["spec"]}}


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """What is tried, each with its name."""
    singles = [(str(m), mutated(a_manifest(), SPEC, m)) for m in mutations(SPEC)]
    doubles = pairs(SPEC, max(LEAST_PAIRS, LEAST_MANIFESTS - len(singles)))
    found = [*singles, *((f"{a} + {b}", mutated(a_manifest(), SPEC, a, b)) for a, b in doubles)]
    different = {json.dumps(manifest, sort_keys=True): (name, manifest) for name, manifest in found}
    return list(different.values())


class Trial:
    """FlashDeployments in two namespaces: in one pods run, in the other a quota keeps large numbers on paper."""

    def __init__(self, roomy: World, crowded: World) -> None:
        self.roomy = roomy
        self.crowded = crowded
        self.ends: Counter[str] = Counter()
        self.accepted: list[dict[str, Any]] = []

    async def admit(self, name: str, manifest: dict[str, Any]) -> dict[str, Any] | None:
        """The manifest as the API server would store it, None when it refuses and says where."""
        body = {**manifest, "metadata": {"name": name, "namespace": self.roomy.feed.namespace}}
        answer = await self.roomy.live.request(
            "POST", await self.roomy.path(), body, dryRun="All", fieldValidation="Strict"
        )
        if answer.ok:
            return answer.body
        assert answer.status in (400, 422), answer
        assert "spec" in answer.body["message"] or "unknown field" in answer.body["message"], answer
        return None

    async def store(self, world: World, name: str, manifest: dict[str, Any]) -> dict[str, Any] | None:
        """Create it, or replace the spec of what is there; None when that is refused."""
        path = await world.path(name)
        present = await world.live.request("GET", path)
        body = {**manifest, "metadata": {"name": name, "namespace": world.feed.namespace}}
        if present.ok:
            body["metadata"]["resourceVersion"] = present.body["metadata"]["resourceVersion"]
        answer = await world.live.request(*(("PUT", path) if present.ok else ("POST", await world.path())), body)
        if answer.status == 409:  # the operator wrote its status in between
            return await self.store(world, name, manifest)
        assert answer.ok or answer.status in (400, 422), answer
        return answer.body if answer.ok else None

    async def single(self, number: int, manifest: dict[str, Any]) -> None:
        name = f"m{number}"
        admitted = await self.admit(name, manifest)
        if admitted is None:
            self.ends["refused by the API server"] += 1
            return
        world = self.crowded if dear(admitted, self.roomy) else self.roomy
        async with Lives(world, name) as lives:
            stored = await self.store(world, name, manifest)
            assert stored is not None
            self.ends[await self.end(world, lives, stored, stored)] += 1
        if world is self.roomy:
            self.accepted.append(manifest)

    async def chain(self, number: int, edits: list[dict[str, Any]], patient: bool) -> None:
        """One object, edited again and again, with the operator at rest in between or not."""
        name, world = f"c{number}", self.roomy
        served: dict[str, Any] | None = None
        stored: dict[str, Any] = {}
        accepted = False
        async with Lives(world, name) as lives:
            for manifest in edits:
                taken = await self.store(world, name, manifest)
                if taken is None:  # what may not change was changed
                    continue
                stored = taken
                accepted = refusal(stored_deployment(stored).spec) is None
                if patient or manifest is edits[-1]:
                    await self.settled(world, lives, stored)
                served = stored if accepted else served
            # An impatient user's earlier specs may or may not have been seen: the last manifest alone decides.
            last = served if patient or accepted else None
            end = await self.end(world, lives, stored, last) if last or patient else "overtaken"
            self.ends[f"chain: {end}"] += 1

    async def settled(self, world: World, lives: Lives, stored: dict[str, Any]) -> Outcome:
        generation = stored["metadata"]["generation"]
        return await lives.until(
            lambda outcome: is_end(outcome, generation, crowded=world is self.crowded or needs_a_class(stored)),
            json.dumps(stored["spec"]),
        )

    async def end(self, world: World, lives: Lives, stored: dict[str, Any], served: dict[str, Any] | None) -> str:
        outcome = await self.settled(world, lives, stored)
        conditions = {c["type"]: c for c in outcome.status["conditions"]}
        for found in conditions.values():
            assert found["reason"] in EXPLANATIONS, found
            assert found["reason"] not in NO_END, (found, stored["spec"])
        if served is not None and refusal(stored_deployment(served).spec) is not None:
            served = None
        kinds = {kind for _, kind in OWNED_KINDS}
        children = {identity(o): o for o in await world.snapshot(lives.key.name) if o["kind"] in kinds}
        planned = a_fresh_plan(stored_deployment(served), world, children) if served else ()
        left_over = children.keys() - {identity(o) for o in planned}
        # Pods of the former revision still mount theirs while a rollout is paused, or cannot end: no pod of the new one
        # is admitted. At rest nothing is left.
        unfinished = is_paused(stored) or is_paused(served) or conditions["Reconciling"]["status"] == "True"
        assert {kind for kind, _ in left_over} <= ({"ConfigMap"} if unfinished else set()), (
            json.dumps(stored["spec"]),
            left_over,
            [(c["type"], c["status"], c["reason"]) for c in conditions.values()],
        )
        different = [identity(o) for o in planned if not is_as_planned(children[identity(o)], o)]
        assert different == [], (stored["spec"], different)
        ready = conditions["Ready"]
        return "Ready" if ready["status"] == "True" else f"not ready: {ready['reason']}"


def a_fresh_plan(
    deployment: FlashDeployment, world: World, children: Mapping[Identity, Manifest]
) -> tuple[Manifest, ...]:
    """With the number of engines that another controller has set, where one is asked to."""
    live = children.get(("Deployment", names.engine_name(deployment.metadata.name)))
    set_by_another = live is not None and autoscaler_kind(deployment) is not None
    number = live["spec"]["replicas"] if live is not None and set_by_another else None
    planned = plan(deployment, world.settings.plan, engine_replicas=number, served=OWNED_KINDS).objects
    draft = deployment.spec.draft
    if draft is None or draft.model is None or draft.model.model_ref is None:
        return planned
    return tuple(  # no FlashModel is there, so the pods of a draft wait for theirs
        o
        for o in planned
        if o["kind"] != "Deployment" or o["metadata"]["labels"][names.LABEL_COMPONENT] != names.COMPONENT_DRAFT
    )


def needs_a_class(stored: dict[str, Any]) -> bool:
    """No pod is admitted that names a class which the cluster does not have."""
    placement = stored["spec"].get("placement") or {}
    return bool(placement.keys() & {"priorityClassName", "runtimeClassName"})


def is_paused(stored: dict[str, Any] | None) -> bool:
    return bool(stored and (stored["spec"].get("rollout") or {}).get("paused"))


def dear(admitted: dict[str, Any], world: World) -> bool:
    """The plan asks for so many pods that making them would be a test of something else."""
    deployment = stored_deployment(admitted)
    if refusal(deployment.spec) is not None:
        return False
    objects = plan(deployment, world.settings.plan).objects
    return any(o["spec"].get("replicas", 0) > FEW_PODS for o in objects if o["kind"] == "Deployment")


def is_end(outcome: Outcome, generation: int, *, crowded: bool) -> bool:
    if outcome.writes or outcome.status.get("observedGeneration") != generation:
        return False
    conditions = {c["type"]: c for c in outcome.status["conditions"]}
    at_rest = conditions["Reconciling"]["status"] == "False"
    return at_rest or (crowded and conditions["Ready"]["reason"] == Reason.ENGINES_FAILING) or outcome.error is not None


@pytest.fixture
async def trial(control_plane: ControlPlane, namespace: str) -> AsyncIterator[Trial]:
    crowded = f"{namespace}-x"
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    control_plane.kubectl("create", "namespace", crowded)
    control_plane.kubectl("apply", "-n", crowded, "-f", "-", stdin=yaml.safe_dump(quota))
    kubeconfig = control_plane.kubeconfig
    async with (
        LiveApi(kubeconfig) as live,
        World(live, kubeconfig, namespace) as roomy,
        World(live, kubeconfig, crowded) as full,
    ):
        yield Trial(roomy, full)
    control_plane.kubectl("delete", "namespace", crowded, "--wait=false")


@pytest.mark.timeout(900)
async def test_whatever_the_schema_allows_ends_ready_or_refused_with_a_documented_reason(
    trial: Trial, capsys: pytest.CaptureFixture[str]
) -> None:
    tried = manifests()
    assert len(tried) >= 500
    slots = asyncio.Semaphore(CONCURRENT)

    async def within_slots(work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        async with slots:
            await work(*arguments)

    async with asyncio.TaskGroup() as group:
        for number, (_, manifest) in enumerate(tried):
            group.create_task(within_slots(trial.single, number, manifest))
    trial.accepted.sort(key=lambda manifest: json.dumps(manifest, sort_keys=True))  # they ended in any order
    dice = random.Random(SEED)
    async with asyncio.TaskGroup() as group:
        for number in range(CHAINS):
            edits = dice.sample(trial.accepted, EDITS)
            group.create_task(within_slots(trial.chain, number, edits, number % 2 == 0))
    assert trial.ends["Ready"] > 100
    with capsys.disabled():
        counts = ", ".join(f"{count} {end}" for end, count in sorted(trial.ends.items()))
        print(f" [{len(tried)} manifests, {CHAINS} chains of {EDITS} edits: {counts}]", end="")
