"""What GitOps tools make of every status that the operator writes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
from gitops.argo import HEALTHS, HealthCheck, script
from gitops.kstatus import Kstatus, kstatus
from gitops.situations import (
    ANSWERS,
    FAILING,
    GENERATION,
    NOON,
    REFUSED,
    ROUTE,
    SILENT,
    STUCK,
    children,
    deployment,
    every_deployment,
    every_model,
    model,
    seen,
)

from flash_api.conditions import Reason
from flash_api.v1alpha1.status import LastFailure
from flash_operator.model_status import ModelObservation
from flash_operator.pulls import Pull, Stage

Manifest = dict[str, Any]


@pytest.fixture(scope="module")
def of_deployment() -> HealthCheck:
    return HealthCheck("FlashDeployment")


@pytest.fixture(scope="module")
def of_model() -> HealthCheck:
    return HealthCheck("FlashModel")


def stale(manifest: Manifest) -> Manifest:
    return {**manifest, "metadata": {**manifest["metadata"], "generation": GENERATION + 1}}


def leaving(manifest: Manifest) -> Manifest:
    return {**manifest, "metadata": {**manifest["metadata"], "deletionTimestamp": "2026-01-01T12:00:00Z"}}


SERVES = deployment(seen(probe=ANSWERS))
NEW = {key: value for key, value in SERVES.items() if key != "status"}
ASLEEP = children({"desired": 0}, {"desired": 0})

TABLE: dict[str, tuple[Manifest, str, Kstatus]] = {
    "serving": (SERVES, "Healthy", Kstatus.CURRENT),
    "just created": (NEW, "Progressing", Kstatus.CURRENT),
    "edited, not yet looked at": (stale(SERVES), "Progressing", Kstatus.IN_PROGRESS),
    "being deleted": (leaving(SERVES), "Progressing", Kstatus.TERMINATING),
    "nothing made yet": (deployment(seen(())), "Progressing", Kstatus.IN_PROGRESS),
    "engines start": (deployment(seen(children({"ready": 0}))), "Progressing", Kstatus.IN_PROGRESS),
    "engines crash": (deployment(seen(children({"ready": 0, **FAILING}))), "Progressing", Kstatus.IN_PROGRESS),
    "engines are stuck": (deployment(seen(children({"ready": 0, **STUCK}))), "Degraded", Kstatus.FAILED),
    "one of two engines lost": (
        deployment(seen(children({"desired": 2, "ready": 1}), probe=ANSWERS)),
        "Progressing",
        Kstatus.IN_PROGRESS,
    ),
    "pods are being replaced": (
        deployment(seen(children({"updatedReplicas": 0}), probe=ANSWERS)),
        "Progressing",
        Kstatus.IN_PROGRESS,
    ),
    "gateway starts": (deployment(seen(children({}, {"ready": 0}))), "Progressing", Kstatus.IN_PROGRESS),
    "gateway is stuck": (deployment(seen(children({}, {"ready": 0, **STUCK}))), "Degraded", Kstatus.FAILED),
    "endpoint is silent": (deployment(seen(probe=SILENT)), "Progressing", Kstatus.IN_PROGRESS),
    "refused": (deployment(seen((), refusal=REFUSED)), "Degraded", Kstatus.FAILED),
    "refused while old pods serve": (deployment(seen(probe=ANSWERS, refusal=REFUSED)), "Degraded", Kstatus.FAILED),
    "cluster refuses for now": (deployment(seen(probe=ANSWERS, error="quota")), "Progressing", Kstatus.IN_PROGRESS),
    "cluster refuses for good": (
        deployment(seen((), error="invalid", error_is_final=True)),
        "Degraded",
        Kstatus.FAILED,
    ),
    "children may not be read": (deployment(seen((), unread="forbidden")), "Progressing", Kstatus.IN_PROGRESS),
    "a kind is missing": (deployment(seen(probe=ANSWERS, missing_kinds=(ROUTE,))), "Degraded", Kstatus.FAILED),
    "scaled to zero": (deployment(seen(children({"desired": 0}))), "Healthy", Kstatus.IN_PROGRESS),
    "suspended": (
        deployment(seen(ASLEEP, suspended=True), suspend=True),
        "Suspended",
        Kstatus.IN_PROGRESS,
    ),
    "on its way to suspended": (
        deployment(seen(children({"desired": 0}, {"desired": 0, "replicas": 1}), suspended=True), suspend=True),
        "Progressing",
        Kstatus.IN_PROGRESS,
    ),
    "rollout paused while serving": (
        deployment(seen(children({"updatedReplicas": 0}), probe=ANSWERS, paused=True)),
        "Suspended",
        Kstatus.CURRENT,
    ),
    "rollout paused without a pod": (
        deployment(seen(children({"ready": 0, "replicas": 0, "updatedReplicas": 0}), paused=True)),
        "Suspended",
        Kstatus.IN_PROGRESS,
    ),
}


@pytest.mark.parametrize(("manifest", "health", "verdict"), TABLE.values(), ids=TABLE.keys())
def test_a_situation_has_the_health_that_people_expect(
    of_deployment: HealthCheck, manifest: Manifest, health: str, verdict: Kstatus
) -> None:
    assert (of_deployment(manifest)[0], kstatus(manifest)) == (health, verdict)


def pull(stage: Stage, code: int | None = None) -> Pull:
    failure = LastFailure(container="pull", exit_code=code, message="no") if code is not None else None
    return Pull("Lite", "olmoe-pull-lite", stage, failure)


BOUND = {"status": {"phase": "Bound"}}
MODELS: dict[str, tuple[ModelObservation, str, Kstatus]] = {
    "packed": (ModelObservation(GENERATION, [pull(Stage.DONE)], claim=BOUND), "Healthy", Kstatus.CURRENT),
    "nothing made yet": (ModelObservation(GENERATION, [pull(Stage.ABSENT)]), "Progressing", Kstatus.IN_PROGRESS),
    "pulled": (ModelObservation(GENERATION, [pull(Stage.RUNNING)], claim=BOUND), "Progressing", Kstatus.IN_PROGRESS),
    "refused": (ModelObservation(GENERATION, refusal=REFUSED), "Degraded", Kstatus.FAILED),
    "Jobs may not be read": (ModelObservation(GENERATION, unread="forbidden"), "Progressing", Kstatus.IN_PROGRESS),
    "cluster refuses for good": (
        ModelObservation(GENERATION, [pull(Stage.ABSENT)], error="invalid", error_is_final=True),
        "Degraded",
        Kstatus.FAILED,
    ),
}


@pytest.mark.parametrize(("observation", "health", "verdict"), MODELS.values(), ids=MODELS.keys())
def test_a_model_has_the_health_that_people_expect(
    of_model: HealthCheck, observation: ModelObservation, health: str, verdict: Kstatus
) -> None:
    manifest = model(observation)
    assert (of_model(manifest)[0], kstatus(manifest)) == (health, verdict)


AGREED = {Kstatus.CURRENT: {"Healthy"}, Kstatus.FAILED: {"Degraded"}, Kstatus.IN_PROGRESS: {"Progressing"}}
WISHES = {Reason.SCALED_TO_ZERO: "Healthy", Reason.SUSPENDED: "Suspended", Reason.ROLLOUT_PAUSED: "Suspended"}
"""Where somebody got what they asked for, Argo CD has a word that kstatus lacks."""


def check(manifest: Manifest, health: str, message: str) -> None:
    """What must hold of any status whatever."""
    conditions = {c["type"]: c for c in manifest["status"]["conditions"]}
    verdict = kstatus(manifest)
    assert health in HEALTHS
    assert message
    assert {"Ready", "Reconciling", "Stalled"} <= conditions.keys(), "a missing Ready reads as Current"
    assert not conditions["Reconciling"]["status"] == conditions["Stalled"]["status"] == "True"
    asked_for = {WISHES[Reason(c["reason"])] for c in conditions.values() if Reason(c["reason"]) in WISHES}
    suspended = {"Suspended"} if manifest["spec"].get("suspend") else set()
    assert health in AGREED[verdict] | asked_for | suspended, manifest["status"]["conditions"]
    if health == "Healthy" and conditions["Ready"]["reason"] != Reason.SCALED_TO_ZERO:
        assert conditions["Ready"]["status"] == "True"
        assert conditions["Reconciling"]["status"] == "False"


@pytest.mark.parametrize(
    ("kind", "every"), [("FlashDeployment", every_deployment), ("FlashModel", every_model)], ids=str
)
def test_argo_cd_and_kstatus_agree_on_everything_that_the_operator_can_see(
    kind: str, every: Callable[[], Any], capsys: pytest.CaptureFixture[str]
) -> None:
    health_of, found = HealthCheck(kind), Counter[str]()
    for manifest in every():
        health, message = health_of(manifest)
        check(manifest, health, message)
        assert health_of(stale(manifest))[0] == health_of(leaving(manifest))[0] == "Progressing"
        found[health] += 1
    assert {"Healthy", "Progressing", "Degraded"} <= found.keys()
    assert found.total() > 100
    with capsys.disabled():
        print(f" [{kind}: {dict(found)}]", end="")


def test_time_alone_changes_no_verdict(of_deployment: HealthCheck) -> None:
    later = replace(seen(probe=ANSWERS))
    assert of_deployment(deployment(later, SERVES["status"])) == of_deployment(SERVES)
    assert NOON.year == 2026


def test_both_kinds_are_judged_by_one_rule() -> None:
    assert script("FlashDeployment") == script("FlashModel")
