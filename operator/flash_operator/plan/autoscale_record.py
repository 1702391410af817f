"""Decisions as `status.scaling` keeps them, so that the next operator process goes on where this one ended. Pure."""

from __future__ import annotations

from datetime import UTC, datetime

from flash_api.conditions import Reason
from flash_api.v1alpha1.status_details import HISTORY_MAX, ScalingEvent, ScalingStatus
from flash_operator.plan.autoscale import Decision
from flash_operator.plan.metadata import Manifest

MESSAGE_MAX = 512


def recorded(status: Manifest) -> ScalingStatus | None:
    """What a FlashDeployment's status says of former decisions; None = nothing that could be used."""
    found = status.get("scaling")
    if not found:
        return None
    try:
        kept = ScalingStatus.model_validate(found)
        Reason(kept.reason)
    except ValueError:  # of pydantic too
        # Another release, or another hand, wrote it: begin again from the pods that there are.
        return None
    return kept


def record(former: ScalingStatus | None, decision: Decision, now: datetime) -> ScalingStatus:
    """The record with this decision. One that decides the same again changes nothing, whatever its figures."""
    outcome = (decision.replicas, decision.reason, decision.schedule)
    if former is None:
        # The first number is where scaling begins, not a change.
        return ScalingStatus(
            desired_replicas=decision.replicas,
            reason=decision.reason,
            message=decision.message[:MESSAGE_MAX],
            schedule=decision.schedule,
        )
    if outcome == (former.desired_replicas, former.reason, former.schedule):
        return former
    said = {"reason": str(decision.reason), "message": decision.message[:MESSAGE_MAX], "schedule": decision.schedule}
    if decision.replicas == former.desired_replicas:
        return former.model_copy(update=said)
    time = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    event = ScalingEvent(
        time=time,
        from_replicas=former.desired_replicas,
        to_replicas=decision.replicas,
        reason=decision.reason,
        message=said["message"],
    )
    changed = {
        "desired_replicas": decision.replicas,
        "last_scale_time": time,
        "history": [event, *former.history][:HISTORY_MAX],
    }
    return former.model_copy(update={**said, **changed})


def changed_at(former: ScalingStatus | None) -> datetime | None:
    """When the number last changed."""
    return _moment(former.last_scale_time) if former is not None else None


def raised_at(former: ScalingStatus | None) -> datetime | None:
    """When the number last rose, as far as the history goes."""
    events = former.history if former is not None else ()
    return next((_moment(event.time) for event in events if event.to_replicas > event.from_replicas), None)


def _moment(text: str | None) -> datetime | None:
    try:
        found = datetime.fromisoformat(text) if text else None
    except ValueError:
        return None
    return found if found is None or found.tzinfo is not None else found.replace(tzinfo=UTC)
