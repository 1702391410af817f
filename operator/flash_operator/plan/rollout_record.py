"""What `status.rollout` says of revisions: the newest one, and what became of the last ones. Pure.

A revision is the label of the engine Deployment. The history is written down, never derived: what was replaced long ago
no object tells any more.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from flash_api.v1alpha1.status_details import HISTORY_MAX, REPLACING, RolloutEvent, RolloutStatus
from flash_operator.plan.metadata import Manifest

MESSAGE_MAX: Final = 512


def recorded(status: Manifest) -> RolloutStatus | None:
    """What a FlashDeployment's status says; None = nothing that could be used."""
    found = status.get("rollout")
    try:
        return RolloutStatus.model_validate(found, extra="ignore") if found else None
    except ValueError:  # of pydantic too: another release, or another hand, wrote it
        return None


def rolled(
    former: RolloutStatus | None, target: str, *, settled: bool, stuck: str | None, paused: bool, now: datetime
) -> RolloutStatus:
    """The record of a rolling update towards `target`, the revision of the spec.

    `settled` = every pod is of the newest revision and ready; `stuck` = why it made no progress within its deadline.
    """
    past = closed(former or RolloutStatus(), target, now)
    head = past.history[0] if past.history else None
    if head is None or head.revision != target or head.result in ("RolledBack", "Superseded"):
        replaced = head.revision if head is not None and head.revision != target else ""
        past = begun(RolloutStatus(revision=target, previous_revision=replaced, history=past.history), now)
        head = past.history[0]
    if settled and head.result != "Complete":
        past = with_head(past, result="Complete", end_time=text(now), message="")
    elif stuck is not None and head.result == "InProgress":
        past = with_head(past, result="Failed", end_time=text(now), message=stuck[:MESSAGE_MAX])
    if past.history[0].result == "Complete":
        return RolloutStatus(revision=target, history=past.history)
    return RolloutStatus(
        revision=target,
        previous_revision=past.previous_revision,
        step=REPLACING,
        paused=True if paused else None,
        history=past.history,
    )


def begun(record: RolloutStatus, now: datetime) -> RolloutStatus:
    """With its revision at the head of the history."""
    event = RolloutEvent(revision=record.revision, start_time=text(now), result="InProgress")
    return record.model_copy(update={"history": [event, *record.history][:HISTORY_MAX]})


def closed(past: RolloutStatus, target: str, now: datetime) -> RolloutStatus:
    """Without another revision than `target` under way."""
    if not past.history or past.history[0].result != "InProgress" or past.history[0].revision == target:
        return past
    return with_head(past, result="Superseded", end_time=text(now), message=f"The spec is of revision {target} now.")


def with_head(past: RolloutStatus, **changes: str) -> RolloutStatus:
    """With changes to the newest entry of the history."""
    head, *rest = past.history
    return past.model_copy(update={"history": [head.model_copy(update=changes), *rest]})


def text(moment: datetime) -> str:
    """As Kubernetes writes a time."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
