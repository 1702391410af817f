"""The crash points of FlashModels: killed after every single API write, the operator leaves what an undisturbed run
leaves, and no Job runs twice."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from builders import a_model_manifest
from control_plane import ControlPlane
from fakes.pull_kubelet import PullKubelet
from live_api import APPLY, LiveApi
from model_lives import ModelLives
from object_feed import MODELS
from operator_in_process import World

from flash_api import names
from flash_api.manifest import stored_model
from flash_operator.difference import identity, is_as_planned
from flash_operator.plan import model_plan
from flash_operator.reconcile import Outcome

CONCURRENT_RUNS = 12


class Run:
    """One user, one FlashModel, one operator."""

    def __init__(self, world: World, lives: ModelLives) -> None:
        self.world = world
        self.lives = lives
        self.name = lives.key.name

    async def apply(self, **spec: Any) -> None:
        """Replace the whole spec, then let the operator come to rest."""
        manifest = a_model_manifest(self.name, **spec)
        manifest["metadata"]["namespace"] = self.world.feed.namespace
        path = await self.world.path(self.name)
        answer = await self.world.live.request(
            "PATCH", path, manifest, content_type=APPLY, fieldManager="user", force="true"
        )
        generation = answer.require()["metadata"]["generation"]
        self.lives.forget()
        await self.lives.until(lambda outcome: at_rest(outcome, generation), "at rest")

    async def delete(self) -> None:
        """Until the operator knows that it is gone, and the garbage collector has followed."""
        (await self.world.live.request("DELETE", await self.world.path(self.name))).require()
        self.lives.forget()
        await self.lives.until(lambda outcome: outcome.gone, "the operator has noticed")
        while await self.world.snapshot(self.name):
            await self.world.feed.until(self.name, lambda: not self.world.feed.of(self.name), "nothing is left")


def at_rest(outcome: Outcome, generation: int) -> bool:
    conditions = {c["type"]: c["status"] for c in outcome.status.get("conditions", ())}
    settled = conditions.get("Reconciling") == "False"
    return (
        outcome.error is None
        and outcome.status.get("observedGeneration") == generation
        and settled
        and not outcome.writes
    )


async def create(run: Run) -> None:
    await run.apply()


async def edit_variants(run: Run) -> None:
    await run.apply()
    await run.apply(variants=["Lite", "Nano"])
    await run.apply(variants=["Nano", "Cloud"])


async def stall_and_mend(run: Run) -> None:
    run.world.kubelet.failing["Nano"] = (2, "flash-pull: error: not supported")
    await run.apply(variants=["Nano", "Lite"])
    await run.apply(variants=["Lite"])


async def delete(run: Run) -> None:
    await run.apply()
    await run.delete()


WORKLOADS: tuple[Callable[[Run], Awaitable[None]], ...] = (create, edit_variants, stall_and_mend, delete)


async def carried_out(
    world: World, workload: Callable[[Run], Awaitable[None]], name: str, kill: Callable[[int], bool]
) -> tuple[dict[str, Any], dict[str, int], int]:
    """What a run left, the objects that it made by kind, and its writes."""
    async with ModelLives(world, name, kill) as lives:
        await workload(Run(world, lives))
        found = await world.snapshot(name)
        require_exactly_the_plan(world, found)
        made = {kind: world.feed.made[name][kind] for _, kind in MODELS.owned}
        return anonymous(found, name, world.feed.namespace), made, lives.writes


def require_exactly_the_plan(world: World, found: list[dict[str, Any]]) -> None:
    live = next((each for each in found if each["kind"] == names.MODEL_KIND), None)
    children = {identity(child): child for child in found if child["kind"] != names.MODEL_KIND}
    objects = model_plan(stored_model(live), world.settings.plan).objects if live else ()
    planned = {identity(o): o for o in objects}
    assert children.keys() == planned.keys()
    assert [key for key, child in children.items() if not is_as_planned(child, planned[key])] == []


def anonymous(objects: list[dict[str, Any]], name: str, namespace: str) -> dict[str, Any]:
    """Objects by kind and name, without uids, versions and times."""
    kept = {}
    for found in objects:
        meta, status = found["metadata"], found.get("status") or {}
        kept[f"{found['kind']}/{meta['name']}"] = {
            "generation": meta.get("generation"),
            "labels": meta.get("labels"),
            "owners": [owner["name"] for owner in meta.get("ownerReferences", ())],
            "spec": found.get("spec"),
            "conditions": [(c["type"], c["status"], c.get("reason")) for c in status.get("conditions", ())],
            "variants": status.get("variants"),
            "failed": (status.get("lastFailure") or {}).get("exitCode"),
        }
    text = json.dumps(kept, sort_keys=True).replace(namespace, "NAMESPACE").replace(name, "NAME")
    text = re.sub(r"(?<=-)[0-9a-f]{10}\b", "HASH", text)
    found_again: dict[str, Any] = json.loads(re.sub(r'controller-uid": "[^"]*"', 'controller-uid": "ANY"', text))
    return found_again


@pytest.fixture
async def world(control_plane: ControlPlane, namespace: str) -> AsyncIterator[World]:
    async with (
        LiveApi(control_plane.kubeconfig) as live,
        World(live, control_plane.kubeconfig, namespace, MODELS, PullKubelet) as started,
    ):
        yield started


@pytest.mark.timeout(300)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.__name__)
async def test_a_kill_after_any_write_changes_nothing_in_the_end(
    world: World, workload: Callable[[Run], Awaitable[None]], capsys: pytest.CaptureFixture[str]
) -> None:
    calm, made, writes = await carried_out(world, workload, "calmx", lambda write: False)
    slots = asyncio.Semaphore(CONCURRENT_RUNS)

    async def killed(name: str, kill: Callable[[int], bool]) -> None:
        async with slots:
            end, made_too, _ = await carried_out(world, workload, name, kill)
        assert end == calm, name
        if workload is not delete:  # a pass that was under way may make a child of an owner that is no more
            assert made_too == made, name

    async with asyncio.TaskGroup() as runs:
        for point in range(1, writes + 1):
            runs.create_task(killed(f"kill{point}x", lambda write, point=point: write == point))
        runs.create_task(killed("killeach", lambda write: True))
    with capsys.disabled():
        print(f" [{writes} crash points]", end="")
