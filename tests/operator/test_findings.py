"""What is wrong is named, with its cause and its remedy; what is well is not called wrong."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import a_manifest, a_model_manifest

from flash_api import names
from flash_api.crd import RESOURCES, custom_resource_definition
from flash_operator.cockpit.facts import ClusterFacts, OperatorFacts, Served
from flash_operator.cockpit.findings import Finding, Severity, findings
from flash_operator.cockpit.permissions import NEEDED, Permission

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
RULES = Path(__file__).parents[2] / "charts" / "flashplane" / "files" / "rules.yaml"
CRDS = {f"{resource.plural}.{names.GROUP}": custom_resource_definition(resource) for resource in RESOURCES}
FD = f"{names.PLURAL}.{names.GROUP}"


def a_lease(holder: str = "operator-0-ab12", renewed: str = "2026-01-01T11:59:58.000000Z") -> dict[str, Any]:
    spec = {"holderIdentity": holder, "leaseDurationSeconds": 15, "renewTime": renewed}
    return {"metadata": {"name": "flashplane-operator"}, "spec": spec}


def served(
    ready: str = "True Serving", *, stalled: str = "False", message: str = "", pods: Sequence[Any] = (), **spec: Any
) -> Served:
    status, reason = ready.split()
    conditions = [
        {"type": "Ready", "status": status, "reason": reason, "message": message},
        {"type": "Stalled", "status": stalled, "reason": reason, "message": message},
    ]
    manifest = a_manifest(status={"observedGeneration": 1, "conditions": conditions}, **spec)
    manifest["metadata"]["generation"] = 1
    return Served(manifest, pods)


def a_pod(*containers: dict[str, Any], component: str = "engine", **status: Any) -> dict[str, Any]:
    labels = {names.LABEL_DEPLOYMENT: "chat", names.LABEL_COMPONENT: component}
    return {"metadata": {"name": "pod-1", "labels": labels}, "status": {"containerStatuses": containers, **status}}


def waits(reason: str, message: str, **rest: Any) -> dict[str, Any]:
    return {"name": "engine", "state": {"waiting": {"reason": reason, "message": message}}, **rest}


def facts(**changes: Any) -> ClusterFacts:
    well = ClusterFacts(
        now=NOON,
        version="v1.34.0",
        crds=CRDS,
        operator=OperatorFacts("flashplane-system", lease=a_lease(), ailments="", denied=()),
        served=(served(),),
        kinds={"NetworkPolicy": True, "HTTPRoute": True, "PodMonitor": True},
    )
    return replace(well, **changes)


def operator(**changes: Any) -> ClusterFacts:
    return facts(operator=replace(facts().operator, **changes))


def wrong(seen: ClusterFacts) -> list[Finding]:
    return [finding for finding in findings(seen) if finding.severity in (Severity.ERROR, Severity.WARNING)]


def old_crd() -> dict[str, Any]:
    crd = yaml.safe_load(yaml.safe_dump(CRDS[FD]))
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    del schema["properties"]["variant"]
    return dict(crd)


def test_nothing_is_wrong_with_what_is_well() -> None:
    assert wrong(facts()) == []
    assert all(finding.severity is not Severity.WARNING for finding in findings(facts()))


CRASHED = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "finishedAt": "2026-01-01T11:00:00Z"}}
UNSCHEDULABLE = {
    "type": "PodScheduled",
    "status": "False",
    "message": "0/3 nodes are available: 3 Insufficient memory.",
}


@pytest.mark.parametrize(
    ("seen", "subject", "cause", "remedy"),
    [
        (ClusterFacts(now=NOON, unreachable="refused"), "Kubernetes API", "refused", "kubeconfig"),
        (facts(crds={**CRDS, FD: None}), f"CRD {FD}", "not installed", "flash crds -f -"),
        (facts(crds={**CRDS, FD: old_crd()}), f"CRD {FD}", "not the one of this version", "flash crds -f -"),
        (operator(lease=None), "operator in flashplane-system", "No operator has ever led", "Install the operator"),
        (operator(lease=a_lease("")), "operator in flashplane-system", "No operator leads", "Start it"),
        (
            operator(lease=a_lease(renewed="2026-01-01T11:00:00.000000Z")),
            "operator in flashplane-system",
            "expired: operator-0-ab12 renewed it last 3600 s ago",
            "get pods",
        ),
        (operator(ailments="events of kind Service"), "operator in", "/livez says: events of kind Service", "liveness"),
        (
            operator(denied=(Permission("apps", "deployments", "patch"),)),
            "permissions of the operator",
            "may not patch deployments of group apps",
            "helm upgrade",
        ),
        (
            facts(served=(served(pods=[a_pod(waits("CrashLoopBackOff", "", restartCount=3, lastState=CRASHED))]),)),
            "engine pods of default/chat",
            "ended with code 137 (OOMKilled)",
            "more memory",
        ),
        (
            facts(served=(served(pods=[a_pod(waits("ImagePullBackOff", "not found"))]),)),
            "engine pods of default/chat",
            "cannot start (ImagePullBackOff): not found",
            "image's name",
        ),
        (
            facts(served=(served(pods=[a_pod(conditions=[UNSCHEDULABLE])]),)),
            "engine pods of default/chat",
            "has no node: 0/3 nodes are available",
            "Add a node",
        ),
        (
            facts(
                served=(served(gateway={"auth": {"apiKeysSecretRef": {"name": "keys"}}}),),
                secrets={("default", "keys"): False},
            ),
            "FlashDeployment default/chat",
            "Secret keys, which its spec names, does not exist",
            "create secret generic keys",
        ),
        (
            facts(served=(served("False SourceNotServed", stalled="True", message="spec.model.sha256 must be set"),)),
            "FlashDeployment default/chat",
            "Ready is False (SourceNotServed): spec.model.sha256 must be set",
            "write its SHA-256",
        ),
        (
            facts(served=(Served({**a_manifest(), "metadata": {**a_manifest()["metadata"], "generation": 1}}),)),
            "FlashDeployment default/chat",
            "No operator has looked",
            "must run",
        ),
        (
            facts(served=(served(endpoint={"gatewayRef": {"name": "edge"}}),), kinds={"HTTPRoute": False}),
            "kind HTTPRoute",
            "knows no HTTPRoute, which FlashDeployment default/chat asks for",
            "Gateway API",
        ),
    ],
)
def test_what_is_wrong_is_named_with_cause_and_remedy(
    seen: ClusterFacts, subject: str, cause: str, remedy: str
) -> None:
    (finding,) = wrong(seen)
    assert finding.severity is Severity.ERROR
    assert finding.subject.startswith(subject)
    assert cause in finding.cause
    assert remedy in finding.remedy


@pytest.mark.parametrize(
    ("ready", "severity"),
    [
        ("False EnginesStarting", Severity.WARNING),
        ("False ScaledToZero", Severity.NOTE),
        ("False Suspended", Severity.NOTE),
        ("False EndpointSilent", Severity.ERROR),
        ("False EnginesFailing", Severity.ERROR),
    ],
)
def test_work_under_way_and_rest_are_not_called_errors(ready: str, severity: Severity) -> None:
    found = [each for each in findings(facts(served=(served(ready),))) if each.subject.startswith("FlashDeployment")]
    assert [each.severity for each in found] == [severity]


def test_drafts_that_do_not_work_are_a_warning_with_the_schedulers_words() -> None:
    well = served()
    said = {"type": "DraftReady", "status": "False", "reason": "DraftsStarting", "message": "pod d has no node: full"}
    status = {**well.status, "conditions": [*well.status["conditions"], said]}
    found = findings(facts(served=(replace(well, manifest={**well.manifest, "status": status}),)))
    (finding,) = [each for each in found if each.subject == "draft pods of default/chat"]
    assert finding.severity is Severity.WARNING
    assert "pod d has no node: full (DraftsStarting). Answers are the same" in finding.cause
    assert "spec.draft.placement" in finding.remedy


def test_what_could_not_be_looked_at_is_said_and_not_judged() -> None:
    unseen = facts(unseen=("leases: forbidden",), operator=replace(facts().operator, lease=None, denied=None))
    assert wrong(unseen) == []
    assert [each.cause for each in findings(unseen) if each.subject == "not looked at"] == ["leases: forbidden"]


def test_the_permissions_asked_for_are_those_that_the_chart_grants() -> None:
    granted = {
        (group, resource, verb)
        for part, rules in yaml.safe_load(RULES.read_text()).items()
        if part != "externalMetrics"  # served only where the chart is told to
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert {(each.group, each.resource, each.verb) for each in NEEDED} == granted


@pytest.mark.parametrize(
    ("status", "reason", "stalled", "severity"),
    [
        ("True", "ModelPacked", "False", Severity.OK),
        ("False", "Downloading", "False", Severity.WARNING),
        ("False", "SourceUnreachable", "False", Severity.ERROR),
        ("False", "ModelNotSupported", "True", Severity.ERROR),
    ],
)
def test_a_shared_model_is_judged_like_a_deployment(status: str, reason: str, stalled: str, severity: Severity) -> None:
    conditions = [
        {"type": "Ready", "status": status, "reason": reason, "message": "why"},
        {"type": "Stalled", "status": stalled, "reason": reason},
    ]
    manifest = {**a_model_manifest(), "status": {"observedGeneration": 1, "conditions": conditions}}
    manifest["metadata"]["generation"] = 1
    (found,) = (each for each in findings(facts(models=(manifest,))) if each.subject == "FlashModel default/olmoe")
    assert found.severity is severity
    assert status == "True" or reason in found.cause
