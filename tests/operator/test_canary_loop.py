"""Trajectories of a canary through the loop, on a cluster in a dict and with gateways on paper."""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from builders import a_manifest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_api import names
from flash_operator.cluster.memory import MemoryCluster
from flash_operator.cluster.protocol import Key
from flash_operator.observation import ProbeResult
from flash_operator.plan.autoscale_load import GatewayReading, Histogram, TrackReading
from flash_operator.reconcile import Outcome, ReconcileSettings, reconcile
from flash_operator.scaling import Scaler
from flash_operator.trial import Witness

KEY = Key("default", "chat")
ENGINE, CANARY, GATEWAY = (Key("default", f"chat-{role}") for role in ("engine", "canary", "gateway"))
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
ROLLOUT = {"strategy": "Canary", "canaryPercent": 10}
NEW = {"maxConcurrentRequests": 7}
BOUNDS = (0.1, 0.2, 0.5, float("inf"))


class World:
    """One FlashDeployment that serves under the strategy, its controllers, its gateways and the time."""

    def __init__(self, **spec: Any) -> None:
        self.cluster: Any = MemoryCluster()
        self.memory: MemoryCluster = self.cluster
        self.memory.create(a_manifest(**{"engine": {"replicas": 4}, "rollout": ROLLOUT, **spec}))
        self.memory.gateways = ["http://10.0.0.1:8080"]
        self.reading = GatewayReading()
        self.now = NOON
        self.broken: set[Key] = set()
        self.waiting: set[Key] = set()
        self.restart()

    def restart(self) -> None:
        """A new operator process, which knows nothing."""
        self.witness, self.scaler = Witness(self._scrape), Scaler(self._scrape)

    async def _scrape(self, url: str) -> GatewayReading | None:
        del url
        return self.reading

    def serves(self, *, stable: int = 90, canary: int = 10, failed: int = 0, seconds: float = 0.05) -> None:
        """Requests that are answered now; those of the canary only while its pods are ready."""

        def more(side: TrackReading, number: int, failures: int, took: float) -> TrackReading:
            counts = tuple(float(number if took <= bound else 0) for bound in BOUNDS)
            latency = Histogram(BOUNDS, counts)
            return side.plus(TrackReading(number, failures, latency, latency))

        if not self.ready(CANARY):
            stable, canary, failed = stable + canary, 0, 0
        self.reading = GatewayReading(
            stable=more(self.reading.stable, stable, 0, 0.05),
            canary=more(self.reading.canary, canary, failed, seconds),
        )

    def ready(self, key: Key) -> int:
        found = self.memory.get("Deployment", key)
        return int(found.get("status", {}).get("readyReplicas", 0)) if found is not None else 0

    async def step(self) -> Outcome:
        """One pass, then what the controllers do, then 15 seconds."""

        async def answers(url: str) -> ProbeResult:
            return ProbeResult(ok=True, message="")

        outcome = await reconcile(
            self.cluster,
            KEY,
            probe=answers,
            now=lambda: self.now,
            settings=ReconcileSettings(),
            scaler=self.scaler,
            witness=self.witness,
        )
        self.controllers_act()
        self.now += timedelta(seconds=15)
        return outcome

    def controllers_act(self) -> None:
        for key in (ENGINE, CANARY, GATEWAY, *(Key("default", name) for name in self.drafts)):
            if self.memory.get("Deployment", key) is not None and key not in self.waiting:
                self.memory.edit("Deployment", key, self._broken if key in self.broken else settled)

    def _broken(self, manifest: dict[str, Any]) -> None:
        settled(manifest)
        failure = {"type": "ReplicaFailure", "status": "True", "message": "pods keep ending with code 137"}
        manifest["status"] |= {"readyReplicas": 0, "conditions": [failure]}

    async def until(self, fact: Callable[[], bool], *, traffic: dict[str, Any] | None = None) -> Outcome:
        for _ in range(200):
            self.serves(**(traffic or {}))
            outcome = await self.step()
            if fact():
                return outcome
        raise AssertionError(f"it does not come to that: {self.rollout}")

    async def serving(self) -> "World":
        await self.until(lambda: self.condition("Ready") == "True Serving")
        await self.rest()
        return self

    async def rest(self, **traffic: Any) -> Outcome:
        """Until three passes wrote nothing."""
        quiet = 0
        for _ in range(200):
            self.serves(**traffic)
            outcome = await self.step()
            quiet = 0 if outcome.writes else quiet + 1
            if quiet == 3 and self.condition("Reconciling").startswith("False"):
                return outcome
        raise AssertionError(f"it does not come to rest: {self.rollout}")

    def edits(self, **spec: Any) -> None:
        self.memory.edit(names.KIND, KEY, lambda manifest: manifest.update(spec={**manifest["spec"], **spec}))

    def pods(self, key: Key) -> int | None:
        found = self.memory.get("Deployment", key)
        return None if found is None else int(found["spec"]["replicas"])

    @property
    def drafts(self) -> dict[str, int]:
        """Draft pods that are wanted, by their Deployment."""
        live = self.memory.contents()
        found = [name for name in live if name.startswith("Deployment/chat-draft-")]
        return {name.partition("/")[2]: live[name]["spec"]["replicas"] for name in found}

    def asked(self, key: Key = ENGINE) -> str:
        """The draft Deployment that those engines ask."""
        found = self.memory.get("Deployment", key)
        assert found is not None
        return names.drafts_name("chat", found["metadata"]["labels"].get(names.LABEL_DRAFT_REVISION, ""))

    def serves_at_most(self, key: Key = ENGINE) -> int:
        """What the engine configuration that its pods mount says."""
        found = self.memory.get("Deployment", key)
        assert found is not None
        volume = next(v for v in found["spec"]["template"]["spec"]["volumes"] if v["name"] == "config")
        config = self.memory.get("ConfigMap", Key("default", volume["configMap"]["name"]))
        assert config is not None, "pods mount a ConfigMap that is gone"
        text = config["data"]["engine.json"]
        return int(text.partition('"max_concurrent_requests": ')[2].partition(",")[0])

    @property
    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = self.memory.get(names.KIND, KEY).get("status", {})
        return found

    @property
    def rollout(self) -> dict[str, Any]:
        found: dict[str, Any] = self.status.get("rollout", {})
        return found

    @property
    def step_now(self) -> str:
        return str(self.rollout.get("step", ""))

    @property
    def results(self) -> list[str]:
        return [event["result"] for event in self.rollout.get("history", ())]

    @property
    def told(self) -> list[str]:
        return [news.reason for news in self.memory.news]

    def condition(self, kind: str) -> str:
        found = next((c for c in self.status.get("conditions", ()) if c["type"] == kind), {})
        return f"{found.get('status')} {found.get('reason')}"


