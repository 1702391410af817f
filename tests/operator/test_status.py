from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from builders import a_child

from flash_api.conditions import EXPLANATIONS, Reason, Refusal
from flash_api.v1alpha1.status import FlashDeploymentStatus
from flash_operator.status import Observation, ProbeResult, may_probe, status

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
ANSWERS = ProbeResult(ok=True, message="")
SILENT = ProbeResult(ok=False, message="GET http://x/readyz answered 503: no engine")
BOTH = (a_child("chat-engine"), a_child("chat-gateway"))
ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")


def a_route(accepted: str) -> dict[str, Any]:
    condition = {"type": "Accepted", "status": accepted, "message": "no listener allows this namespace"}
    return {"kind": "HTTPRoute", "metadata": {"name": "chat"}, "status": {"parents": [{"conditions": [condition]}]}}


REFUSED_ROUTE, ACCEPTED_ROUTE = a_route("False"), a_route("True")
STOPPING = a_child("chat-gateway", desired=0, replicas=1)
ASLEEP = (a_child("chat-engine", desired=0), a_child("chat-gateway", desired=0))


def seen(children: Any = BOTH, **rest: Any) -> Observation:
    return Observation(name="chat", generation=3, children=children, **rest)


def facts(observation: Observation) -> dict[str, str]:
    return {c["type"]: f"{c['status']} {c['reason']}" for c in status(observation, {}, NOON)["conditions"]}


def engine(**changes: Any) -> tuple[dict[str, Any], ...]:
    return (a_child("chat-engine", **changes), a_child("chat-gateway"))


FAILING = {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "container engine exited with 3"}]}
STUCK = {"conditions": [{"type": "Progressing", "status": "False", "message": "has timed out progressing."}]}
REFUSED = Refusal(Reason.SOURCE_NOT_SERVED, "spec.model.source (http://host/m.gguf) is not served by this release.")


@pytest.mark.parametrize(
    ("observation", "ready", "reconciling", "stalled"),
    [
        (seen(probe=ANSWERS), "True Serving", "False Settled", "False Settled"),
        (seen(()), "False EnginesMissing", "True InProgress", "False Progressing"),
        (seen(engine(ready=0)), "False EnginesStarting", "True InProgress", "False Progressing"),
        (seen(engine(ready=0, **FAILING)), "False EnginesFailing", "True InProgress", "False Progressing"),
        (seen(engine(ready=0, **STUCK)), "False EnginesStuck", "False EnginesStuck", "True EnginesStuck"),
        (seen(engine(desired=0)), "False ScaledToZero", "False Settled", "False Settled"),
        (seen(ASLEEP, suspended=True), "False Suspended", "False Settled", "False Settled"),
        (seen((ASLEEP[0], STOPPING), suspended=True), "False Suspended", "True InProgress", "False Progressing"),
        (seen(engine(updatedReplicas=0), probe=ANSWERS, paused=True), "True Serving", "False Settled", "False Settled"),
        (
            seen(engine(ready=0, replicas=0, updatedReplicas=0), paused=True),
            "False RolloutPaused",
            "False Settled",
            "False Settled",
        ),
        (
            seen(probe=ANSWERS, missing_kinds=(ROUTE,)),
            "False KindNotServed",
            "False KindNotServed",
            "True KindNotServed",
        ),
        (
            seen(engine(ready=0), missing_kinds=(ROUTE,)),
            "False EnginesStarting",
            "True InProgress",
            "False Progressing",
        ),
        (
            seen((*BOTH, REFUSED_ROUTE), probe=ANSWERS),
            "False RouteNotAccepted",
            "False RouteNotAccepted",
            "True RouteNotAccepted",
        ),
        (seen((*BOTH, ACCEPTED_ROUTE), probe=ANSWERS), "True Serving", "False Settled", "False Settled"),
        (seen(probe=ANSWERS, paused=True), "True Serving", "False Settled", "False Settled"),
        (seen(probe=SILENT), "False EndpointSilent", "True InProgress", "False Progressing"),
        (seen(BOTH[:1]), "False GatewayMissing", "True InProgress", "False Progressing"),
        (
            seen((BOTH[0], a_child("chat-gateway", ready=0))),
            "False GatewayStarting",
            "True InProgress",
            "False Progressing",
        ),
        (seen(engine(updatedReplicas=0), probe=ANSWERS), "True Serving", "True InProgress", "False Progressing"),
        (seen(probe=ANSWERS, error="quota"), "False ApplyFailed", "True ApplyFailed", "False Progressing"),
        (seen((), error="invalid", error_is_final=True), "False ApplyFailed", "False ApplyFailed", "True ApplyFailed"),
        (seen((), refusal=REFUSED), "False SourceNotServed", "False SourceNotServed", "True SourceNotServed"),
        (
            seen(probe=ANSWERS, refusal=REFUSED),
            "False SourceNotServed",
            "False SourceNotServed",
            "True SourceNotServed",
        ),
    ],
)
def test_the_summary_follows_from_what_was_seen(
    observation: Observation, ready: str, reconciling: str, stalled: str
) -> None:
    found = facts(observation)
    assert (found["Ready"], found["Reconciling"], found["Stalled"]) == (ready, reconciling, stalled)


