"""Which Events a change of status is worth, so that `kubectl describe` tells the story. Pure.

Derived from two statuses: the name of an Event comes from what was before, so whoever finds the same change names it
alike, and the cluster refuses a second Event of that name.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from flash_api.conditions import ConditionType, Reason

Manifest = Mapping[str, Any]

NOTE_MAX: Final = 1000
ROLLED_OUT: Final = "RolledOut"
CANARY_STARTED: Final = "CanaryStarted"
CONTAINER_FAILED: Final = "ContainerFailed"
_DIGITS: Final = 16
_ENGINES_UPDATING: Final = str(Reason.ENGINES_UPDATING)
_GATEWAY_UPDATING: Final = str(Reason.GATEWAY_UPDATING)


@dataclass(frozen=True)
class Announcement:
    """One Event, before it has a time and an object."""

    type: Literal["Normal", "Warning"]
    reason: str
    note: str
    identity: str
    """The same for the same change, however often it is found."""


def announcements(previous: Manifest, status: Manifest, *, uid: str) -> tuple[Announcement, ...]:
    """What users should hear of the change from `previous` to `status`; most passes have nothing to say."""
    return tuple(_announcements(previous, status, uid))


def rollout_news(previous: Manifest, status: Manifest, *, uid: str) -> tuple[Announcement, ...]:
    """The same for the trial of a revision: its beginning, and what was decided."""
    before, after = _trial(previous), _trial(status)
    if not after or (before.get("revision"), before.get("startTime"), before.get("reason")) == (
        after["revision"],
        after["startTime"],
        after.get("reason"),
    ):
        return ()
    reason, began = after.get("reason"), (before.get("revision"), before.get("startTime"))
    revision = f"Revision {after['revision']}"
    told = _digest("\n".join((uid, after["revision"], after["startTime"], str(reason))))
    if reason:
        failed = after["result"] == "RolledBack"
        what = "is taken back; the former one serves alone" if failed else "gets all requests"
        note = f"{revision} {what}. {after.get('message', '')}".rstrip()[:NOTE_MAX]
        return (Announcement("Warning" if failed else "Normal", str(reason), note, told),)
    if after["result"] != "InProgress" or began == (after["revision"], after["startTime"]):
        return ()
    share = (status.get("rollout") or {}).get("canaryPercent")
    note = f"{revision} is tried on {share} % of the requests." if share else f"{revision} is tried."
    return (Announcement("Normal", CANARY_STARTED, note, told),)


def _trial(status: Manifest) -> Manifest:
    """The newest one."""
    history: Sequence[Manifest] = (status.get("rollout") or {}).get("history") or ({},)
    return dict(history[0])


def _announcements(previous: Manifest, status: Manifest, uid: str) -> Iterator[Announcement]:
    before, after = _conditions(previous), _conditions(status)
    accepted, ready = ConditionType.ACCEPTED, ConditionType.READY
    was_ready, is_ready = before.get(ready, {}).get("status"), after.get(ready, {}).get("status")

    refused = after.get(accepted, {}).get("status") == "False"
    new_reason = before.get(accepted, {}).get("reason") != after.get(accepted, {}).get("reason")
    if refused and new_reason:
        yield _of_condition("Warning", after[accepted], previous, uid)
    if is_ready == "True" and was_ready != "True":
        yield _of_condition("Normal", after[ready], previous, uid)
    elif was_ready == "True" and is_ready != "True" and not refused:
        yield _of_condition("Warning", after[ready], previous, uid)
    elif is_ready == "True" and _rolls(previous, before) and _has_rolled(status, after):
        note = f"Every pod is of the newest revision; generation {status.get('observedGeneration', 0)} is rolled out."
        yield Announcement("Normal", ROLLED_OUT, note, _identity(uid, previous, ROLLED_OUT))
    if _failure(status) is not None and _failure(previous) != _failure(status):
        yield _of_failure(status["lastFailure"], uid)


def _rolls(status: Manifest, conditions: Mapping[str, Manifest]) -> bool:
    """Engines or gateways are being replaced. Pods that merely start over, drafts among them, are no new revision."""
    reasons = {condition.get("reason") for condition in conditions.values()}
    return _trial(status).get("result") == "InProgress" or bool(reasons & {_ENGINES_UPDATING, _GATEWAY_UPDATING})


def _has_rolled(status: Manifest, conditions: Mapping[str, Manifest]) -> bool:
    """Nothing is being replaced any more, and it was not given up."""
    return not _rolls(status, conditions) and _trial(status).get("result", "Complete") == "Complete"


def _of_condition(
    kind: Literal["Normal", "Warning"], condition: Manifest, previous: Manifest, uid: str
) -> Announcement:
    reason, note = str(condition["reason"]), str(condition.get("message") or condition["reason"])
    return Announcement(kind, reason, note[:NOTE_MAX], _identity(uid, previous, condition["type"], reason))


def _of_failure(failure: Manifest, uid: str) -> Announcement:
    what = f"Container {failure['container']} of pod {failure['pod']}"
    code, reason = failure.get("exitCode"), failure.get("reason", "")
    how = f"ended with code {code}{f' ({reason})' if reason else ''}" if code is not None else f"cannot start: {reason}"
    message = f": {failure['message']}" if failure.get("message") else "."
    # Its own time, not that of the status, tells it from the next failure.
    said = "\n".join((uid, CONTAINER_FAILED, *(str(failure.get(key)) for key in sorted(failure))))
    return Announcement("Warning", CONTAINER_FAILED, f"{what} {how}{message}"[:NOTE_MAX], _digest(said))


def _failure(status: Manifest) -> tuple[Any, ...] | None:
    """What makes a failure another one: a crash loop fails the same way again and again and is told once."""
    found = status.get("lastFailure")
    return tuple(found.get(key) for key in ("container", "exitCode", "reason", "message")) if found else None


def _identity(uid: str, previous: Manifest, *change: str) -> str:
    # Both the times and the generation of before: the next change of the same kind starts from other ones.
    times = [str(c.get("lastTransitionTime")) for c in previous.get("conditions") or ()]
    return _digest("\n".join((uid, str(previous.get("observedGeneration", 0)), *times, *change)))


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


def _conditions(status: Manifest) -> dict[str, Manifest]:
    return {c["type"]: c for c in status.get("conditions") or ()}