def settled(manifest: dict[str, Any]) -> None:
    counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), manifest["spec"]["replicas"])
    manifest["status"] = {"observedGeneration": manifest["metadata"]["generation"], **counts}


async def observed(**spec: Any) -> World:
    """A world in which a canary answers its share."""
    world = await World(**spec).serving()
    world.edits(engine={**spec.get("engine", {"replicas": 4}), **NEW})
    await world.until(lambda: world.step_now == "Observing")
    return world


async def test_the_first_revision_is_not_tried() -> None:
    world = await World().serving()
    assert (world.pods(ENGINE), world.pods(CANARY), world.step_now, world.results) == (4, None, "", [])


async def test_a_new_revision_gets_pods_beside_the_old_ones_which_make_room_once_it_serves() -> None:
    world = await World(engine={"replicas": 10}).serving()
    world.edits(engine={"replicas": 10, **NEW})
    world.waiting = {CANARY}
    for _ in range(3):
        await world.step()
    assert (world.pods(ENGINE), world.pods(CANARY), world.step_now) == (10, 1, "Starting")
    assert (world.serves_at_most(), world.serves_at_most(CANARY)) == (16, 7)
    assert world.condition("Ready") == "True Serving"
    assert world.condition("EnginesReady") == "True CanaryRunning"
    assert world.condition("Reconciling") == "True InProgress"
    world.waiting = set()
    await world.until(lambda: world.step_now == "Observing")
    assert (world.pods(ENGINE), world.pods(CANARY)) == (9, 1)
    assert (world.rollout["canaryPercent"], world.told.count("CanaryStarted")) == (10, 1)
    counts = world.status["engine"]
    await world.step()
    assert (counts["desired"], world.status["engine"]["updated"]) == (10, 1)