def test_ready_never_holds_without_an_answered_request() -> None:
    assert facts(seen(probe=None))["Ready"] == "False EndpointSilent"


def test_ready_carries_the_message_of_the_first_cause() -> None:
    ready = status(seen(engine(ready=0, **FAILING)), {}, NOON)["conditions"][0]
    assert ready["message"] == "0 of 1 engine pods are ready: container engine exited with 3"


def test_a_lost_engine_pod_ends_ready_while_others_serve() -> None:
    assert facts(seen(engine(desired=2, ready=1), probe=ANSWERS))["Ready"] == "False EnginesStarting"


def test_pods_of_an_old_generation_do_not_count_as_rolled_out() -> None:
    observation = seen(engine(observedGeneration=0), probe=ANSWERS)
    assert facts(observation)["Reconciling"] == "True InProgress"


def test_equal_inputs_give_an_equal_status_whatever_the_time() -> None:
    first = status(seen(probe=ANSWERS), {}, NOON)
    assert status(seen(probe=ANSWERS), first, NOON + timedelta(hours=1)) == first


def test_a_transition_time_moves_only_with_its_own_condition() -> None:
    before = status(seen(probe=ANSWERS), {}, NOON)
    after = status(seen(probe=SILENT), before, NOON + timedelta(hours=1))
    moved = {
        new["type"]
        for old, new in zip(before["conditions"], after["conditions"], strict=True)
        if old["lastTransitionTime"] != new["lastTransitionTime"]
    }
    assert moved == {"Ready", "Reconciling", "EndpointReady"}


def test_a_strange_previous_status_does_no_harm() -> None:
    previous = {"conditions": [{"type": "FromTheFuture"}, {"type": "Ready"}], "more": 1}
    assert status(seen(), previous, NOON)["conditions"]


def test_a_long_message_is_cut_to_what_the_schema_allows() -> None:
    long = status(seen(error="x" * 10_000), {}, NOON)
    FlashDeploymentStatus.model_validate(long)


def test_the_endpoint_is_probed_only_when_it_can_answer() -> None:
    assert may_probe(BOTH, "chat")
    assert not may_probe(engine(ready=0), "chat")
    assert not may_probe((), "chat")


def test_every_reason_has_a_cause_and_a_remedy() -> None:
    assert EXPLANATIONS.keys() == set(Reason)
    assert all(explanation.cause and explanation.remedy for explanation in EXPLANATIONS.values())


def test_the_status_tells_autoscalers_how_many_pods_there_are_and_which() -> None:
    engines = status(seen(engine(replicas=3)), {}, NOON)["engine"]
    assert engines["replicas"] == 3
    assert engines["selector"] == "flashplane.dev/deployment=chat,app.kubernetes.io/component=engine"


def test_what_is_not_known_is_left_out_of_the_status() -> None:
    assert None not in status(seen(), {}, NOON).values()


def test_a_pod_that_fails_is_no_outage_while_enough_others_serve() -> None:
    labels = {"app.kubernetes.io/component": "engine"}
    crashed = {"name": "engine", "restartCount": 3, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    crashed["lastState"] = {"terminated": {"exitCode": 1}}
    pod = {"metadata": {"name": "p", "labels": labels}, "status": {"containerStatuses": [crashed]}}
    two_of_three = engine(desired=3, ready=2)
    enough = facts(seen(two_of_three, probe=ANSWERS, pods=[pod], enough_engines=1))
    assert enough["EnginesReady"] == "True EnginesStarting"
    assert facts(seen(two_of_three, probe=ANSWERS, pods=[pod]))["EnginesReady"] == "False EnginesFailing"


def test_what_users_felt_is_written_when_it_moves_and_stays_while_nobody_asks() -> None:
    felt = seen(probe=ProbeResult(ok=True, message="", milliseconds={"ttft": 62.3, "tpot": 17.9}))
    first = status(felt, {}, NOON)
    assert first["latency"] == {"ttftMilliseconds": 62, "tpotMilliseconds": 18}
    for later in (ANSWERS, ProbeResult(ok=True, message="", milliseconds={"ttft": 70.0})):
        assert status(seen(probe=later), first, NOON)["latency"] == first["latency"]
    assert status(seen(), first, NOON)["latency"] == first["latency"]
