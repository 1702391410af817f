"""Why a deployment is as it is, in sentences."""

from typing import Any

import pytest
from builders import a_deployment, a_manifest

from flash_operator.cockpit.explain import explain
from flash_operator.cockpit.facts import Served
from flash_operator.plan import PlanSettings, plan


def a_condition(kind: str, status: str, reason: str, message: str = "") -> dict[str, Any]:
    time = "2026-01-01T12:00:00Z"
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": time}


def a_status(*conditions: dict[str, Any], **rest: Any) -> dict[str, Any]:
    ready = a_condition("Ready", "True", "Serving", "A request through the endpoint was answered.")
    counts = {"desired": 1, "replicas": 1, "ready": 1, "updated": 1}
    return {
        "observedGeneration": 1,
        "conditions": list(conditions) or [ready],
        "engine": counts,
        "gateway": counts,
        "endpoint": "http://chat-gateway.default.svc:8080/v1",
        **rest,
    }


def said(topic: str, *, status: dict[str, Any] | None = None, pods: Any = (), planned: Any = (), **spec: Any) -> str:
    manifest = a_manifest(status=a_status() if status is None else status, **spec)
    manifest["metadata"]["generation"] = 1
    return " ".join(each.text for each in explain(Served(manifest, pods), planned) if each.topic == topic)


NO_DRAFT = a_condition("DraftReady", "False", "DraftsStarting", "No node.")
FAILING = a_status(
    a_condition("Ready", "False", "EnginesFailing", "0 of 1 engine pods are ready: container pull ended with code 3."),
    a_condition("ModelReady", "Unknown", "EnginesFailing"),
    a_condition("EnginesReady", "False", "EnginesFailing", "0 of 1 engine pods are ready."),
    engine={"desired": 1, "replicas": 1, "ready": 0, "updated": 1},
    lastFailure={"pod": "p", "container": "pull", "exitCode": 3, "reason": "Error", "message": "digest mismatch"},
)
SCALED = a_status(
    engine={"desired": 4, "replicas": 4, "ready": 2, "updated": 4},
    scaling={
        "desiredReplicas": 4,
        "reason": "TtftAboveTarget",
        "message": "p90 TTFT 240 ms, target 150 ms",
        "history": [
            {"time": "2026-01-01T12:00:00Z", "fromReplicas": 2, "toReplicas": 4, "reason": "TtftAboveTarget"},
        ],
    },
)
ROLLING = a_status(engine={"desired": 2, "replicas": 3, "ready": 2, "updated": 1})
START = {
    "pod": "p",
    "scheduledMilliseconds": 1000,
    "modelMilliseconds": 21_000,
    "loadMilliseconds": 2500,
    "totalMilliseconds": 24_500,
}
PENDING = {"type": "PodScheduled", "status": "False", "message": "0/3 nodes are available."}