async def test_a_proved_revision_takes_the_place_of_the_others_and_only_then_the_canary_goes() -> None:
    world = await observed()
    world.waiting = {ENGINE}
    await world.until(lambda: world.step_now == "Promoting")
    assert (world.pods(ENGINE), world.pods(CANARY), world.serves_at_most()) == (4, 1, 7)
    for _ in range(3):
        await world.step()
    assert world.pods(CANARY) == 1, "the canary is not missed before the others are there"
    world.waiting = set()
    await world.rest()
    assert (world.pods(ENGINE), world.pods(CANARY), world.results) == (4, None, ["Complete"])
    assert world.rollout["history"][0]["reason"] == "CanaryProved"
    assert world.condition("Stalled") == "False Settled"
    assert world.told[-2:] == ["CanaryProved", "RolledOut"]
    configs = [name for name in world.memory.contents() if name.startswith("ConfigMap/chat-engine-")]
    assert len(configs) == 1, "the former configuration is not kept"


async def test_errors_take_a_revision_back_and_it_is_not_tried_again() -> None:
    world = await observed()
    await world.until(lambda: world.step_now == "RolledBack", traffic={"failed": 5})
    assert (world.pods(ENGINE), world.pods(CANARY), world.serves_at_most()) == (4, None, 16)
    await world.rest()
    assert world.condition("Ready") == "True CanaryErrors"
    assert world.condition("Stalled") == "True CanaryErrors"
    assert world.condition("Reconciling") == "False CanaryErrors"
    assert world.results == ["RolledBack"]
    assert "of 1" in world.rollout["history"][0]["message"]
    assert world.told.count("CanaryErrors") == 1
    world.restart()
    for _ in range(5):
        assert (await world.step()).writes == 0
    assert world.pods(CANARY) is None


async def test_a_slower_revision_is_taken_back() -> None:
    world = await observed()
    await world.until(lambda: world.step_now == "RolledBack", traffic={"seconds": 0.4})
    assert world.rollout["history"][0]["reason"] == "CanarySlower"


async def test_a_revision_that_crashes_is_taken_back_at_once() -> None:
    world = await World().serving()
    world.edits(engine={"replicas": 4, **NEW})
    world.broken = {CANARY}
    await world.until(lambda: world.step_now == "RolledBack")
    assert world.rollout["history"][0]["reason"] == "CanaryFailing"
    assert "code 137" in world.rollout["history"][0]["message"]
    assert (world.pods(ENGINE), world.pods(CANARY)) == (4, None)


async def test_too_few_requests_end_at_the_deadline() -> None:
    world = await observed(rollout={**ROLLOUT, "progressDeadlineSeconds": 600})
    await world.until(lambda: world.step_now == "RolledBack", traffic={"canary": 0})
    assert world.rollout["history"][0]["reason"] == "CanaryInconclusive"
    assert timedelta(seconds=600) <= world.now - NOON < timedelta(seconds=900)


async def test_after_a_rollback_another_revision_is_tried_and_so_is_the_same_after_a_revert() -> None:
    world = await observed()
    await world.until(lambda: world.step_now == "RolledBack", traffic={"failed": 5})
    world.edits(engine={"replicas": 4, "maxConcurrentRequests": 9})
    await world.until(lambda: world.step_now == "Observing")
    assert world.condition("Stalled") == "False Progressing"
    await world.until(lambda: world.step_now == "RolledBack", traffic={"failed": 5})
    world.edits(engine={"replicas": 4})
    await world.rest()
    assert (world.condition("Ready"), world.condition("Stalled")) == ("True Serving", "False Settled")
    world.edits(engine={"replicas": 4, "maxConcurrentRequests": 9})
    await world.until(lambda: world.step_now == "Observing")
    assert world.results == ["InProgress", "RolledBack", "RolledBack"]


