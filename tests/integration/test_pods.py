"""What becomes of pods becomes the status: on the real controllers, with a kubelet on paper."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from builders import a_manifest
from control_plane import ControlPlane
from fakes.kubelet import Fate
from live_api import MERGE, LiveApi
from operator_in_process import Lives, World

from flash_api import names
from flash_operator.reconcile import Outcome, ReconcileSettings

PASSES = 25
FALL_SECONDS = 30.0
"""How long a user may be told that all is well after the last engine has died."""


@pytest.fixture
async def world(control_plane: ControlPlane, namespace: str) -> AsyncIterator[World]:
    async with LiveApi(control_plane.kubeconfig) as live, World(live, control_plane.kubeconfig, namespace) as started:
        yield started


@pytest.fixture
async def chat(world: World) -> AsyncIterator[Lives]:
    """The operator of a FlashDeployment that has come to serve."""
    async with Lives(world, "chat") as lives:
        manifest = a_manifest("chat")
        manifest["metadata"]["namespace"] = world.feed.namespace
        (await world.live.request("POST", await world.path(), manifest)).require()
        await lives.until(lambda outcome: ready(outcome) == ("True", "Serving"), "it serves")
        yield lives


def ready(outcome: Outcome) -> tuple[str, str]:
    return next((c["status"], c["reason"]) for c in outcome.status["conditions"] if c["type"] == "Ready")


async def test_ready_falls_when_the_last_engine_crashes_and_comes_back_with_it(world: World, chat: Lives) -> None:
    world.kubelet.decide(names.engine_name("chat"), Fate.CRASHING)
    await chat.until(lambda outcome: ready(outcome)[0] == "False", "not ready")
    world.kubelet.decide(names.engine_name("chat"), Fate.READY)
    await chat.until(lambda outcome: ready(outcome)[0] == "True", "ready again")


async def test_a_crash_is_in_the_status_and_in_the_events_of_the_deployment(world: World, chat: Lives) -> None:
    world.kubelet.decide(names.engine_name("chat"), Fate.CRASHING)
    async with asyncio.timeout(FALL_SECONDS):
        fallen = await chat.until(lambda outcome: ready(outcome) == ("False", "EnginesFailing"), "not ready")
    failure = fallen.status["lastFailure"]
    assert (failure["container"], failure["exitCode"], failure["reason"]) == ("engine", 137, "OOMKilled")
    events = f"/apis/events.k8s.io/v1/namespaces/{world.feed.namespace}/events"
    listed = (await world.live.request("GET", events, fieldSelector="regarding.kind=FlashDeployment")).require()
    told = sorted((event["type"], event["reason"]) for event in listed["items"])
    assert ("Normal", "Serving") in told
    assert ("Warning", "ContainerFailed") in told
    assert len(told) == len(set(told))


async def test_a_deleted_pod_is_replaced_and_ready_falls_meanwhile(world: World, chat: Lives) -> None:
    engine = names.engine_name("chat")
    world.kubelet.decide(engine, Fate.STARTING, new_pods_only=True)
    (pod,) = world.kubelet.pods(engine)
    path = await world.live.path("v1", "Pod", world.feed.namespace, pod["metadata"]["name"])
    (await world.live.request("DELETE", path)).require()
    await chat.until(lambda outcome: ready(outcome) == ("False", "EnginesStarting"), "not ready")
    world.kubelet.decide(engine, Fate.READY)
    await chat.until(lambda outcome: ready(outcome)[0] == "True", "ready again")


async def test_a_roll_serves_on_while_the_new_pod_cannot_start(world: World, chat: Lives) -> None:
    engine = names.engine_name("chat")
    world.kubelet.decide(engine, Fate.CRASHING, new_pods_only=True)
    chat.forget()
    change: dict[str, Any] = {"spec": {"engine": {"maxConcurrentRequests": 7}}}
    (await world.live.request("PATCH", await world.path("chat"), change, content_type=MERGE)).require()
    await world.feed.until("chat", lambda: len(world.kubelet.pods(engine)) == 2, "a new pod beside the old one")
    await chat.until(
        lambda outcome: outcome.status["observedGeneration"] == 2 and not outcome.writes, "at the new spec"
    )
    assert chat.last is not None
    assert ready(chat.last)[0] == "True"
    world.kubelet.decide(engine, Fate.READY)
    await world.feed.until("chat", lambda: len(world.kubelet.pods(engine)) == 1, "the new pod alone")


async def test_a_deployment_at_rest_is_read_again_and_again_and_never_written(world: World) -> None:
    world.settings = ReconcileSettings(waiting_seconds=0.01, ready_seconds=0.01)
    async with Lives(world, "idle") as lives:
        manifest = a_manifest("idle", engine={"resources": {"cpu": "1000m", "memory": "1.5Gi"}})
        manifest["metadata"]["namespace"] = world.feed.namespace
        (await world.live.request("POST", await world.path(), manifest)).require()
        await lives.until(lambda outcome: ready(outcome)[0] == "True" and not outcome.writes, "at rest")
        passes, writes = lives.passes, lives.writes
        await lives.until(lambda outcome: lives.passes >= passes + PASSES, f"{PASSES} more passes")
        assert lives.writes == writes
