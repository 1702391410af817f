"""The pods of one component: counts as its Deployment reports them, and what only the pods know. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from flash_api import names
from flash_operator import pod_reports

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Role:
    """The pods of one component, as its Deployment reports them."""

    exists: bool = False
    desired: int = 0
    ready: int = 0
    updated: int = 0
    existing: int = 0
    seen_by_controller: bool = False
    failure: str | None = None
    """Why pods cannot be made or keep failing."""
    stuck: str | None = None
    """Why the rollout made no progress within its deadline."""
    waits: str | None = None
    """Why a pod has no node yet."""

    @property
    def rolled_out(self) -> bool:
        """All wanted pods are of the newest revision and ready, and none of an older one is left."""
        return self.seen_by_controller and self.updated == self.ready == self.existing == self.desired


def role(children: Sequence[Manifest], name: str) -> Role:
    """The Deployment called `name` among the children, read leniently: fields that are not there yet are zero."""
    live = next((c for c in children if c.get("kind") == "Deployment" and c["metadata"]["name"] == name), None)
    if live is None:
        return Role()
    status = live.get("status") or {}
    conditions = {c.get("type"): c for c in status.get("conditions") or ()}
    failure, progress = conditions.get("ReplicaFailure", {}), conditions.get("Progressing", {})
    return Role(
        exists=True,
        desired=int(live["spec"].get("replicas", 1)),
        ready=int(status.get("readyReplicas") or 0),
        updated=int(status.get("updatedReplicas") or 0),
        existing=int(status.get("replicas") or 0),
        seen_by_controller=int(status.get("observedGeneration") or 0) >= int(live["metadata"].get("generation") or 0),
        failure=cause(failure) if failure.get("status") == "True" else None,
        stuck=cause(progress) if progress.get("status") == "False" else None,
    )


def together(stable: Role, canary: Role) -> Role:
    """Both sides of a trial, counted as one; only the pods of the canary are of the newest revision then."""
    if not canary.exists:
        return stable
    return replace(
        stable,
        desired=stable.desired + canary.desired,
        ready=stable.ready + canary.ready,
        updated=canary.updated,
        existing=stable.existing + canary.existing,
    )


def may_probe(children: Sequence[Manifest], name: str) -> bool:
    """A request through the endpoint can only succeed, and is only worth sending, when both roles have a ready pod."""
    return role(children, names.engine_name(name)).ready > 0 and role(children, names.gateway_name(name)).ready > 0


def with_pods(found: Role, pods: Sequence[Manifest], component: str, *, enough: int | None = None) -> Role:
    """What only pods know, where the Deployment says that some are missing: as long as enough serve, a new one that
    fails is no outage."""
    if not found.exists or found.ready >= (found.desired if enough is None else enough):
        return found
    failure = found.failure or pod_reports.failing(pods, component)
    return replace(found, failure=failure, waits=pod_reports.waiting(pods, component))


def cause(deployment_condition: Manifest) -> str:
    """Why a condition is as it is, in its own words."""
    return str(deployment_condition.get("message") or deployment_condition.get("reason") or "no reason given")
