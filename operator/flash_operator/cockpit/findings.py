"""What is wrong with a cluster or an installation, each with cause and remedy. Pure: facts in, findings out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

from flash_api import names
from flash_api.conditions import EXPLANATIONS, ConditionType, Reason
from flash_api.crd import RESOURCES, custom_resource_definition
from flash_operator import pod_reports
from flash_operator.cockpit.facts import ClusterFacts, Served
from flash_operator.difference import is_as_planned
from flash_operator.lease import LeaseRecord

LEASE_SLACK_SECONDS: Final = 30.0
"""On top of the lease's own duration: clocks of two machines differ."""
APPLY_CRDS: Final = "flash crds -f - | kubectl apply --server-side -f -"
_AT_REST: Final = frozenset({Reason.SCALED_TO_ZERO, Reason.SUSPENDED})
_REMEDIES: Final = {
    "ImagePullBackOff": "Check the image's name and that nodes may pull it, or load it into the nodes.",
    "OOMKilled": "Give it more memory: spec.engine.resources.memory (or gateway.resources.memory).",
    "CreateContainerConfigError": "Create the Secret or ConfigMap that the message names.",
}


class Severity(StrEnum):
    """How much a finding matters."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"
    OK = "ok"


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    severity: Severity
    subject: str
    cause: str
    remedy: str = ""


def findings(facts: ClusterFacts) -> tuple[Finding, ...]:
    """Everything found, in the order in which one would mend it: what makes the rest fail comes first."""
    if facts.unreachable:
        remedy = "Check the address and the credentials of the kubeconfig, and that the cluster runs: kubectl version."
        return (Finding(Severity.ERROR, "Kubernetes API", facts.unreachable, remedy),)
    return tuple(finding for look in _LOOKS for finding in look(facts))


def _api(facts: ClusterFacts) -> Iterator[Finding]:
    yield Finding(Severity.OK, "Kubernetes API", f"answers, version {facts.version or 'unknown'}.")


def _crds(facts: ClusterFacts) -> Iterator[Finding]:
    for resource in RESOURCES:
        name = f"{resource.plural}.{names.GROUP}"
        if name not in facts.crds:
            continue
        live, subject = facts.crds[name], f"CRD {name}"
        if live is None:
            yield Finding(Severity.ERROR, subject, "It is not installed.", f"Install it: {APPLY_CRDS}")
        elif not is_as_planned(live, custom_resource_definition(resource)):
            cause = "It is not the one of this version: fields or rules that this program knows are not in it."
            yield Finding(Severity.ERROR, subject, cause, f"Bring it up to date: {APPLY_CRDS}")
        else:
            yield Finding(Severity.OK, subject, "is installed and of this version.")


def _operator_leads(facts: ClusterFacts) -> Iterator[Finding]:
    subject = f"operator in {facts.operator.namespace}"
    if any("leases" in unseen for unseen in facts.unseen):
        return
    start = f"Start it, and see why it ended: kubectl -n {facts.operator.namespace} get pods"
    if facts.operator.lease is None:
        cause = f"No operator has ever led here: there is no Lease in namespace {facts.operator.namespace}."
        remedy = "Install the operator, or name its namespace: --operator-namespace."
        yield Finding(Severity.ERROR, subject, cause, remedy)
        return
    record = LeaseRecord.from_manifest(facts.operator.lease)
    if not record.holder:
        yield Finding(Severity.ERROR, subject, "No operator leads: the last one has stopped and let go.", start)
        return
    age = _age_seconds(record.renew_time, facts.now)
    if age is None or age > record.duration_seconds + LEASE_SLACK_SECONDS:
        since = "never" if age is None else f"{age:.0f} s ago"
        cause = f"Its Lease has expired: {record.holder} renewed it last {since}."
        yield Finding(Severity.ERROR, subject, cause, start)
        return
    yield Finding(Severity.OK, subject, f"leads as {record.holder}.")


def _operator_watches(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.operator.ailments:
        cause = f"/livez says: {facts.operator.ailments}"
        remedy = "Kubernetes restarts it by its liveness probe; if it has none, delete its pod."
        yield Finding(Severity.ERROR, f"operator in {facts.operator.namespace}", cause, remedy)


def _permissions(facts: ClusterFacts) -> Iterator[Finding]:
    if facts.operator.denied is None:
        return
    for permission in facts.operator.denied:
        cause = f"It may not {permission}, which it needs."
        remedy = "Grant it: helm upgrade the chart, whose files/rules.yaml lists all that it needs."
        yield Finding(Severity.ERROR, "permissions of the operator", cause, remedy)
    if not facts.operator.denied:
        yield Finding(Severity.OK, "permissions of the operator", "are sufficient.")


def _kinds(facts: ClusterFacts) -> Iterator[Finding]:
    routed = [served.label for served in facts.served if (served.spec.get("endpoint") or {}).get("gatewayRef")]
    if routed and facts.kinds.get("HTTPRoute") is False:
        cause = f"This cluster knows no HTTPRoute, which {', '.join(routed)} asks for."
        remedy = "Install the Gateway API, or use spec.endpoint.ingressClassName."
        yield Finding(Severity.ERROR, "kind HTTPRoute", cause, remedy)
    for kind, without in (
        ("HTTPRoute", "spec.endpoint.gatewayRef cannot be used"),
        ("PodMonitor", "Prometheus must be told by other means where to scrape"),
    ):
        if facts.kinds.get(kind) is False and not (kind == "HTTPRoute" and routed):
            yield Finding(Severity.NOTE, f"kind {kind}", f"This cluster does not know it: {without}.")
    if facts.kinds.get("NetworkPolicy"):
        cause = "It is known. Whether this cluster's network enforces it cannot be read from the API."
        yield Finding(Severity.NOTE, "kind NetworkPolicy", cause)


def _secrets(facts: ClusterFacts) -> Iterator[Finding]:
    for served in facts.served:
        for name in named_secrets(served):
            if facts.secrets.get((served.namespace, name)) is False:
                cause = f"Secret {name}, which its spec names, does not exist in namespace {served.namespace}."
                remedy = f"Create it: kubectl -n {served.namespace} create secret generic {name} --from-literal=KEY=…"
                yield Finding(Severity.ERROR, served.label, cause, remedy)


def _deployments(facts: ClusterFacts) -> Iterator[Finding]:
    for served in facts.served:
        yield _judged(served, served.label)
        drafts = served.condition(ConditionType.DRAFT_READY)
        if drafts and drafts["status"] == "False" and drafts.get("reason") not in _AT_REST:
            reason = str(drafts.get("reason", ""))
            explained = EXPLANATIONS.get(Reason(reason)) if reason in set(Reason) else None
            cause = f"{drafts.get('message') or reason} ({reason}). Answers are the same, and slower."
            remedy = explained.remedy if explained else ""
            yield Finding(Severity.WARNING, f"draft pods of {served.namespace}/{served.name}", cause, remedy)


def _judged(served: Served, label: str) -> Finding:
    ready, stalled = served.condition(ConditionType.READY), served.condition(ConditionType.STALLED)
    generation = served.manifest["metadata"].get("generation", 0)
    if not ready or served.status.get("observedGeneration", 0) < generation:
        cause = f"No operator has looked at its generation {generation} yet."
        remedy = "See the findings about the operator: it must run, and serve this namespace."
        return Finding(Severity.ERROR, label, cause, remedy)
    if ready["status"] == "True":
        return Finding(Severity.OK, label, "is Ready.")
    reason = str(ready.get("reason", ""))
    explained = EXPLANATIONS.get(Reason(reason)) if reason in set(Reason) else None
    cause = f"Ready is {ready['status']} ({reason}): {ready.get('message') or (explained.cause if explained else '')}"
    if reason in _AT_REST:
        severity = Severity.NOTE
    else:
        starts = reason.endswith(("Starting", "Updating", "Missing", "Loading", "Downloading", "Packing", "NotCached"))
        severity = Severity.WARNING if starts and stalled.get("status") != "True" else Severity.ERROR
    return Finding(severity, label, cause, explained.remedy if explained else "")


def _models(facts: ClusterFacts) -> Iterator[Finding]:
    for model in facts.models:
        yield _judged(Served(model), f"{names.MODEL_KIND} {model['metadata']['namespace']}/{model['metadata']['name']}")


def _pods(facts: ClusterFacts) -> Iterator[Finding]:
    for served in facts.served:
        for component in (names.COMPONENT_ENGINE, names.COMPONENT_GATEWAY):
            subject = f"{component} pods of {served.namespace}/{served.name}"
            if failing := pod_reports.failing(served.pods, component):
                remedy = next((say for word, say in _REMEDIES.items() if word in failing), "")
                logs = f"kubectl -n {served.namespace} logs -l {names.LABEL_DEPLOYMENT}={served.name} --all-containers"
                yield Finding(Severity.ERROR, subject, f"{_sentence(failing)}", remedy or f"Read its log: {logs}")
            if waiting := pod_reports.waiting(served.pods, component):
                remedy = "Add a node that fits, or ask for less: spec.engine.resources, spec.placement, spec.residency."
                yield Finding(Severity.ERROR, subject, _sentence(waiting), remedy)


def _unseen(facts: ClusterFacts) -> Iterator[Finding]:
    for text in facts.unseen:
        yield Finding(Severity.NOTE, "not looked at", text)


def named_secrets(served: Served) -> tuple[str, ...]:
    """Secrets without which the deployment cannot work."""
    spec = served.spec
    references = (
        ((spec.get("gateway") or {}).get("auth") or {}).get("apiKeysSecretRef"),
        (spec.get("model") or {}).get("credentialsSecretRef"),
        ((spec.get("draft") or {}).get("model") or {}).get("credentialsSecretRef"),
    )
    return tuple(dict.fromkeys(reference["name"] for reference in references if reference))


def _sentence(clause: str) -> str:
    return f"{clause[:1].upper()}{clause[1:]}{'' if clause.endswith('.') else '.'}"


def _age_seconds(stamp: str, now: datetime) -> float | None:
    try:
        then = datetime.strptime(stamp, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    except ValueError:
        return None
    return (now - then).total_seconds()


_LOOKS: Final[tuple[Callable[[ClusterFacts], Iterator[Finding]], ...]] = (
    _api,
    _crds,
    _operator_leads,
    _operator_watches,
    _permissions,
    _secrets,
    _models,
    _deployments,
    _pods,
    _kinds,
    _unseen,
)
