"""Trajectories of draft pods through the loop, on a cluster in a dict: in lockstep with the engines, and in nobody's
way."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

from builders import a_manifest, a_model_manifest

from flash_api import names
from flash_operator.cluster.memory import MemoryCluster
from flash_operator.cluster.protocol import Key
from flash_operator.observation import ProbeResult
from flash_operator.reconcile import Outcome, ReconcileSettings, reconcile

KEY = Key("default", "chat")
ENGINE, GATEWAY = Key("default", "chat-engine"), Key("default", "chat-gateway")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DRAFT = {"model": {"source": "file:///draft"}}


class World:
    """One FlashDeployment, its controllers, and drafts of which some never become ready."""

    def __init__(self, **spec: Any) -> None:
        self.cluster: Any = MemoryCluster()
        self.memory: MemoryCluster = self.cluster
        self.memory.create(a_manifest(**{"draft": DRAFT, **spec}))
        self.held: set[str] = set()
        """Deployments whose new pods do not become ready."""

    async def step(self) -> Outcome:
        async def answers(url: str) -> ProbeResult:
            return ProbeResult(ok=True, message="")

        return await reconcile(self.cluster, KEY, probe=answers, now=lambda: NOON, settings=ReconcileSettings())

    async def rest(self) -> Outcome:
        for _ in range(20):
            outcome = await self.step()
            if not self.controllers_act() and outcome.writes == 0:
                return outcome
        raise AssertionError("it does not come to rest")

    def controllers_act(self) -> bool:
        before = self.memory.contents()
        for name in self.deployments():
            if name not in self.held:
                self.memory.edit("Deployment", Key("default", name), settled)
        return self.memory.contents() != before

    def edits(self, **spec: Any) -> None:
        self.memory.edit(names.KIND, KEY, lambda found: found.update(spec={**found["spec"], **spec}))

    def removes(self, field: str) -> None:
        self.memory.edit(names.KIND, KEY, lambda found: found["spec"].pop(field))

    def deployments(self) -> list[str]:
        return [name.partition("/")[2] for name in self.memory.contents() if name.startswith("Deployment/")]

    def of_drafts(self) -> set[str]:
        return {name for name in self.memory.contents() if "-draft" in name}

    @property
    def drafts(self) -> list[str]:
        return [name for name in self.deployments() if name.startswith("chat-draft-")]

    @property
    def asked(self) -> str:
        """The revision that engine pods ask, by their configuration."""
        found = self.memory.get("Deployment", ENGINE)
        assert found is not None
        volume = next(v for v in found["spec"]["template"]["spec"]["volumes"] if v["name"] == "config")
        config = self.memory.get("ConfigMap", Key("default", volume["configMap"]["name"]))
        assert config is not None, "pods mount a ConfigMap that is gone"
        return str(json.loads(config["data"]["engine.json"])["draft"]["rollout_revision"])


def settled(manifest: dict[str, Any]) -> None:
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), manifest["spec"]["replicas"])
    manifest["status"] = {"observedGeneration": manifest["metadata"]["generation"], **counts}


def is_now(outcome: Outcome, kind: str) -> str:
    found = next(c for c in outcome.status["conditions"] if c["type"] == kind)
    return f"{found['status']} {found['reason']}"


async def test_drafts_come_with_the_deployment_and_an_idle_one_is_never_written() -> None:
    world = World()
    outcome = await world.rest()
    assert world.drafts == [f"chat-draft-{world.asked}"]
    assert (is_now(outcome, "Ready"), is_now(outcome, "DraftReady")) == ("True Serving", "True DraftsReady")
    assert outcome.status["draft"]["ready"] == 1
    assert outcome.steady is not None
    world.memory.writes.clear()
    for _ in range(3):
        assert (await world.step()).writes == 0


async def test_removing_the_draft_deletes_all_of_it() -> None:
    world = World()
    await world.rest()
    world.removes("draft")
    outcome = await world.rest()
    assert world.of_drafts() == set()
    assert "draft" not in outcome.status
    world.edits(draft=DRAFT)
    await world.rest()
    assert len(world.drafts) == 1


async def test_drafts_that_start_over_are_no_rollout() -> None:
    world = World()
    await world.rest()
    world.memory.news.clear()
    (draft,) = world.drafts
    world.held.add(draft)
    world.memory.edit("Deployment", Key("default", draft), lambda found: found["status"].update(readyReplicas=0))
    outcome = await world.step()
    assert is_now(outcome, "Reconciling") == "True InProgress"
    world.held.clear()
    await world.rest()
    assert world.memory.news == []


async def test_old_drafts_live_as_long_as_old_engines() -> None:
    world = World()
    await world.rest()
    (old,) = world.drafts
    world.held.add("chat-engine")
    world.edits(engine={"maxConcurrentRequests": 7})
    for _ in range(3):
        await world.step()
        world.controllers_act()
        assert sorted(world.drafts) == sorted({old, f"chat-draft-{world.asked}"})
    world.held.clear()
    await world.rest()
    assert world.drafts == [f"chat-draft-{world.asked}"] != [old]


async def test_a_spec_that_is_taken_back_in_the_middle_finds_its_drafts_still_there() -> None:
    world = World()
    await world.rest()
    (old,) = world.drafts
    first = world.memory.get("Deployment", Key("default", old))
    assert first is not None
    world.held.add("chat-engine")
    world.edits(engine={"maxConcurrentRequests": 7})
    await world.step()
    world.edits(engine={})
    world.held.clear()
    await world.rest()
    again = world.memory.get("Deployment", Key("default", old))
    assert again is not None
    assert world.drafts == [old]
    assert again["metadata"]["uid"] == first["metadata"]["uid"]


async def test_drafts_that_never_become_ready_are_in_nobodys_way() -> None:
    world = World()
    await world.step()
    (draft,) = world.drafts
    world.held.add(draft)
    outcome = await world.rest()
    assert (is_now(outcome, "Ready"), is_now(outcome, "DraftReady")) == ("True Serving", "False DraftsStarting")
    world.edits(engine={"maxConcurrentRequests": 7})
    await world.step()
    world.held.add(f"chat-draft-{world.asked}")
    await world.rest()
    assert world.drafts == [f"chat-draft-{world.asked}"], "the old ones go although the new ones are not ready"


async def test_a_draft_that_is_deleted_or_changed_by_hand_comes_back() -> None:
    world = World()
    await world.rest()
    before = world.of_drafts()
    for name in sorted(before):
        kind, _, object_name = name.partition("/")
        world.memory.remove(kind, Key("default", object_name))
    await world.rest()
    assert world.of_drafts() == before
    key = Key("default", world.drafts[0])
    world.memory.edit("Deployment", key, lambda found: found["spec"].update(replicas=9))
    await world.rest()
    found = world.memory.get("Deployment", key)
    assert found is not None
    assert found["spec"]["replicas"] == 1


async def test_drafts_wait_for_their_flashmodel_and_nothing_else_does() -> None:
    world = World(draft={"model": {"modelRef": {"name": "nano"}}})
    outcome = await world.rest()
    assert (is_now(outcome, "Ready"), is_now(outcome, "DraftReady")) == ("True Serving", "False ModelNotFound")
    assert world.drafts == []
    assert outcome.status["appliedRevision"] == "", "a part of the plan is not there"
    world.memory.create(a_model_manifest("nano"))
    outcome = await world.rest()
    assert is_now(outcome, "DraftReady") == "False ModelNotCached"
    world.edits(draft=DRAFT)
    assert is_now(await world.rest(), "DraftReady") == "True DraftsReady"


def a_pod(component: str, tokenizer: str, revision: str) -> dict[str, Any]:
    words = {"exitCode": 0, "message": json.dumps({"tokenizer": tokenizer})}
    labels = {**names.pod_selector("chat", component), names.LABEL_DRAFT_REVISION: revision}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": f"chat-{component}-{revision}", "namespace": "default", "labels": labels},
        "status": {"initContainerStatuses": [{"name": "pull", "state": {"terminated": words}}]},
    }


async def test_a_draft_of_another_tokenizer_is_refused_and_what_runs_goes_on() -> None:
    world = World()
    await world.rest()
    before = world.deployments()
    for component, letter in (("engine", "a"), ("draft", "b")):
        world.memory.create(a_pod(component, letter * 64, world.asked))
    outcome = await world.step()
    assert is_now(outcome, "Accepted") == "False DraftSharesTokenizer"
    assert is_now(outcome, "DraftReady") == "False TokenizerDiffers"
    assert world.deployments() == before
    assert (await world.step()).writes == 0, "a refusal is written once"
    world.edits(draft={"model": {"source": "file:///another"}})
    outcome = await world.rest()
    assert (is_now(outcome, "Accepted"), is_now(outcome, "DraftReady")) == ("True SpecAccepted", "True DraftsReady")
