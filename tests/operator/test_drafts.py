"""What draft pods mean for the conditions, and what the status says that proposals are worth."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from builders import a_child, a_deployment

from flash_api import names
from flash_api.conditions import ConditionType, Reason, Refusal
from flash_api.draft_report import DraftReport, told
from flash_operator.checks import DraftSharesTokenizer
from flash_operator.drafts import worth
from flash_operator.observation import Observation, ProbeResult
from flash_operator.shared_model import ModelUse, SharedModel
from flash_operator.status import condition, status
from flash_operator.steady import Steady

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DRAFT = a_deployment(draft={"model": {"source": "file:///draft"}}).spec.draft
FAILING = {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "container draft ended with code 3"}]}
STUCK = {"conditions": [{"type": "Progressing", "status": "False", "message": "no progress"}]}
PENDING = {
    "metadata": {"name": "chat-draft-r1-x", "labels": {names.LABEL_COMPONENT: "draft"}},
    "status": {"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes: Insufficient cpu."}]},
}


def labelled(child: dict[str, Any], revision: str) -> dict[str, Any]:
    return {**child, "metadata": {**child["metadata"], "labels": {names.LABEL_DRAFT_REVISION: revision}}}


def seen(*drafts: dict[str, Any], report: DraftReport | None = None, **rest: Any) -> Observation:
    children = (labelled(a_child("chat-engine"), "r1"), a_child("chat-gateway"), *drafts)
    probe = ProbeResult(ok=True, message="", draft=report)
    return Observation(name="chat", generation=3, children=children, probe=probe, **{"draft": DRAFT, **rest})


def facts(observation: Observation, previous: Any = None) -> dict[str, str]:
    found = status(observation, previous or {}, NOON)["conditions"]
    return {c["type"]: f"{c['status']} {c['reason']}" for c in found}


def drafts(**changes: Any) -> dict[str, Any]:
    return a_child("chat-draft-r1", **changes)


@pytest.mark.parametrize(
    ("observation", "draft_ready", "reconciling"),
    [
        (seen(drafts()), "True DraftsReady", "False Settled"),
        (seen(), "False DraftsMissing", "False Settled"),
        (seen(drafts(ready=0)), "False DraftsStarting", "True InProgress"),
        (seen(drafts(ready=0), pods=(PENDING,)), "False DraftsStarting", "False Settled"),
        (seen(drafts(ready=0, **FAILING)), "False DraftsFailing", "False Settled"),
        (seen(drafts(ready=0, **STUCK)), "False DraftsStuck", "False Settled"),
        (seen(drafts(updatedReplicas=0)), "True DraftsUpdating", "True InProgress"),
        (seen(drafts(desired=0), suspended=True), "False Suspended", "False Settled"),
        (seen(drafts(desired=0)), "False ScaledToZero", "False Settled"),
        (seen(a_child("chat-draft-r0")), "False DraftsMissing", "False Settled"),
        (
            seen(draft_model=ModelUse(SharedModel("nano"), a_deployment().spec.variant, Reason.MODEL_NOT_CACHED, "no")),
            "False ModelNotCached",
            "False Settled",
        ),
        (
            seen(drafts(), report=DraftReport(active=False, why_not="below_break_even")),
            "True BelowBreakEven",
            "False Settled",
        ),
        (
            seen(drafts(), report=DraftReport(active=False, why_not="tokenizer")),
            "False TokenizerDiffers",
            "False Settled",
        ),
    ],
)
def test_drafts_are_told_and_ready_never_depends_on_them(
    observation: Observation, draft_ready: str, reconciling: str
) -> None:
    found = facts(observation)
    assert found["DraftReady"] == draft_ready
    assert found["Reconciling"] == reconciling
    assert found["Ready"] == "True Serving"
    assert found["Stalled"].startswith("False")


def test_why_a_draft_has_no_node_is_told_in_the_schedulers_words() -> None:
    found = condition(status(seen(drafts(ready=0), pods=(PENDING,)), {}, NOON), ConditionType.DRAFT_READY)
    assert found is not None
    assert "Insufficient cpu; it waits for room near an engine pod" in found["message"]


def test_without_draft_pods_there_is_no_condition_and_without_a_draft_no_status() -> None:
    lookup = a_deployment(draft={"mode": "PromptLookup"}).spec.draft
    report = DraftReport(active=True, acceptance=0.5)
    found = status(seen(draft=lookup, report=report), {}, NOON)
    assert condition(found, ConditionType.DRAFT_READY) is None
    assert (found["draft"]["active"], found["draft"]["acceptancePercent"], found["draft"]["selector"]) == (True, 50, "")
    assert "draft" not in status(seen(draft=None, report=report), {}, NOON)


def test_a_draft_of_another_tokenizer_is_refused_and_says_so_twice() -> None:
    refusal = Refusal(Reason.DRAFT_SHARES_TOKENIZER, "spec.draft.model has a tokenizer of SHA-256 b")
    found = facts(seen(drafts(), refusal=refusal))
    assert (found["Accepted"], found["DraftReady"]) == ("False DraftSharesTokenizer", "False TokenizerDiffers")
    assert (found["Ready"], found["Stalled"]) == ("False DraftSharesTokenizer", "True DraftSharesTokenizer")


def test_counts_and_figures_are_in_the_status() -> None:
    report = DraftReport(active=True, acceptance=0.713, tokens_per_step=2.44, speedup=1.682)
    found = status(seen(drafts(desired=2), report=report), {}, NOON)["draft"]
    assert found == {
        "desired": 2,
        "replicas": 2,
        "ready": 2,
        "updated": 2,
        "starting": 0,
        "selector": "flashplane.dev/deployment=chat,app.kubernetes.io/component=draft",
        "active": True,
        "acceptancePercent": 71,
        "tokensPerStep": "2.4",
        "speedupPercent": 168,
    }


WRITTEN = {"active": True, "acceptancePercent": 70, "tokensPerStep": "2.4", "speedupPercent": 160}


@pytest.mark.parametrize(
    ("report", "changes"),
    [
        (None, {}),
        (DraftReport(), {}),
        (DraftReport(active=True, acceptance=0.73, tokens_per_step=2.5, speedup=1.65), {}),
        (DraftReport(acceptance=0.76), {"acceptance_percent": 76}),
        (DraftReport(tokens_per_step=2.0), {"tokens_per_step": "2.0"}),
        (DraftReport(speedup=1.2), {"speedup_percent": 120}),
        (DraftReport(active=False, why_not="late"), {"active": False, "why_not": "Late"}),
        (DraftReport(active=False, why_not="revision"), {"active": False, "why_not": "RevisionDiffers"}),
    ],
)
def test_figures_that_wobble_are_not_written_again(report: DraftReport | None, changes: dict[str, Any]) -> None:
    unchanged = worth(None, WRITTEN)
    assert worth(report, WRITTEN) == {**unchanged, **changes}
    known = Steady("http://chat/readyz", None, WRITTEN)
    assert known.holds(ProbeResult(ok=True, message="", draft=report)) is (not changes)


def test_a_reason_stays_as_long_as_nobody_generates() -> None:
    idle = {"active": False, "whyNot": "BelowBreakEven"}
    assert facts(seen(drafts()), {"draft": idle})["DraftReady"] == "True BelowBreakEven"


@pytest.mark.parametrize("header", ["", "no json", '{"acceptance": 7}', '{"active": "x"}', "[" * 2000])
def test_a_header_that_is_not_ours_says_nothing(header: str) -> None:
    assert told(header) is None


def test_a_report_survives_the_way() -> None:
    report = DraftReport(active=False, why_not="below_break_even", acceptance=0.25, tokens_per_step=1.2, speedup=0.9)
    assert told(report.encode()) == report


def a_pod(component: str, tokenizer: str, *, revision: str = "r1") -> dict[str, Any]:
    words = {"exitCode": 0, "message": json.dumps({"name": "m", "tokenizer": tokenizer})}
    return {
        "metadata": {
            "name": f"chat-{component}",
            "labels": {names.LABEL_COMPONENT: component, names.LABEL_DRAFT_REVISION: revision},
        },
        "status": {"initContainerStatuses": [{"name": "pull", "state": {"terminated": words}}]},
    }


def test_two_tokenizers_are_refused_with_both_hashes() -> None:
    found = DraftSharesTokenizer([a_pod("engine", "a" * 64), a_pod("draft", "b" * 64)], "r1")
    assert found is not None
    assert found.reason is Reason.DRAFT_SHARES_TOKENIZER
    assert "a" * 64 in found.message
    assert "b" * 64 in found.message
    assert "spec.draft.model" in found.remedy


@pytest.mark.parametrize(
    "pods",
    [
        [],
        [a_pod("engine", "a")],
        [a_pod("draft", "b")],
        [a_pod("engine", "a"), a_pod("draft", "a")],
        [a_pod("engine", "a"), a_pod("draft", "b", revision="r0")],
        [a_pod("engine", "a"), a_pod("draft", "")],
    ],
)
def test_what_is_alike_or_not_known_yet_is_not_refused(pods: list[dict[str, Any]]) -> None:
    assert DraftSharesTokenizer(pods, "r1") is None


def test_flashmodels_say_it_before_a_pod_has_pulled() -> None:
    assert DraftSharesTokenizer([], "r1", of_model="a", of_draft="b") is not None
    assert DraftSharesTokenizer([a_pod("draft", "b")], "r1", of_model="a") is not None
    assert DraftSharesTokenizer([], "r1", of_model="a", of_draft="a") is None
