"""How far the trial of a new revision has got, from what exists and what `status.rollout` says. Pure.

What exists decides wherever it can: the revision of the engines is a label on their Deployment, so a spec that was
taken back, a third revision in the middle, or a promotion that was cut off are all seen in the objects. The record adds
what no object holds: since when a revision is on trial, and that one has failed or has been found good.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import Enum, StrEnum
from typing import Literal

from flash_api.v1alpha1.rollout import Rollout
from flash_api.v1alpha1.status_details import RolloutStatus
from flash_operator.plan.canary_verdict import (
    LATENCY_PERCENT_DEFAULT,
    REQUESTS_DEFAULT,
    Decision,
    Evidence,
    Limits,
    verdict,
)
from flash_operator.plan.replicas import shares
from flash_operator.plan.rollout_record import MESSAGE_MAX, begun, closed, text, with_head

Result = Literal["InProgress", "Complete", "Superseded", "RolledBack", "Failed"]


class Step(StrEnum):
    """What happens now, as `status.rollout.step` says it; nothing = the newest revision is everywhere."""

    STARTING = "Starting"
    OBSERVING = "Observing"
    SUSPENDED = "Suspended"
    PROMOTING = "Promoting"
    ROLLED_BACK = "RolledBack"


class Mode(Enum):
    """Which objects there should be."""

    ROLL = "roll"
    """Those of the plan."""
    TRY = "try"
    """The engines of the former revision, and those of the new one beside them."""
    HOLD = "hold"
    """The engines of the former revision alone."""


@dataclass(frozen=True)
class Fleet:
    """The engines as they are."""

    stable: str | None = None
    """Revision of the engine Deployment, empty where it says none; None = there is no such Deployment."""
    settled: bool = False
    """Every pod of it is of its newest revision and ready."""
    canary: str | None = None
    """The same of the canary's."""
    canary_ready: bool = False
    canary_failure: str | None = None


@dataclass(frozen=True)
class Course:
    """What to do, and what to write down before doing it."""

    mode: Mode
    record: RolloutStatus


def advance(
    former: RolloutStatus | None,
    target: str,
    fleet: Fleet,
    rollout: Rollout,
    *,
    wanted: int,
    evidence: Evidence | None,
    now: datetime,
) -> Course:
    """The next step towards `target`, the revision of the spec, with `wanted` engine pods in all."""
    past = former or RolloutStatus()
    if fleet.stable is None or fleet.stable == target:
        return Course(Mode.ROLL, _arriving(past, target, fleet, now))
    known = past.revision == target
    head = past.history[0] if past.history and past.history[0].revision == target else None
    if known and past.step == Step.PROMOTING:
        return Course(Mode.ROLL, past)
    if known and head is not None and head.result == "RolledBack":
        return Course(Mode.HOLD, past)

    tried = known and head is not None and head.result == "InProgress"
    if rollout.paused:
        paused = _of(past, target, fleet, rollout, now) if not tried else past
        return Course(Mode.TRY if tried else Mode.HOLD, paused.model_copy(update={"paused": True}))
    if not wanted and not tried:
        # No pod serves, so there is nothing to compare with and nobody to be hurt.
        return Course(Mode.ROLL, closed(past, target, now).model_copy(update={"revision": target, "step": ""}))
    if not tried:
        started = begun(_of(past, target, fleet, rollout, now), now)
        return Course(Mode.TRY, started.model_copy(update={"step": Step.STARTING}))
    if not wanted:
        return Course(Mode.TRY, past.model_copy(update={"step": Step.SUSPENDED, "paused": None}))
    if past.paused or past.step == Step.SUSPENDED:
        step = Step.STARTING if past.step == Step.SUSPENDED else past.step
        past = _restarted(past.model_copy(update={"step": step, "paused": None}), now)
    return _judged(past, target, fleet, rollout, evidence, now)


def engines(course: Course, wanted: int, rollout: Rollout) -> tuple[int, int]:
    """Pods of the stable revision and of the canary. The first make room only once the second have been ready."""
    if course.mode is not Mode.TRY:
        return wanted, 0
    stable, canary = shares(wanted, rollout.canary_percent or 1)
    return (stable if course.record.step == Step.OBSERVING else wanted), canary


def _judged(
    past: RolloutStatus, target: str, fleet: Fleet, rollout: Rollout, evidence: Evidence | None, now: datetime
) -> Course:
    past = past.model_copy(update={"previous_revision": fleet.stable or "", "canary_percent": rollout.canary_percent})
    if past.step != Step.OBSERVING:
        past = past.model_copy(update={"step": Step.STARTING})
    ours = fleet.canary == target
    if past.step == Step.STARTING and ours and fleet.canary_ready:
        past = past.model_copy(update={"step": Step.OBSERVING})
    limits = Limits(
        rollout.progress_deadline_seconds,
        rollout.canary_requests or REQUESTS_DEFAULT,
        rollout.canary_latency_percent or LATENCY_PERCENT_DEFAULT,
    )
    found = verdict(
        evidence if past.step == Step.OBSERVING else None,
        limits,
        failure=fleet.canary_failure if ours else None,
        elapsed_seconds=_seconds(past.history[0].start_time, now),
    )
    if found.decision is Decision.WAIT:
        return Course(Mode.TRY, past)
    said = {"reason": str(found.reason), "message": found.message[:MESSAGE_MAX]}
    if found.decision is Decision.PROMOTE:
        return Course(Mode.ROLL, with_head(past, **said).model_copy(update={"step": Step.PROMOTING}))
    ended = with_head(past, **said, result="RolledBack", end_time=text(now))
    return Course(Mode.HOLD, ended.model_copy(update={"step": Step.ROLLED_BACK, "canary_percent": None}))


def _arriving(past: RolloutStatus, target: str, fleet: Fleet, now: datetime) -> RolloutStatus:
    """The engine Deployment has the revision of the spec: it is everywhere, on its way there, or was never left."""
    past = closed(past, target, now)
    head = past.history[0] if past.history else None
    under_way = head is not None and head.revision == target and head.result == "InProgress"
    if under_way and not (fleet.settled and fleet.canary is None):
        return past.model_copy(update={"revision": target, "step": Step.PROMOTING, "canary_percent": None})
    if under_way:
        past = with_head(past, result="Complete", end_time=text(now))
    return RolloutStatus(revision=target, history=past.history)


def _of(past: RolloutStatus, target: str, fleet: Fleet, rollout: Rollout, now: datetime) -> RolloutStatus:
    """About another revision than before."""
    return RolloutStatus(
        revision=target,
        previous_revision=fleet.stable or "",
        canary_percent=None if rollout.paused else rollout.canary_percent,
        history=closed(past, target, now).history,
    )


def _restarted(past: RolloutStatus, now: datetime) -> RolloutStatus:
    """Its deadline counts from now: it could not prove itself while it stood still."""
    return with_head(past, start_time=text(now))


def _seconds(then: str, now: datetime) -> float:
    return max(0.0, (now - datetime.fromisoformat(then)).total_seconds())