async def test_a_revert_in_the_middle_removes_the_canary_and_touches_no_other_pod() -> None:
    world = await observed()
    before = world.memory.get("Deployment", ENGINE)["spec"]["template"]
    world.edits(engine={"replicas": 4})
    await world.step()
    assert world.pods(CANARY) is None
    await world.rest()
    assert world.memory.get("Deployment", ENGINE)["spec"]["template"] == before
    assert (world.results, world.pods(ENGINE)) == (["Superseded"], 4)


async def test_a_third_revision_takes_the_canarys_place() -> None:
    world = await observed()
    world.edits(engine={"replicas": 4, "maxConcurrentRequests": 9})
    await world.until(lambda: world.step_now == "Observing")
    assert (world.serves_at_most(), world.serves_at_most(CANARY)) == (16, 9)
    await world.rest()
    assert (world.serves_at_most(), world.results) == (9, ["Complete", "Superseded"])


async def test_a_third_revision_in_the_middle_of_a_promotion_is_tried_too() -> None:
    world = await observed()
    world.waiting = {ENGINE}
    await world.until(lambda: world.step_now == "Promoting")
    world.edits(engine={"replicas": 4, "maxConcurrentRequests": 9})
    await world.step()
    await world.step()
    assert (world.serves_at_most(), world.serves_at_most(CANARY)) == (7, 9)
    world.waiting = set()
    await world.rest()
    assert (world.serves_at_most(), world.results) == (9, ["Complete", "Superseded"])


async def test_a_pause_keeps_both_sides_as_they_are_and_gives_the_time_back() -> None:
    world = await observed(rollout={**ROLLOUT, "progressDeadlineSeconds": 600})
    world.edits(rollout={**ROLLOUT, "progressDeadlineSeconds": 600, "paused": True})
    await world.rest()
    assert world.condition("EnginesReady") == "True RolloutPaused"
    world.now += timedelta(hours=3)
    for _ in range(5):
        world.serves(failed=9)
        assert (await world.step()).writes == 0
    assert (world.pods(ENGINE), world.pods(CANARY), world.results) == (4, 1, ["InProgress"])
    world.edits(rollout={**ROLLOUT, "progressDeadlineSeconds": 600})
    world.restart()
    await world.rest()
    assert world.results == ["Complete"]


async def test_a_revision_that_comes_while_paused_waits() -> None:
    world = await World(rollout={**ROLLOUT, "paused": True}).serving()
    world.edits(engine={"replicas": 4, **NEW})
    await world.rest()
    assert (world.pods(CANARY), world.serves_at_most(), world.condition("Stalled")) == (None, 16, "False Settled")
    world.edits(rollout=ROLLOUT)
    await world.rest()
    assert (world.serves_at_most(), world.results) == (7, ["Complete"])


async def test_a_scale_in_the_middle_is_shared() -> None:
    world = await observed()
    world.edits(engine={"replicas": 20, **NEW})
    await world.step()
    assert (world.pods(ENGINE), world.pods(CANARY)) == (18, 2)
    assert world.serves_at_most() == 16


async def test_autoscaling_counts_both_sides_and_its_number_is_shared() -> None:
    autoscaling = {"minReplicas": 4, "maxReplicas": 20, "targets": {"queuedRequests": 4}}
    world = await World(engine={"autoscaling": autoscaling}).serving()
    world.edits(engine={"autoscaling": {**autoscaling, "minReplicas": 12}, **NEW})
    await world.until(lambda: world.step_now == "Observing")
    await world.step()
    assert (world.pods(ENGINE), world.pods(CANARY)) == (11, 2)
    assert world.status["scaling"]["desiredReplicas"] == 12


