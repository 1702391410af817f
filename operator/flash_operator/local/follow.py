"""When a deployment is up, and when waiting on is useless. Pure: looks in, a verdict out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flash_api.conditions import EXPLANATIONS, ConditionType, Reason

PATIENCE_RESTARTS: Final = 2
"""A container that failed more often than this will not come up by itself soon."""


@dataclass(frozen=True)
class Waiting:
    """Not there yet."""

    message: str


@dataclass(frozen=True)
class Up:
    """Serves the spec as written."""

    endpoint: str


@dataclass(frozen=True)
class AtZero:
    """As the spec asks for, which is nothing that could answer."""

    message: str


@dataclass(frozen=True)
class Failed:
    """Will not come up unless someone acts."""

    condition: str
    reason: str
    message: str
    remedy: str
    log: str | None
    """The log of the container that fails, if one does."""


Verdict = Waiting | Up | AtZero | Failed


def verdict(entry: Mapping[str, Any], *, generation: int) -> Verdict:
    """What to make of one look at a deployment (`{manifest, processes}`), seen from a spec of this generation."""
    status = entry["manifest"].get("status") or {}
    conditions = {condition["type"]: condition for condition in status.get("conditions", ())}
    ready, stalled = conditions.get(ConditionType.READY), conditions.get(ConditionType.STALLED)
    if ready is None or stalled is None or status.get("observedGeneration", 0) < generation:
        return Waiting("the spec is being read")
    settled = conditions[ConditionType.RECONCILING]["status"] == "False"
    if ready["status"] == "True" and settled:
        return Up(status["endpoint"])
    if ready["reason"] == Reason.SCALED_TO_ZERO and settled:
        return AtZero(ready["message"])
    if stalled["status"] == "True":
        return _failed(stalled, None)
    failing = conditions.get(ConditionType.ENGINES_READY), conditions.get(ConditionType.ENDPOINT_READY)
    for condition, component in zip(failing, ("engine", "gateway"), strict=True):
        if condition and condition["reason"] in (Reason.ENGINES_FAILING, Reason.GATEWAY_FAILING):
            rows = [row for row in entry["processes"] if row["component"] == component]
            broken = [row for row in rows if row["restarts"] >= PATIENCE_RESTARTS and not row["ready"]]
            if broken or not rows:
                return _failed(condition, broken[0]["log"] if broken else None)
    unmet = conditions[ConditionType.RECONCILING] if ready["status"] == "True" else ready
    return Waiting(unmet["message"] or unmet["reason"])


def steps(processes: Sequence[Mapping[str, Any]]) -> list[tuple[str, int, int, str]]:
    """Long steps under way, as (what, done, total, unit)."""
    found = {}
    for row in processes:
        if (progress := row["progress"]) and progress["done"] < progress["total"]:
            found[f"{row['component']}: {progress['phase']}"] = (progress["done"], progress["total"], progress["unit"])
    return [(what, *numbers) for what, numbers in found.items()]


def _failed(condition: Mapping[str, Any], log: str | None) -> Failed:
    reason = condition["reason"]
    explanation = next((known for name, known in EXPLANATIONS.items() if name == reason), None)
    return Failed(
        condition["type"], reason, condition["message"] or reason, explanation.remedy if explanation else "", log
    )
