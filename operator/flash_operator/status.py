"""The status of a FlashDeployment, from what was observed. Pure: equal inputs give byte-equal status.

What is read of a child Deployment, wherever it runs: `metadata.generation`, `spec.replicas` and of its `status`
`observedGeneration`, `replicas`, `readyReplicas`, `updatedReplicas` and the conditions `ReplicaFailure` (True = pods
cannot be made or keep failing, its message says why) and `Progressing` (False = no progress within the deadline).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from flash_api import names
from flash_api.conditions import ConditionType, Reason
from flash_api.v1alpha1.status import (
    ColdStart,
    Condition,
    FlashDeploymentStatus,
    ReplicaStatus,
)
from flash_operator import pod_reports
from flash_operator.drafts import draft_status, drafts
from flash_operator.facts import accepted_fact, facts
from flash_operator.latency import latency
from flash_operator.observation import Fact, Observation
from flash_operator.roles import Role, role, together, with_pods

Manifest = Mapping[str, Any]

MESSAGE_MAX = 2048


def status(seen: Observation, previous: Manifest, now: datetime) -> dict[str, Any]:
    """The whole status, in wire form. `previous` only lends the times of facts that did not change."""
    if seen.unread is not None:
        return _unread_status(seen, seen.unread, previous, now)
    engines = role(seen.children, names.engine_name(seen.name))
    engines = with_pods(engines, seen.pods, names.COMPONENT_ENGINE, enough=seen.enough_engines)
    all_engines = together(engines, role(seen.children, names.canary_name(seen.name)))
    gateways = role(seen.children, names.gateway_name(seen.name))
    gateways = with_pods(gateways, seen.pods, names.COMPONENT_GATEWAY)
    drafting = drafts(seen, previous.get("draft"))
    found = facts(seen, engines, gateways, drafting)
    value = FlashDeploymentStatus(
        observed_generation=seen.generation,
        conditions=[timed(fact, seen.generation, previous, now) for fact in found],
        engine=_replicas(seen.name, names.COMPONENT_ENGINE, all_engines),
        draft=draft_status(seen, _replicas(seen.name, names.COMPONENT_DRAFT, drafting.pods), drafting),
        gateway=_replicas(seen.name, names.COMPONENT_GATEWAY, gateways),
        replicas=f"{all_engines.ready}/{all_engines.desired}" if engines.exists else "",
        endpoint=seen.endpoint if gateways.exists else "",
        scaling=seen.scaling,
        rollout=seen.rollout,
        ignored_fields=list(seen.ignored_fields),
        applied_revision=seen.applied_revision or str(previous.get("appliedRevision") or ""),
        model=seen.model.facts if seen.model is not None else pod_reports.model_facts(seen.pods),
        latency=latency(seen.probe.milliseconds if seen.probe else {}, previous.get("latency")),
        last_failure=pod_reports.last_failure(seen.pods),
        cold_start=pod_reports.cold_start(seen.pods, _former_start(previous)),
        region=", ".join(seen.residency.regions)[:256] if seen.residency is not None else "",
        residency=seen.residency.status if seen.residency is not None else None,
    )
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


def _unread_status(seen: Observation, cause: str, previous: Manifest, now: datetime) -> dict[str, Any]:
    """The last counts, which something may still scale by, under conditions that admit that they are old."""
    accepted = accepted_fact(seen.refusal)
    drafted = (ConditionType.DRAFT_READY,) if seen.draft is not None and seen.draft.in_pods else ()
    kinds = (ConditionType.MODEL_READY, ConditionType.ENGINES_READY, *drafted, ConditionType.ENDPOINT_READY)
    unknown = [Fact(kind, "Unknown", Reason.READ_FAILED, cause) for kind in kinds]
    ready = Fact(ConditionType.READY, "Unknown", Reason.READ_FAILED, cause)
    reconciling = Fact(ConditionType.RECONCILING, "True", Reason.READ_FAILED, cause)
    stalled = Fact(ConditionType.STALLED, "False", Reason.PROGRESSING)
    if not accepted.holds:
        ready = Fact(ConditionType.READY, "False", accepted.reason, accepted.message)
        reconciling = Fact(ConditionType.RECONCILING, "False", accepted.reason)
        stalled = Fact(ConditionType.STALLED, "True", accepted.reason, accepted.message)
    found = (ready, reconciling, stalled, accepted, *unknown)
    known = {key: value for key, value in previous.items() if key not in ("conditions", "observedGeneration")}
    value = FlashDeploymentStatus.model_validate(known, extra="ignore").model_copy(
        update={
            "observed_generation": seen.generation,
            "conditions": [timed(fact, seen.generation, previous, now) for fact in found],
        }
    )
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


def condition(status_manifest: Manifest, kind: ConditionType) -> Manifest | None:
    """One condition of a status in wire form."""
    return next((c for c in status_manifest.get("conditions") or () if c.get("type") == kind), None)


def _former_start(previous: Manifest) -> ColdStart | None:
    found = previous.get("coldStart")
    return ColdStart.model_validate(found, extra="ignore") if found else None


def _replicas(deployment: str, component: str, pods: Role) -> ReplicaStatus:
    labels = names.pod_selector(deployment, component)
    return ReplicaStatus(
        desired=pods.desired,
        replicas=pods.existing,
        ready=pods.ready,
        updated=pods.updated,
        starting=max(0, pods.existing - pods.ready),
        selector=",".join(f"{key}={value}" for key, value in labels.items()),
    )


def timed(fact: Fact, generation: int, previous: Manifest, now: datetime) -> Condition:
    before = condition(previous, fact.type)
    unchanged = before is not None and before.get("status") == fact.status and before.get("lastTransitionTime")
    return Condition(
        type=fact.type,
        status=fact.status,
        reason=fact.reason,
        message=fact.message[:MESSAGE_MAX],
        observed_generation=generation,
        last_transition_time=str(unchanged or now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")),
    )