async def test_a_suspended_canary_goes_on_when_it_is_resumed() -> None:
    world = await observed()
    world.edits(suspend=True)
    await world.step()
    assert (world.pods(ENGINE), world.pods(CANARY), world.step_now) == (0, 0, "Suspended")
    world.now += timedelta(hours=3)
    world.edits(suspend=False)
    await world.rest()
    assert (world.pods(ENGINE), world.serves_at_most(), world.results) == (4, 7, ["Complete"])


async def test_where_nothing_serves_a_revision_is_not_tried() -> None:
    world = await World().serving()
    world.edits(engine={"replicas": 0})
    await world.step()
    world.edits(engine={"replicas": 0, **NEW})
    await world.step()
    assert (world.pods(CANARY), world.serves_at_most()) == (None, 7)


async def test_a_rolling_update_that_has_not_begun_becomes_a_trial() -> None:
    rolling = {"strategy": "RollingUpdate"}
    world = await World(rollout=rolling).serving()
    world.edits(engine={"replicas": 4, **NEW})

    def not_applied(found: dict[str, Any]) -> None:
        former = found["status"]["rollout"]["history"]
        event = {"revision": target, "startTime": "2026-01-05T12:00:00Z", "result": "InProgress"}
        found["status"]["rollout"] = {"revision": target, "step": "Replacing", "history": [event, *former]}

    probe = await World(engine={"replicas": 4, **NEW}, rollout=rolling).serving()
    target = probe.memory.get("Deployment", ENGINE)["metadata"]["labels"][names.LABEL_REVISION]
    world.memory.edit(names.KIND, KEY, not_applied)
    world.edits(rollout=ROLLOUT)
    await world.until(lambda: world.step_now == "Observing")
    assert world.serves_at_most() == 16
    await world.rest()
    assert world.serves_at_most() == 7


async def test_another_strategy_ends_the_trial() -> None:
    world = await observed()
    world.edits(rollout={"strategy": "RollingUpdate"})
    await world.rest()
    assert (world.pods(CANARY), world.serves_at_most(), world.results[:1]) == (None, 7, ["Complete"])


async def test_gateways_keep_the_former_model_until_the_new_one_is_everywhere() -> None:
    world = await World(model={"source": "pvc://models/demo"}).serving()

    def source() -> str:
        pod = world.memory.get("Deployment", GATEWAY)["spec"]["template"]["spec"]
        (pull,) = pod["initContainers"]
        return str(pull["args"][1])

    def egress(name: str) -> list[Any]:
        found: list[Any] = world.memory.get("NetworkPolicy", Key("default", name))["spec"]["egress"]
        return found

    world.edits(model={"source": "hf://org/other"}, gateway={"limits": {"maxOutputTokens": 9}})
    await world.until(lambda: world.step_now == "Observing")
    assert source() == "file:///var/lib/flashplane/source/demo"
    assert egress("chat-engine") == [], "engines of the former revision need no network"
    assert egress("chat-canary") != []
    mounted = world.memory.get("Deployment", GATEWAY)["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"]
    config = world.memory.get("ConfigMap", Key("default", mounted))
    assert '"max_output_tokens": 9' in config["data"]["gateway.json"], "what is the gateway's own is new at once"
    await world.rest()
    assert source() == "hf://org/other"
    assert egress("chat-engine") != []


async def test_a_lost_revision_label_starts_no_trial() -> None:
    world = await World().serving()
    world.memory.edit("Deployment", ENGINE, lambda found: found["metadata"]["labels"].pop(names.LABEL_REVISION))
    await world.rest()
    assert (world.pods(CANARY), world.results) == (None, [])
    assert world.memory.get("Deployment", ENGINE)["metadata"]["labels"][names.LABEL_REVISION]


async def test_drift_of_the_engines_is_repaired_and_not_tried() -> None:
    world = await World().serving()

    def drift(found: dict[str, Any]) -> None:
        found["spec"]["template"]["spec"]["containers"][0]["image"] = "elsewhere"

    world.memory.edit("Deployment", ENGINE, drift)
    await world.rest()
    assert world.memory.get("Deployment", ENGINE)["spec"]["template"]["spec"]["containers"][0]["image"] != "elsewhere"
    assert world.results == []


