"""A new revision on trial: on the real API server with the real controllers, a kubelet and gateways on paper."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from builders import a_manifest
from control_plane import ControlPlane
from fakes.kubelet import Fate
from live_api import APPLY, MERGE, LiveApi
from operator_in_process import Lives, World

from flash_api import names
from flash_operator.reconcile import Outcome

STRATEGIC = "application/strategic-merge-patch+json"
ROLLOUT = {"strategy": "Canary", "canaryPercent": 25}
ENGINE, CANARY = names.engine_name("chat"), names.canary_name("chat")


class Chat:
    """A FlashDeployment that serves, and its user."""

    def __init__(self, world: World, lives: Lives) -> None:
        self.world, self.lives = world, lives
        self.generation = 0

    async def applies(self, **spec: Any) -> None:
        manifest = a_manifest("chat", **{"rollout": ROLLOUT, "engine": {"replicas": 4}, **spec})
        manifest["metadata"]["namespace"] = self.world.feed.namespace
        path = await self.world.path("chat")
        answer = await self.world.live.request(
            "PATCH", path, manifest, content_type=APPLY, fieldManager="user", force="true"
        )
        self.generation = answer.require()["metadata"]["generation"]
        self.lives.forget()

    async def until_step(self, step: str) -> Outcome:
        return await self.lives.until(lambda outcome: self.rollout(outcome).get("step", "") == step, step)

    async def until_rest(self) -> Outcome:
        def rests(outcome: Outcome) -> bool:
            current = outcome.status.get("observedGeneration") == self.generation
            return current and not outcome.writes and condition(outcome, "Reconciling").startswith("False")

        return await self.lives.until(rests, "at rest")

    def rollout(self, outcome: Outcome) -> dict[str, Any]:
        found: dict[str, Any] = outcome.status.get("rollout", {})
        return found

    async def read(self, kind: str, api_version: str = "apps/v1") -> dict[str, dict[str, Any]]:
        path = await self.world.live.path(api_version, kind, self.world.feed.namespace)
        chosen = f"{names.LABEL_DEPLOYMENT}=chat"
        listed = (await self.world.live.request("GET", path, labelSelector=chosen)).require()
        return {item["metadata"]["name"]: item for item in listed["items"]}

    async def pods(self) -> tuple[int, int | None]:
        found = await self.read("Deployment")
        canary = found.get(CANARY)
        return found[ENGINE]["spec"]["replicas"], canary and canary["spec"]["replicas"]

    async def revisions(self) -> int:
        """How many templates the stable engine Deployment has had."""
        return sum(name.startswith(f"{ENGINE}-") for name in await self.read("ReplicaSet"))


def condition(outcome: Outcome, kind: str) -> str:
    return next((f"{c['status']} {c['reason']}" for c in outcome.status["conditions"] if c["type"] == kind), "")


@pytest.fixture
async def world(control_plane: ControlPlane, namespace: str) -> AsyncIterator[World]:
    async with LiveApi(control_plane.kubeconfig) as live, World(live, control_plane.kubeconfig, namespace) as started:
        started.settings = replace(started.settings, waiting_seconds=0.5, ready_seconds=0.5)
        started.skip = timedelta(seconds=20)
        yield started


@pytest.fixture
async def chat(world: World) -> AsyncIterator[Chat]:
    async with Lives(world, "chat") as lives:
        found = Chat(world, lives)
        await found.applies()
        await found.until_rest()
        yield found


NEW = {"engine": {"replicas": 4, "maxConcurrentRequests": 7}}


async def test_a_revision_is_tried_promoted_and_told(chat: Chat) -> None:
    chat.lives.traffic.answered["canary"] = 0
    await chat.applies(**NEW)
    await chat.until_step("Observing")
    tried = await chat.lives.until(lambda outcome: not outcome.writes, "waiting for requests")
    assert (await chat.pods(), await chat.revisions()) == ((3, 1), 1)
    assert (condition(tried, "Ready"), condition(tried, "EnginesReady")) == ("True Serving", "True CanaryRunning")
    chat.lives.traffic.answered["canary"] = 60
    ended = await chat.until_rest()
    assert (await chat.pods(), await chat.revisions()) == ((4, None), 2)
    assert [event["result"] for event in chat.rollout(ended)["history"]] == ["Complete"]
    events = f"/apis/events.k8s.io/v1/namespaces/{chat.world.feed.namespace}/events"
    listed = (await chat.world.live.request("GET", events, fieldSelector="regarding.kind=FlashDeployment")).require()
    told = [event["reason"] for event in listed["items"]]
    assert [told.count(reason) for reason in ("CanaryStarted", "CanaryProved")] == [1, 1]


async def test_errors_take_it_back_without_touching_a_pod_of_the_stable_revision(chat: Chat) -> None:
    before = {pod["metadata"]["uid"] for pod in chat.world.kubelet.pods(ENGINE)}
    await chat.applies(engine={"replicas": 1})
    await chat.until_rest()
    kept = {pod["metadata"]["uid"] for pod in chat.world.kubelet.pods(ENGINE)} & before
    chat.lives.traffic.failed["canary"] = 20
    await chat.applies(engine={"replicas": 1, "maxConcurrentRequests": 7})
    ended = await chat.until_rest()
    assert (await chat.pods(), await chat.revisions()) == ((1, None), 1)
    assert {pod["metadata"]["uid"] for pod in chat.world.kubelet.pods(ENGINE)} == kept
    assert [condition(ended, kind) for kind in ("Ready", "Stalled", "Reconciling")] == [
        "True CanaryErrors",
        "True CanaryErrors",
        "False CanaryErrors",
    ]


async def test_a_crash_loop_takes_it_back(chat: Chat) -> None:
    chat.world.kubelet.decide(CANARY, Fate.CRASHING)
    await chat.applies(**NEW)
    ended = await chat.until_rest()
    assert chat.rollout(ended)["history"][0]["reason"] == "CanaryFailing"
    assert "OOMKilled" in chat.rollout(ended)["history"][0]["message"]
    assert (await chat.pods(), await chat.revisions()) == ((4, None), 1)


async def test_a_revert_a_third_revision_and_a_scale_in_the_middle(chat: Chat) -> None:
    chat.world.kubelet.decide(CANARY, Fate.STARTING)
    await chat.applies(**NEW)
    await chat.until_step("Starting")
    await chat.applies()
    reverted = await chat.until_rest()
    assert (await chat.pods(), await chat.revisions()) == ((4, None), 1)
    assert chat.rollout(reverted)["history"][0]["result"] == "Superseded"

    await chat.applies(**NEW)
    await chat.until_step("Starting")
    await chat.applies(engine={"replicas": 4, "maxConcurrentRequests": 9})
    await chat.until_step("Starting")
    body = {"spec": {"replicas": 8}}
    scale = f"{await chat.world.path('chat')}/scale"
    (await chat.world.live.request("PATCH", scale, body, content_type=MERGE)).require()
    chat.generation += 1
    chat.lives.forget()

    def shared() -> bool:
        return bool(chat.world.feed.of("chat")["Deployment", CANARY]["spec"]["replicas"] == 2)

    await chat.world.feed.until("chat", shared, "two pods on trial")
    assert (await chat.pods(), await chat.revisions()) == ((8, 2), 1)
    chat.world.kubelet.decide(CANARY, Fate.READY)
    ended = await chat.until_rest()
    assert (await chat.pods(), await chat.revisions()) == ((8, None), 2)
    results = [event["result"] for event in chat.rollout(ended)["history"]]
    assert results == ["Complete", "Superseded", "Superseded"]


async def test_an_edit_of_the_former_engines_is_taken_back_while_another_revision_is_tried(chat: Chat) -> None:
    chat.world.kubelet.decide(CANARY, Fate.STARTING)
    await chat.applies(**NEW)
    await chat.until_step("Starting")
    planned = (await chat.read("Deployment"))[ENGINE]["spec"]["template"]
    container = {"name": planned["spec"]["containers"][0]["name"], "image": "elsewhere.example.com/engine:1"}
    path = await chat.world.live.path("apps/v1", "Deployment", chat.world.feed.namespace, ENGINE)
    body = {"spec": {"template": {"spec": {"containers": [container]}}}}
    edited = (await chat.world.live.request("PATCH", path, body, content_type=STRATEGIC)).require()
    assert edited["spec"]["template"] != planned

    def taken_back() -> bool:
        live = chat.world.feed.of("chat")["Deployment", ENGINE]
        newer: bool = live["metadata"]["generation"] > edited["metadata"]["generation"]
        return newer and live["spec"]["template"] == planned

    await chat.world.feed.until("chat", taken_back, "the planned pods")
    assert await chat.pods() == (4, 1)


async def test_a_pause_holds_it_and_a_deletion_ends_it(chat: Chat) -> None:
    await chat.applies(**NEW)
    await chat.until_step("Observing")
    await chat.applies(**NEW, rollout={**ROLLOUT, "paused": True})
    held = await chat.until_rest()
    assert condition(held, "EnginesReady") == "True RolloutPaused"
    assert await chat.pods() == (3, 1)
    (await chat.world.live.request("DELETE", await chat.world.path("chat"))).require()
    chat.lives.forget()
    await chat.lives.until(lambda outcome: outcome.gone, "gone")
    await chat.world.feed.until("chat", lambda: not chat.world.feed.of("chat"), "nothing is left")
