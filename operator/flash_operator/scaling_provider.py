"""Who carries autoscaling's decision out where it is not the operator, what it did, and what is in its way. Pure.

A HorizontalPodAutoscaler or KEDA sets the number of pods of the engine Deployment. The operator follows: it plans the
number that it finds there, so the field always has an owner, and neither a change of provider nor an edit of the
Deployment takes pods away. A Deployment without pods (new, or no longer suspended) begins with the number decided.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from flash_api import names
from flash_api.conditions import Reason
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.status_details import HISTORY_MAX, AutoscalerStatus, ScalingEvent, ScalingStatus
from flash_operator.difference import Identity, identity, owned_by, superfluous
from flash_operator.observation import Hindrance
from flash_operator.plan.autoscale_record import MESSAGE_MAX
from flash_operator.plan.autoscalers import (
    AUTOSCALERS,
    HORIZONTAL_POD_AUTOSCALER,
    SCALED_OBJECT,
    Kind,
    autoscaler_kind,
)
from flash_operator.roles import cause, role

Manifest = Mapping[str, Any]

_DISABLED: Final = "ScalingDisabled"
"""What an HPA says of a Deployment that has no pods by intention."""


@dataclass(frozen=True)
class Carrier:
    """The object by which another controller sets the number of engine pods of one deployment."""

    kind: Kind
    name: str
    served: bool
    """The cluster knows the kind."""
    suspended: bool = False

    @property
    def engines(self) -> Identity:
        """What it scales."""
        return "Deployment", self.name

    def carried_out(self, scaling: ScalingStatus, children: Sequence[Manifest], now: datetime) -> ScalingStatus:
        """The record, with what the other controller has done since."""
        if self.suspended:
            return scaling
        number = role(children, self.name).desired or scaling.desired_replicas
        former = scaling.autoscaler
        if former is None or (former.kind, former.name) != (self.kind[1], self.name):
            begun = AutoscalerStatus(kind=self.kind[1], name=self.name, replicas=number)
            return scaling.model_copy(update={"autoscaler": begun})
        if former.replicas == number:
            return scaling
        asked = next((event for event in scaling.history if event.to_replicas == number), None)
        event = ScalingEvent(
            time=now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            from_replicas=former.replicas,
            to_replicas=number,
            reason=asked.reason if asked is not None else scaling.reason,
            message=(asked.message if asked is not None else scaling.message)[:MESSAGE_MAX],
        )
        done = former.model_copy(update={"replicas": number, "history": [event, *former.history][:HISTORY_MAX]})
        return scaling.model_copy(update={"autoscaler": done})

    def hindrance(self, children: Sequence[Manifest]) -> Hindrance | None:
        """What keeps the number from following; None = nothing is known to."""
        api_version, kind = self.kind
        if not self.served:
            return Hindrance(Reason.PROVIDER_MISSING, f"The cluster does not know {kind} ({api_version}).")
        if self.suspended:
            return None
        live = next((child for child in children if identity(child) == (kind, self.name)), None)
        found = ((live or {}).get("status") or {}).get("conditions") or ()
        conditions = {str(condition.get("type")): condition for condition in found}
        # Each of them is said as soon as its controller has looked.
        asked = ("Ready",) if self.kind == SCALED_OBJECT else ("AbleToScale", "ScalingActive")
        for condition in (conditions[each] for each in asked if each in conditions):
            if condition.get("status") == "False" and condition.get("reason") != _DISABLED:
                return Hindrance(Reason.PROVIDER_FAILING, f"{kind} {self.name}: {cause(condition)}")
        if not any((conditions.get(each) or {}).get("status") in ("True", "False") for each in asked):
            return Hindrance(Reason.PROVIDER_PENDING, f"{kind} {self.name} has not been looked at yet.")
        return None


def carrier(deployment: FlashDeployment, served: Collection[Kind]) -> Carrier | None:
    """None = the operator sets the number itself: the spec says so, or the place has no such controller at all."""
    kind = autoscaler_kind(deployment)
    if kind is None or HORIZONTAL_POD_AUTOSCALER not in served:
        return None
    name = names.engine_name(deployment.metadata.name)
    return Carrier(kind, name, served=kind in served, suspended=deployment.spec.suspend)


def carried_out(
    scaling: ScalingStatus | None, found: Carrier | None, children: Sequence[Manifest], uid: str, now: datetime
) -> ScalingStatus | None:
    """What `status.scaling` says of the other controller, with nothing of one that is not in charge any more."""
    if scaling is None:
        return None
    if found is None:
        return scaling if scaling.autoscaler is None else scaling.model_copy(update={"autoscaler": None})
    return found.carried_out(scaling, [child for child in children if owned_by(child, uid)], now)


def engine_replicas(
    deployment: FlashDeployment, scaling: ScalingStatus | None, found: Carrier | None, children: Sequence[Manifest]
) -> int | None:
    """Engine pods that the plan should have; None = those of the spec."""
    if deployment.spec.engine.autoscaling is None:
        return None
    decided = scaling.desired_replicas if scaling is not None else None
    if found is None:
        return decided
    own = [child for child in children if owned_by(child, deployment.metadata.uid)]
    return role(own, found.name).desired or decided


def retired(children: Sequence[Manifest], planned: Sequence[Manifest], uid: str) -> tuple[Manifest, ...]:
    """Autoscalers that the plan no longer holds: they go first, or they would fight whoever comes after them."""
    return tuple(
        manifest
        for manifest in superfluous(children, planned, uid)
        if (manifest.get("apiVersion"), manifest["kind"]) in AUTOSCALERS
    )