def image(world: World, key: Key) -> str:
    return str(world.memory.get("Deployment", key)["spec"]["template"]["spec"]["containers"][0]["image"])


def another_image(found: dict[str, Any]) -> None:
    found["spec"]["template"]["spec"]["containers"][0]["image"] = "elsewhere"


@pytest.mark.parametrize("step", ["Starting", "Observing", "RolledBack"])
async def test_drift_of_what_is_held_is_repaired_at_every_step_of_a_trial(step: str) -> None:
    world = await World(model={"source": "pvc://models/demo"}).serving()
    former = image(world, ENGINE)
    world.waiting = {CANARY} if step == "Starting" else set()
    world.broken = {CANARY} if step == "RolledBack" else set()
    world.edits(model={"source": "hf://org/other"})
    await world.until(lambda: world.step_now == step)
    for key in (ENGINE, GATEWAY):
        pods = world.memory.get("Deployment", key)["spec"]["template"]
        world.memory.edit("Deployment", key, another_image)
        await world.step()
        assert world.memory.get("Deployment", key)["spec"]["template"] == pods
    assert (image(world, ENGINE), world.step_now) == (former, step)
    assert (await world.step()).applied == ()


async def test_where_the_former_pods_were_not_written_down_they_stay_as_they_are_found() -> None:
    world = await World(rollout={"strategy": "RollingUpdate"}).serving()
    world.edits(rollout=ROLLOUT, engine={"replicas": 4, **NEW})
    world.waiting = {CANARY}
    await world.until(lambda: world.step_now == "Starting")
    world.memory.edit("Deployment", ENGINE, another_image)
    assert (await world.step()).applied == ()
    assert image(world, ENGINE) == "elsewhere"
    world.waiting = set()
    await world.rest()
    assert image(world, ENGINE) != "elsewhere"


async def test_a_deleted_stable_deployment_is_made_anew() -> None:
    world = await observed()
    world.memory.remove("Deployment", ENGINE)
    await world.rest()
    assert (world.pods(ENGINE), world.pods(CANARY), world.serves_at_most()) == (4, None, 7)


async def test_history_is_bounded() -> None:
    world = await World().serving()
    for number in range(20, 34):
        world.edits(engine={"replicas": 4, "maxConcurrentRequests": number})
        await world.step()
        await world.step()
    assert len(world.results) == 10
    assert world.results[0] == "InProgress"


async def test_a_canary_costs_a_bounded_number_of_writes() -> None:
    world = await World().serving()
    world.memory.writes.clear()
    world.edits(engine={"replicas": 4, **NEW})
    await world.rest()
    assert len(world.memory.writes) <= 20, world.memory.writes


MOVES = ("pass", "pass", "restart", "new", "other", "back", "pause", "go on", "bad", "scale", "lose status")
moves = st.lists(st.sampled_from(MOVES), max_size=12)


@settings(max_examples=60, deadline=None)
@given(moves=moves)
async def test_whatever_happens_what_serves_in_the_end_is_the_spec_or_what_was_proved_before(moves: list[str]) -> None:
    world = await World().serving()
    traffic: dict[str, Any] = {}
    engine: dict[str, Any] = {"replicas": 4}
    for move in moves:
        match move:
            case "restart":
                world.restart()
            case "new" | "other" | "back":
                number = {"new": 7, "other": 9, "back": 16}[move]
                engine = {**engine, "maxConcurrentRequests": number}
                world.edits(engine=engine)
            case "pause" | "go on":
                world.edits(rollout={**ROLLOUT, "paused": move == "pause"})
            case "bad":
                traffic = {} if traffic else {"failed": 5}
            case "scale":
                engine = {**engine, "replicas": 7 - engine["replicas"]}
                world.edits(engine=engine)
            case "lose status":
                world.memory.edit(names.KIND, KEY, lambda found: found["status"].pop("rollout", None))
        world.serves(**traffic)
        await world.step()
        assert world.serves_at_most() in (7, 9, 16), "pods always have their configuration"
        assert (world.pods(ENGINE) or 0) >= engine["replicas"] - 1
    world.edits(rollout=ROLLOUT)
    await world.rest(**traffic)
    assert world.pods(ENGINE) == engine["replicas"]
    assert world.pods(CANARY) is None
    wanted = engine.get("maxConcurrentRequests", 16)
    stalled = world.condition("Stalled").startswith("True")
    assert stalled == (world.serves_at_most() != wanted)
    assert world.condition("Ready").startswith("True")


