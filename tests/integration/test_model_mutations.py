"""Every property of a FlashModel is driven to its bounds and past them: whatever the API server accepts comes to rest
with a documented reason, and what exists is what a fresh apply of the last manifest makes."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from builders import a_model_manifest
from control_plane import ControlPlane
from fakes.mutations import SEED, mutated, mutations, pairs
from fakes.pull_kubelet import PullKubelet
from live_api import LiveApi
from model_lives import ModelLives
from object_feed import MODELS
from operator_in_process import Lives, World

from flash_api.conditions import EXPLANATIONS, Reason
from flash_api.crd import RESOURCES, custom_resource_definition
from flash_api.manifest import stored_model
from flash_operator.checks import model_refusal
from flash_operator.difference import identity, is_as_planned
from flash_operator.plan import model_plan
from flash_operator.reconcile import Outcome

PAIRS, CHAINS, EDITS, CONCURRENT = 60, 24, 4, 16
NO_END = frozenset({Reason.APPLY_FAILED})

(MODEL,) = (resource for resource in RESOURCES if resource.kind == MODELS.kind)
SCHEMA = custom_resource_definition(MODEL)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
SPEC = {"properties": {"spec": SCHEMA["properties"]["spec"]}}


def manifests() -> list[dict[str, Any]]:
    """What is tried."""
    changes = [*((each,) for each in mutations(SPEC)), *pairs(SPEC, PAIRS)]
    found = [mutated(a_model_manifest(), SPEC, *each) for each in changes]
    return list({json.dumps(manifest, sort_keys=True): manifest for manifest in found}.values())


class Trial:
    """FlashModels in one namespace, where every pull ends well."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.ends: Counter[str] = Counter()
        self.accepted: list[dict[str, Any]] = []

    async def store(self, name: str, manifest: dict[str, Any]) -> dict[str, Any] | None:
        """Create it, or replace the spec of what is there; None when that is refused."""
        world, path = self.world, await self.world.path(name)
        present = await world.live.request("GET", path)
        body = {**manifest, "metadata": {"name": name, "namespace": world.feed.namespace}}
        if present.ok:
            body["metadata"]["resourceVersion"] = present.body["metadata"]["resourceVersion"]
        where = ("PUT", path) if present.ok else ("POST", await world.path())
        answer = await world.live.request(*where, body, fieldValidation="Strict")
        if answer.status == 409:  # the operator wrote its status in between
            return await self.store(name, manifest)
        assert answer.ok or answer.status in (400, 422), answer
        assert answer.ok or "spec" in answer.body["message"] or "unknown field" in answer.body["message"], answer
        return answer.body if answer.ok else None

    async def single(self, number: int, manifest: dict[str, Any]) -> None:
        name = f"m{number}"
        async with ModelLives(self.world, name) as lives:
            stored = await self.store(name, manifest)
            if stored is None:
                self.ends["refused by the API server"] += 1
                return
            self.accepted.append(manifest)
            self.ends[await self.end(lives, stored)] += 1

    async def chain(self, number: int, edits: list[dict[str, Any]]) -> None:
        """One object, edited again and again, with the operator at rest in between or not."""
        name, stored = f"c{number}", None
        async with ModelLives(self.world, name) as lives:
            for manifest in edits:
                stored = await self.store(name, manifest) or stored  # what may not change may have been changed
                if stored is not None and number % 2 == 0:
                    await self.settled(lives, stored)
            assert stored is not None
            if model_refusal(stored_model(stored).spec) is None:
                self.ends[f"chain: {await self.end(lives, stored)}"] += 1
            else:
                self.ends["chain: ends refused"] += 1

    async def settled(self, lives: Lives, stored: dict[str, Any]) -> Outcome:
        generation = stored["metadata"]["generation"]
        return await lives.until(lambda outcome: is_end(outcome, generation), json.dumps(stored["spec"]))

    async def end(self, lives: Lives, stored: dict[str, Any]) -> str:
        outcome = await self.settled(lives, stored)
        conditions = {c["type"]: c for c in outcome.status["conditions"]}
        for found in conditions.values():
            assert found["reason"] in EXPLANATIONS, found
            assert found["reason"] not in NO_END, (found, stored["spec"])
        live = [found for found in await self.world.snapshot(lives.key.name) if found["kind"] != MODELS.kind]
        children = {identity(found): found for found in live}
        deployment = stored_model(stored)
        refused = model_refusal(deployment.spec) is not None
        planned = () if refused else model_plan(deployment, self.world.settings.plan).objects
        assert children.keys() == {identity(found) for found in planned}, stored["spec"]
        different = [identity(found) for found in planned if not is_as_planned(children[identity(found)], found)]
        assert different == [], (stored["spec"], different)
        ready = conditions["Ready"]
        return "Ready" if ready["status"] == "True" else f"not ready: {ready['reason']}"


def is_end(outcome: Outcome, generation: int) -> bool:
    if outcome.writes or outcome.status.get("observedGeneration") != generation:
        return False
    conditions = {c["type"]: c for c in outcome.status["conditions"]}
    return conditions["Reconciling"]["status"] == "False" or outcome.error is not None


@pytest.mark.timeout(600)
async def test_whatever_the_schema_of_a_model_allows_ends_ready_or_refused_with_a_documented_reason(
    control_plane: ControlPlane, namespace: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tried, slots = manifests(), asyncio.Semaphore(CONCURRENT)

    async def within_slots(work: Callable[..., Awaitable[None]], *arguments: Any) -> None:
        async with slots:
            await work(*arguments)

    kubeconfig = control_plane.kubeconfig
    async with LiveApi(kubeconfig) as live, World(live, kubeconfig, namespace, MODELS, PullKubelet) as world:
        trial = Trial(world)
        async with asyncio.TaskGroup() as group:
            for number, manifest in enumerate(tried):
                group.create_task(within_slots(trial.single, number, manifest))
        trial.accepted.sort(key=lambda manifest: json.dumps(manifest, sort_keys=True))  # they ended in any order
        dice = random.Random(SEED)
        async with asyncio.TaskGroup() as group:
            for number in range(CHAINS):
                group.create_task(within_slots(trial.chain, number, dice.sample(trial.accepted, EDITS)))
    assert trial.ends["Ready"] > 30
    with capsys.disabled():
        counts = ", ".join(f"{count} {end}" for end, count in sorted(trial.ends.items()))
        print(f" [{len(tried)} manifests, {CHAINS} chains of {EDITS} edits: {counts}]", end="")
