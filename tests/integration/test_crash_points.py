"""The operator is killed after every single one of its API writes: what exists in the end is what an undisturbed run
leaves, and nothing was made twice."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest
from builders import a_manifest
from control_plane import ControlPlane
from fakes.kubelet import Fate
from live_api import APPLY, MERGE, LiveApi
from object_feed import BORN_OF_CHILDREN
from operator_in_process import Lives, World

from flash_api import names
from flash_api.manifest import stored_deployment
from flash_operator.cluster.kubernetes import OWNED_KINDS
from flash_operator.difference import identity, is_as_planned
from flash_operator.plan import plan
from flash_operator.reconcile import Outcome

CONCURRENT_RUNS = 12
KEYS = {"apiKeysSecretRef": {"name": "keys"}}


class Run:
    """One user, one FlashDeployment, one operator."""

    def __init__(self, world: World, lives: Lives) -> None:
        self.world = world
        self.lives = lives
        self.name = lives.key.name
        self.generation = 0
        self.begun_at = 0
        """Writes before the part of the workload that is of interest."""

    def begin(self) -> None:
        self.begun_at = self.lives.writes

    @property
    def engine(self) -> str:
        return names.engine_name(self.name)

    async def apply(self, **spec: Any) -> None:
        """Replace the whole spec, as `kubectl apply` of an edited file does; then let the operator come to rest."""
        await self.write(**spec)
        await self.rest()

    async def write(self, **spec: Any) -> None:
        manifest = a_manifest(self.name, **spec)
        manifest["metadata"]["namespace"] = self.world.feed.namespace
        path = await self.world.path(self.name)
        answer = await self.world.live.request(
            "PATCH", path, manifest, content_type=APPLY, fieldManager="user", force="true"
        )
        self.generation = answer.require()["metadata"]["generation"]
        self.lives.forget()

    async def scale(self, replicas: int) -> None:
        path = await self.world.path(self.name)
        body = {"spec": {"replicas": replicas}}
        (await self.world.live.request("PATCH", f"{path}/scale", body, content_type=MERGE)).require()
        self.generation = (await self.world.live.request("GET", path)).require()["metadata"]["generation"]
        self.lives.forget()
        await self.rest()

    async def engines_are_scaled(self, replicas: int) -> None:
        """As another controller does that sets their number."""
        path = await self.world.live.path("apps/v1", "Deployment", self.world.feed.namespace, self.engine)
        body = {"spec": {"replicas": replicas}}
        answer = await self.world.live.request("PATCH", f"{path}/scale", body, content_type=MERGE, fieldManager="hpa")
        answer.require()
        self.lives.forget()
        await self.rest()

    @property
    def engines_wanted(self) -> int:
        """As the mirror has it."""
        return int(self.world.feed.of(self.name)["Deployment", self.engine]["spec"]["replicas"])

    async def rest(self) -> None:
        """Until a pass finds that all is done and writes nothing."""
        await self.lives.until(lambda outcome: at_rest(outcome, self.generation), "at rest")

    async def rolling(self) -> None:
        """Until the roll waits for an engine pod that does not become ready, and the operator for the roll."""
        await self.world.feed.until(self.name, lambda: self.world.kubelet.starting(self.engine), "a new engine pod")
        await self.lives.until(lambda outcome: observed(outcome, self.generation) and not outcome.writes, "waiting")

    async def delete(self) -> None:
        """Until the operator knows that it is gone, and the garbage collector has followed."""
        await self.remove()
        self.lives.forget()
        await self.lives.until(lambda outcome: outcome.gone, "the operator has noticed")
        while await self.world.snapshot(self.name):
            await self.world.feed.until(self.name, lambda: not self.world.feed.of(self.name), "nothing is left")

    async def remove(self) -> None:
        (await self.world.live.request("DELETE", await self.world.path(self.name))).require()


def condition(outcome: Outcome, kind: str) -> str:
    return next((c["status"] for c in outcome.status.get("conditions", ()) if c["type"] == kind), "")


def observed(outcome: Outcome, generation: int) -> bool:
    return outcome.error is None and outcome.status.get("observedGeneration") == generation


def at_rest(outcome: Outcome, generation: int) -> bool:
    return observed(outcome, generation) and not outcome.writes and condition(outcome, "Reconciling") == "False"


async def create(run: Run) -> None:
    await run.apply()


async def edit_engine(run: Run) -> None:
    await run.apply()
    await run.apply(engine={"maxConcurrentRequests": 7, "kvCache": {"memory": "256Mi"}, "resources": {"memory": "2Gi"}})


async def edit_model(run: Run) -> None:
    await run.apply()
    await run.apply(model={"source": "builtin://smollm2-135m-instruct", "maxContextTokens": 512})


async def edit_gateway_and_endpoint(run: Run) -> None:
    await run.apply(gateway={"auth": KEYS})
    await run.apply(gateway={"replicas": 2, "limits": {"maxOutputTokens": 9}}, endpoint={"port": 9000})


async def scale(run: Run) -> None:
    await run.apply()
    await run.scale(3)
    await run.scale(0)
    await run.scale(1)


async def roll_and_roll_back(run: Run) -> None:
    await run.apply(engine={"replicas": 2})
    await run.apply(engine={"replicas": 2, "maxConcurrentRequests": 7})
    await run.apply(engine={"replicas": 2})


async def roll_back_in_mid_roll(run: Run) -> None:
    await run.apply()
    run.world.kubelet.decide(run.engine, Fate.STARTING, new_pods_only=True)
    await run.write(engine={"maxConcurrentRequests": 7})
    await run.rolling()
    await run.apply()
    run.world.kubelet.decide(run.engine, Fate.READY)


async def suspend_and_resume(run: Run) -> None:
    await run.apply(engine={"replicas": 2})
    await run.apply(engine={"replicas": 2}, suspend=True)
    await run.apply(engine={"replicas": 2})


async def pause_and_go_on(run: Run) -> None:
    await run.apply()
    await run.apply(engine={"maxConcurrentRequests": 7}, rollout={"paused": True, "surge": 0})
    await run.apply(engine={"maxConcurrentRequests": 7}, rollout={"surge": 0})


async def open_and_close_the_door(run: Run) -> None:
    await run.apply(endpoint={"allowedNamespaces": ["web"]}, gateway={"auth": KEYS})
    door = {"hostname": "chat.example.com", "ingressClassName": "nginx", "tls": {"secretName": "cert"}}
    await run.apply(endpoint={"visibility": "Public", **door}, gateway={"auth": KEYS, "replicas": 2})
    await run.apply(endpoint={"visibility": "Cluster"}, gateway={"auth": KEYS})


async def refuse_and_mend(run: Run) -> None:
    await run.apply()
    await run.apply(draft={"mode": "InProcess", "model": {"modelRef": {"name": "nano"}}})
    await run.apply(endpoint={"visibility": "Cluster"}, gateway={"auth": KEYS})


DRAFT = {"model": {"source": "builtin://smollm2-135m-instruct"}}


CHANGED_DRAFT = {**DRAFT, "replicas": 2, "resources": {"cpu": "1"}}


async def draft_comes(run: Run) -> None:
    await run.apply()
    run.begin()
    await run.apply(draft=DRAFT)


async def draft_changes(run: Run) -> None:
    await run.apply(draft=DRAFT)
    run.begin()
    await run.apply(draft=CHANGED_DRAFT, engine={"maxConcurrentRequests": 7})


async def draft_goes(run: Run) -> None:
    await run.apply(draft=CHANGED_DRAFT)
    run.begin()
    await run.apply()


AUTOSCALED = {"autoscaling": {"provider": "HorizontalPodAutoscaler", "minReplicas": 2, "maxReplicas": 4}}


async def an_autoscaler_takes_over(run: Run) -> None:
    await run.apply(engine={"replicas": 3})
    run.begin()
    await run.apply(engine={**AUTOSCALED, "maxConcurrentRequests": 7})
    assert run.engines_wanted == 3, "nobody had set another number"


async def an_autoscaler_goes(run: Run) -> None:
    await run.apply(engine=AUTOSCALED)
    await run.engines_are_scaled(3)
    run.begin()
    await run.apply(engine={"replicas": 1})


async def delete(run: Run) -> None:
    await run.apply()
    await run.delete()


async def delete_in_mid_roll(run: Run) -> None:
    await run.apply()
    run.world.kubelet.decide(run.engine, Fate.STARTING, new_pods_only=True)
    await run.write(engine={"maxConcurrentRequests": 7})
    await run.rolling()
    await run.delete()
    run.world.kubelet.decide(run.engine, Fate.READY)


async def recreate_at_once(run: Run) -> None:
    await run.apply()
    await run.remove()
    await run.apply(engine={"maxConcurrentRequests": 7})


CANARY = {"strategy": "Canary", "canaryPercent": 25}


async def try_and_promote(run: Run) -> None:
    await run.apply(rollout=CANARY)
    run.begin()
    await run.apply(engine={"maxConcurrentRequests": 7}, rollout=CANARY)


async def try_a_draft_and_promote(run: Run) -> None:
    await run.apply(draft=DRAFT, rollout=CANARY)
    run.begin()
    await run.apply(draft=DRAFT, engine={"maxConcurrentRequests": 7}, rollout=CANARY)


async def try_another_and_take_it_back(run: Run) -> None:
    await run.apply(rollout=CANARY)
    run.begin()
    canary = names.canary_name(run.name)
    run.world.kubelet.decide(canary, Fate.STARTING)
    await run.write(engine={"maxConcurrentRequests": 7}, rollout=CANARY)
    await run.world.feed.until(run.name, lambda: run.world.kubelet.starting(canary), "a pod on trial")
    run.lives.traffic.failed["canary"] = 30
    await run.write(engine={"maxConcurrentRequests": 9}, rollout=CANARY)
    await run.lives.until(lambda outcome: observed(outcome, run.generation) and not outcome.writes, "waiting")
    run.world.kubelet.decide(canary, Fate.READY)
    await run.rest()
    await run.apply(rollout=CANARY)


WORKLOADS: tuple[Callable[[Run], Awaitable[None]], ...] = (
    create,
    edit_engine,
    edit_model,
    edit_gateway_and_endpoint,
    scale,
    roll_and_roll_back,
    roll_back_in_mid_roll,
    suspend_and_resume,
    pause_and_go_on,
    open_and_close_the_door,
    refuse_and_mend,
    draft_comes,
    draft_changes,
    draft_goes,
    an_autoscaler_takes_over,
    an_autoscaler_goes,
    delete,
    delete_in_mid_roll,
    recreate_at_once,
    try_and_promote,
    try_a_draft_and_promote,
    try_another_and_take_it_back,
)

TRIALS = (try_and_promote, try_a_draft_and_promote, try_another_and_take_it_back)
WITH_A_DELETION = (delete, delete_in_mid_roll, recreate_at_once)


@dataclass(frozen=True)
class End:
    """What a run left, without what differs between any two runs, and what it made and removed on the way."""

    objects: dict[str, Any]
    made: dict[str, int]
    removed: dict[str, int]
    writes: int
    begun_at: int


async def carried_out(world: World, workload: Callable[[Run], Awaitable[None]], name: str, kill: Any) -> End:
    async with Lives(world, name, kill) as lives:
        run = Run(world, lives)
        await workload(run)
        found = await world.snapshot(name)
        require_exactly_the_plan(world, name, found)
        # A ReplicaSet is a revision: one too many is a roll too many. How many pods a roll takes is not ours to say.
        kinds = [kind for _, kind in (*OWNED_KINDS, BORN_OF_CHILDREN[0])]
        return End(
            objects=anonymous(found, name, world.feed.namespace),
            made={kind: world.feed.made[name][kind] for kind in kinds},
            removed={kind: world.feed.removed.get(name, {}).get(kind, 0) for kind in kinds},
            writes=lives.writes,
            begun_at=run.begun_at,
        )


def require_exactly_the_plan(world: World, name: str, found: list[dict[str, Any]]) -> None:
    live = next((each for each in found if each["kind"] == names.KIND), None)
    kinds = {kind for _, kind in OWNED_KINDS}
    children = {identity(child): child for child in found if child["kind"] in kinds}
    planned = {identity(o): o for o in planned_of(live, children, world)} if live else {}
    assert children.keys() == planned.keys()
    assert [key for key, child in children.items() if not is_as_planned(child, planned[key])] == []


def planned_of(
    live: dict[str, Any], children: dict[tuple[str, str], dict[str, Any]], world: World
) -> tuple[Mapping[str, Any], ...]:
    deployment = stored_deployment(live)
    engines = children["Deployment", names.engine_name(deployment.metadata.name)]
    # Of scaled ones the number is another controller's.
    number = engines["spec"]["replicas"] if deployment.spec.engine.autoscaling is not None else None
    return plan(deployment, world.settings.plan, engine_replicas=number).objects


def anonymous(objects: list[dict[str, Any]], name: str, namespace: str) -> dict[str, Any]:
    """Objects by kind and name, without uids, versions and times; names and content hashes are masked."""
    kept = {}
    for found in objects:
        if found["kind"] == "Pod":
            continue
        meta = found["metadata"]
        owners = [{k: v for k, v in owner.items() if k != "uid"} for owner in meta.get("ownerReferences", ())]
        managers = {
            (e["manager"], e["operation"], e.get("subresource", ""))
            for e in meta.get("managedFields", ())
            if found["kind"] != "HorizontalPodAutoscaler" or e["manager"] == names.FIELD_MANAGER
        }
        text = json.dumps(
            {
                "generation": meta.get("generation"),
                "labels": meta.get("labels"),
                "annotations": meta.get("annotations"),
                "owners": owners,
                "managers": sorted(managers),
                **{k: v for k, v in found.items() if k not in ("metadata", "status")},
                "status": settled_status(found),
            },
            sort_keys=True,
        )
        label = masked(f"{found['kind']}/{meta['name']}", name, namespace)
        assert label not in kept or found["kind"] == "ReplicaSet", f"two of {label}"
        kept.setdefault(label, []).append(json.loads(masked(text, name, namespace)))
    return {label: sorted(same, key=json.dumps) for label, same in kept.items()}


def settled_status(found: dict[str, Any]) -> dict[str, Any]:
    """The part of a status that no longer changes once the operator is at rest."""
    status = found.get("status") or {}
    if found["kind"] != names.KIND:
        counts = ("replicas", "readyReplicas", "updatedReplicas") if found["kind"] == "Deployment" else ()
        return {key: status.get(key, 0) for key in counts}
    # When an HPA looks for the first time is its own affair.
    told = [c for c in status["conditions"] if c["type"] != "ScalingActive"]
    conditions = [{k: v for k, v in c.items() if k != "lastTransitionTime"} for c in told]
    # Which pod was the last to start or to fail is an accident of the run.
    settled = {key: value for key, value in status.items() if key not in ("coldStart", "lastFailure")}
    if "scaling" in settled:
        scaling = settled["scaling"]
        settled["scaling"] = [scaling["desiredReplicas"], {**scaling["autoscaler"], "history": None}]
    if "rollout" in settled:
        # When it was, and what was measured until then, are accidents too.
        told = ("revision", "result", "reason")
        history = [{key: event[key] for key in told} for event in status["rollout"]["history"]]
        settled["rollout"] = {**status["rollout"], "history": history}
    return {**settled, "conditions": conditions}


def masked(text: str, name: str, namespace: str) -> str:
    text = text.replace(namespace, "NAMESPACE").replace(name, "NAME")
    text = re.sub(r'(?<=[-"])[0-9a-f]{10}\b', "HASH", text)
    text = re.sub(
        r"(?<=NAME-(?:engine|canary)-)[a-z0-9]+|(?<=NAME-gateway-)[a-z0-9]+|(?<=NAME-draft-HASH-)[a-z0-9]+",
        "HASH",
        text,
    )
    text = re.sub(r'("(?:pod-template-hash|clusterIP)": )"(?!None)[^"]*"', r'\1"ANY"', text)
    return re.sub(r'"clusterIPs": \["(?!None)[^"]*"\]', '"clusterIPs": "ANY"', text)


@pytest.fixture
async def world(control_plane: ControlPlane, namespace: str) -> AsyncIterator[World]:
    async with LiveApi(control_plane.kubeconfig) as live, World(live, control_plane.kubeconfig, namespace) as started:
        yield started


@pytest.mark.timeout(600)
@pytest.mark.parametrize("workload", WORKLOADS, ids=lambda workload: workload.__name__)
async def test_a_kill_after_any_write_changes_nothing_in_the_end(
    world: World, workload: Callable[[Run], Awaitable[None]], capsys: pytest.CaptureFixture[str]
) -> None:
    if workload in TRIALS:
        # Between two events nothing happens but looks at the gateways, half a minute apart.
        world.settings, world.skip = (
            replace(world.settings, waiting_seconds=1.0, ready_seconds=1.0),
            timedelta(seconds=30),
        )
    undisturbed = await carried_out(world, workload, "calmx", lambda write: False)
    slots = asyncio.Semaphore(CONCURRENT_RUNS)

    async def killed(name: str, kill: Callable[[int], bool]) -> None:
        async with slots:
            end = await carried_out(world, workload, name, kill)
        assert end.objects == undisturbed.objects, name
        # A pass that was under way when its object went may make a child once more; it belongs to an owner that is no
        # more, so the garbage collector takes it away again.
        if workload not in WITH_A_DELETION:
            assert (end.made, end.removed) == (undisturbed.made, undisturbed.removed), name

    async with asyncio.TaskGroup() as runs:
        for point in range(undisturbed.begun_at + 1, undisturbed.writes + 1):
            runs.create_task(killed(f"kill{point}x", lambda write, point=point: write == point))
        runs.create_task(killed("killeach", lambda write: True))
    with capsys.disabled():
        print(f" [{undisturbed.writes - undisturbed.begun_at} crash points]", end="")