@pytest.mark.parametrize(
    ("topic", "case", "sentence"),
    [
        (
            "State",
            {},
            "Ready is True since 2026-01-01T12:00:00Z, Serving: A request through the endpoint was answered.",
        ),
        ("State", {"status": {}}, "Nothing is known: no operator has written a status."),
        ("State", {"status": a_status(observedGeneration=0)}, "generation 1 has not been looked at yet"),
        ("Blocks Ready", {"status": FAILING}, "EnginesReady is False (EnginesFailing): 0 of 1 engine pods are ready."),
        ("Blocks Ready", {"status": FAILING}, "Mend what the message names."),
        ("Engine pods", {}, "1 is wanted, because spec.engine.replicas is not set, which means 1."),
        ("Engine pods", {"engine": {"replicas": 3}}, "because spec.engine.replicas is 3."),
        ("Engine pods", {"suspend": True}, "because spec.suspend is true."),
        (
            "Engine pods",
            {"status": SCALED, "engine": {"autoscaling": {"maxReplicas": 8}}},
            "4 are wanted, because autoscaling decides between 1 and 8 "
            "(TtftAboveTarget: p90 TTFT 240 ms, target 150 ms).",
        ),
        ("Engine pods", {"status": SCALED, "engine": {"autoscaling": {"maxReplicas": 8}}}, "from 2 to 4"),
        ("Engine pods", {"status": ROLLING}, "a new pod must be ready before an old one goes"),
        ("Gateway pods", {"gateway": {"replicas": 1}}, "because spec.gateway.replicas is 1."),
        ("Rollout", {"status": ROLLING}, "1 of 2 engine pods are of the newest revision."),
        ("Rollout", {"rollout": {"paused": True}}, "because spec.rollout.paused is true"),
        ("Route", {}, "Clients use http://chat-gateway.default.svc:8080/v1, model chat."),
        ("Route", {}, "visibility is Private: it is meant for pods of its own namespace."),
        ("Route", {"endpoint": {"allowedNamespaces": ["web"]}}, "pods of its own namespace and of web"),
        (
            "Draft",
            {"draft": {"model": {}}, "status": a_status(draft={"desired": 1, "ready": 1, "active": True})},
            "1 is wanted, because there is one for each engine pod; 1 ready. They run where engine pods of their "
            "revision run (SameNode). Proposals are used.",
        ),
        (
            "Draft",
            {
                "draft": {"mode": "PromptLookup"},
                "status": a_status(draft={"active": False, "whyNot": "BelowBreakEven", "speedupPercent": 95}),
            },
            "they cost more than they bring at this load, with this text; engines try again by themselves. Answers are "
            "the same. Engines measure 0.95 times the speed without.",
        ),
        (
            "Draft",
            {
                "draft": {"model": {}},
                "status": a_status(NO_DRAFT),
            },
            "DraftReady is False (DraftsStarting): No node. Ready does not depend on it.",
        ),
        ("Route", {"gateway": {"auth": {"apiKeysSecretRef": {"name": "k"}}}}, "Keys are those of Secret k."),
        ("Nodes", {"residency": {"regions": ["eu-1"]}}, "spec.residency allows eu-1 only (Enforce)."),
        (
            "Nodes",
            {"pods": [{"metadata": {"name": "p"}, "status": {"conditions": [PENDING]}}]},
            "Pod p has no node: 0/3 nodes are available.",
        ),
        ("Nodes", {"pods": [{"metadata": {"name": "p"}, "spec": {"nodeName": "n7"}}]}, "Pod p is on node n7."),
        (
            "Start",
            {"status": a_status(coldStart=START)},
            "Pod p took 24.5 s to be ready: 1 s to a node, 21 s to fetch and pack the model, 2.5 s to load it and",
        ),
        ("Last failure", {"status": FAILING}, "Container pull of pod p ended with code 3 (Error): digest mismatch"),
    ],
)
def test_a_sentence_says_what_is_and_why(topic: str, case: dict[str, Any], sentence: str) -> None:
    assert sentence in said(topic, **case)


def test_of_a_draft_that_is_off_or_not_there_nothing_is_said() -> None:
    assert said("Draft") == said("Draft", draft={"mode": "Off"}) == ""


def test_nothing_blocks_what_is_ready() -> None:
    assert said("Blocks Ready") == ""


def test_the_nodes_of_the_plan_are_those_of_the_spec() -> None:
    planned = plan(a_deployment(), PlanSettings()).objects
    assert "any node that has room" in said("Nodes", planned=planned)
    rules = {
        "nodeSelector": {"disk": "ssd"},
        "affinity": {
            "nodeAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": {
                    "nodeSelectorTerms": [{"matchExpressions": [{"key": "region", "operator": "In", "values": ["eu"]}]}]
                }
            }
        },
    }
    engine = next(o for o in planned if o["kind"] == "Deployment" and o["metadata"]["name"].endswith("engine"))
    pod = {**engine["spec"]["template"]["spec"], **rules}
    changed = {**engine, "spec": {**engine["spec"], "template": {**engine["spec"]["template"], "spec": pod}}}
    assert "nodes where disk is ssd; region is one of eu." in said("Nodes", planned=[changed])