DRAFT = {"model": {"source": "file:///draft"}}


async def test_a_canary_has_drafts_of_its_own_and_no_more_of_them_than_pods() -> None:
    world = await observed(draft=DRAFT)
    assert world.asked(CANARY) != world.asked()
    # The former ones stay as they live, whatever becomes of the number of engines that ask them.
    assert world.drafts == {world.asked(): 4, world.asked(CANARY): 1}
    new = world.asked(CANARY)
    await world.rest()
    assert world.results == ["Complete"]
    assert world.drafts == {new: 4}
    assert world.asked() == new
    assert world.condition("DraftReady") == "True DraftsReady"


async def test_with_a_canary_that_is_taken_back_its_drafts_go_and_nobody_elses() -> None:
    world = await World(draft=DRAFT).serving()
    everything = {name for name in world.memory.contents() if "-draft" in name}
    world.edits(engine={"replicas": 4, **NEW})
    await world.until(lambda: world.step_now == "Observing")
    await world.until(lambda: world.step_now == "RolledBack", traffic={"failed": 5})
    await world.rest()
    assert {name for name in world.memory.contents() if "-draft" in name} == everything
    assert world.drafts == {world.asked(): 4}
    world.restart()
    for _ in range(3):
        assert (await world.step()).writes == 0


async def test_while_another_draft_is_tried_the_former_engines_reach_theirs() -> None:
    world = await World(draft=DRAFT).serving()
    (old,) = world.drafts
    world.edits(draft={"model": {"source": "https://models.example.com/small.gguf"}})
    await world.until(lambda: world.step_now == "Observing")
    policies = world.memory.contents()
    former, new = (policies[f"NetworkPolicy/{name}"]["spec"]["egress"] for name in (old, world.asked(CANARY)))
    assert (former, bool(new)) == ([], True), "each pulls from its own source"
    drafts = {"podSelector": {"matchLabels": names.pod_selector("chat", "draft")}}
    for engines in ("engine", "canary"):
        assert any(drafts in rule["to"] for rule in policies[f"NetworkPolicy/chat-{engines}"]["spec"]["egress"])


async def test_an_edit_of_the_former_drafts_is_taken_back_during_a_trial() -> None:
    world = await World(draft=DRAFT).serving()
    (old,) = (Key("default", name) for name in world.drafts)
    former = image(world, old)
    world.edits(engine={"replicas": 4, **NEW})
    await world.until(lambda: world.step_now == "Observing")
    assert world.asked() == old.name != world.asked(CANARY)
    world.memory.edit("Deployment", old, another_image)
    assert (await world.step()).applied == (f"Deployment/{old.name}",)
    assert image(world, old) == former
    assert (await world.step()).applied == ()


async def test_to_leave_the_draft_out_is_tried_too_and_until_then_nothing_of_it_goes() -> None:
    world = await World(draft=DRAFT).serving()
    before = {name for name in world.memory.contents() if "-draft" in name}
    world.memory.edit(names.KIND, KEY, lambda found: found["spec"].pop("draft"))
    await world.until(lambda: world.step_now == "Observing")
    assert {name for name in world.memory.contents() if "-draft" in name} == before
    drafts = {"podSelector": {"matchLabels": names.pod_selector("chat", "draft")}}
    egress = world.memory.contents()["NetworkPolicy/chat-engine"]["spec"]["egress"]
    assert any(drafts in rule["to"] for rule in egress)
    await world.rest()
    assert not [name for name in world.memory.contents() if "-draft" in name]
