"""Conditions before they have a time, and how they get one: that of the change, not of the look. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal

from flash_api.conditions import ConditionType, Reason
from flash_api.v1alpha1.status import Condition

Manifest = Mapping[str, Any]
Tristate = Literal["True", "False", "Unknown"]

MESSAGE_MAX: Final = 2048


@dataclass(frozen=True)
class Fact:
    """A condition before it has a time."""

    type: ConditionType
    status: Tristate
    reason: Reason
    message: str = ""

    @property
    def holds(self) -> bool:
        return self.status == "True"


def condition(status_manifest: Manifest, kind: ConditionType) -> Manifest | None:
    """One condition of a status in wire form."""
    return next((c for c in status_manifest.get("conditions") or () if c.get("type") == kind), None)


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
