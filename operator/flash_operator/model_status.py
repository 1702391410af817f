"""The status of a FlashModel, from what was observed. Pure: equal inputs give byte-equal status.

Conditions as those of a FlashDeployment: `Ready`, `Reconciling` and `Stalled`, then `Accepted`, `Downloaded`, `Packed`
and, where the spec promises a region, `ResidencyCompliant`; `Ready` repeats the first that fails.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from flash_api import names
from flash_api.conditions import ConditionType, Reason, Refusal
from flash_api.v1alpha1.status import FlashModelStatus, LastFailure
from flash_operator import pod_reports
from flash_operator.observation import Fact
from flash_operator.pulls import Pull, Stage, failure_reason, packed, source_facts
from flash_operator.residency import Finding
from flash_operator.status import timed

Manifest = Mapping[str, Any]

_OF_PACKING: Final = (Reason.MODEL_NOT_SUPPORTED,)
"""Reasons of a failed pull that are about packing; all others are about the download."""


@dataclass(frozen=True)
class ModelObservation:
    """Everything that one pass learned."""

    generation: int
    pulls: Sequence[Pull] = ()
    pods: Sequence[Manifest] = ()
    """Of the pulls, those that have ended too."""
    claim: Manifest | None = None
    users: int = 0
    refusal: Refusal | None = None
    unread: str | None = None
    """Why the objects could not be read."""
    error: str | None = None
    """Why the plan could not be applied."""
    error_is_final: bool = False
    residency: Finding | None = None


def model_status(seen: ModelObservation, previous: Manifest, now: datetime) -> dict[str, Any]:
    """The whole status, in wire form. `previous` lends the times of facts that did not change, and what pulls have said
    whose pods are gone."""
    facts = _facts(seen)
    conditions = [timed(fact, seen.generation, previous, now) for fact in facts]
    if seen.unread is not None or seen.refusal is not None:
        known = {key: value for key, value in previous.items() if key not in ("conditions", "observedGeneration")}
        value = FlashModelStatus.model_validate(known, extra="ignore").model_copy(
            update={"observed_generation": seen.generation, "conditions": conditions}
        )
        return value.model_dump(mode="json", by_alias=True, exclude_none=True)
    variants = packed(seen.pulls, seen.pods, previous)
    name, digest, tokenizer = source_facts(seen.pulls, seen.pods, previous)
    sizes = [entry.size_bytes for entry in variants if entry.size_bytes is not None]
    value = FlashModelStatus(
        observed_generation=seen.generation,
        conditions=conditions,
        name=name,
        digest=digest,
        tokenizer=tokenizer,
        size_bytes=sum(sizes) if sizes else None,
        progress=f"{len(variants)}/{len(seen.pulls)}",
        variants=list(variants),
        used_by=seen.users,
        last_failure=_last_failure(seen.pulls),
    )
    return value.model_dump(mode="json", by_alias=True, exclude_none=True)


def _last_failure(pulls: Sequence[Pull]) -> LastFailure | None:
    """Of pulls that are not done: what failed before a success is of no interest any more."""
    found = [pull.failure for pull in pulls if pull.stage is not Stage.DONE and pull.failure is not None]
    return max(found, key=lambda failure: failure.time or "", default=None)


def _facts(seen: ModelObservation) -> tuple[Fact, ...]:
    accepted = Fact(ConditionType.ACCEPTED, "True", Reason.SPEC_ACCEPTED)
    if seen.refusal is not None:
        reason, message = seen.refusal.reason, seen.refusal.message
        unknown = [
            Fact(kind, "Unknown", Reason.NOT_APPLIED) for kind in (ConditionType.DOWNLOADED, ConditionType.PACKED)
        ]
        return (
            Fact(ConditionType.READY, "False", reason, message),
            Fact(ConditionType.RECONCILING, "False", reason),
            Fact(ConditionType.STALLED, "True", reason, message),
            Fact(ConditionType.ACCEPTED, "False", reason, message),
            *unknown,
        )
    if seen.unread is not None:
        kinds = (ConditionType.DOWNLOADED, ConditionType.PACKED)
        return (
            Fact(ConditionType.READY, "Unknown", Reason.READ_FAILED, seen.unread),
            Fact(ConditionType.RECONCILING, "True", Reason.READ_FAILED, seen.unread),
            Fact(ConditionType.STALLED, "False", Reason.PROGRESSING),
            accepted,
            *(Fact(kind, "Unknown", Reason.READ_FAILED, seen.unread) for kind in kinds),
        )
    downloaded, packed_all = _downloaded(seen), _packed(seen)
    residency = _residency(seen.residency)
    broken = tuple(fact for fact in residency if fact.status == "False" and seen.residency and seen.residency.enforced)
    details = (downloaded, packed_all)
    ready = _ready(seen, (*broken, *details))
    return (ready, *_progress(seen, ready), accepted, *details, *residency)


def _ready(seen: ModelObservation, parts: Sequence[Fact]) -> Fact:
    if seen.error is not None:
        return Fact(ConditionType.READY, "False", Reason.APPLY_FAILED, seen.error)
    # What is False is a cause; what is not known follows from one.
    failing = next((p for p in parts if p.status == "False"), None) or next((p for p in parts if not p.holds), None)
    if failing is None:
        return Fact(ConditionType.READY, "True", Reason.MODEL_PACKED, "Every variant is packed.")
    return Fact(ConditionType.READY, "False", failing.reason, failing.message)


def _progress(seen: ModelObservation, ready: Fact) -> tuple[Fact, Fact]:
    """Reconciling and Stalled."""
    working = any(pull.stage in (Stage.ABSENT, Stage.RUNNING) for pull in seen.pulls)
    hopeless = [pull for pull in seen.pulls if pull.hopeless]
    lasting = ready.reason is Reason.REGION_UNAVAILABLE or bool(hopeless and not working)
    if (seen.error is not None and seen.error_is_final) or (seen.error is None and lasting):
        return (
            Fact(ConditionType.RECONCILING, "False", ready.reason),
            Fact(ConditionType.STALLED, "True", ready.reason, ready.message),
        )
    if ready.holds:
        return (
            Fact(ConditionType.RECONCILING, "False", Reason.SETTLED),
            Fact(ConditionType.STALLED, "False", Reason.SETTLED),
        )
    reason = Reason.APPLY_FAILED if seen.error is not None else Reason.IN_PROGRESS
    return (
        Fact(ConditionType.RECONCILING, "True", reason, ready.message),
        Fact(ConditionType.STALLED, "False", Reason.PROGRESSING),
    )


def _downloaded(seen: ModelObservation) -> Fact:
    """Every pull reads the same weights, so they are there as soon as one is done."""
    kind = ConditionType.DOWNLOADED
    failed = _failed(seen, of_packing=False)
    if failed is not None:
        return Fact(kind, "False", *failed)
    if any(pull.stage is Stage.DONE for pull in seen.pulls):
        return Fact(kind, "True", Reason.VERIFIED)
    if _failed(seen, of_packing=True) is not None:
        return Fact(kind, "Unknown", Reason.DOWNLOADING, "The pull has ended for another reason: see Packed.")
    if (waits := _waits(seen)) is not None:
        pending = seen.claim is None or (seen.claim.get("status") or {}).get("phase") != "Bound"
        return Fact(kind, "False", Reason.CACHE_PENDING if pending else Reason.DOWNLOADING, waits)
    if seen.claim is None:
        return Fact(kind, "False", Reason.CACHE_PENDING, "The volume is not made yet.")
    return Fact(kind, "False", Reason.DOWNLOADING, f"{_now_pulling(seen)}.")


def _packed(seen: ModelObservation) -> Fact:
    kind = ConditionType.PACKED
    failed = _failed(seen, of_packing=True)
    if failed is not None:
        return Fact(kind, "False", *failed)
    done = [pull.variant for pull in seen.pulls if pull.stage is Stage.DONE]
    if len(done) == len(seen.pulls):
        return Fact(kind, "True", Reason.MODEL_PACKED, f"{', '.join(done)}.")
    return Fact(
        kind, "False", Reason.PACKING, f"{len(done)} of {len(seen.pulls)} variants are packed. {_now_pulling(seen)}."
    )


def _now_pulling(seen: ModelObservation) -> str:
    running = next((pull for pull in seen.pulls if pull.stage is Stage.RUNNING), None)
    return "No Job runs" if running is None else f"Job {running.job} fetches and packs {running.variant}"


def _failed(seen: ModelObservation, *, of_packing: bool) -> tuple[Reason, str] | None:
    """Why a pull has failed, or keeps failing, for a reason of that kind."""
    for pull in seen.pulls:
        if pull.stage is Stage.FAILED or (pull.stage is Stage.RUNNING and pull.failure is not None):
            reason = failure_reason(pull.failure, pull.gave_up)
            if (reason in _OF_PACKING) is of_packing:
                return reason, _why(pull)
    return None


def _why(pull: Pull) -> str:
    failure = pull.failure
    if failure is None:
        said = f"Job {pull.job}: {pull.gave_up}"
    else:
        how = (
            f"ended with code {failure.exit_code}"
            if failure.exit_code is not None
            else f"cannot start ({failure.reason})"
        )
        line = f": {failure.message}" if failure.message else ""
        said = f"{pull.variant}: container {failure.container} of pod {failure.pod} {how}{line}"
    again = "" if pull.hopeless else "; it is tried again"
    return f"{said.rstrip('.')}{again}."


def _waits(seen: ModelObservation) -> str | None:
    """Why no pull can begin."""
    going = (seen.claim or {}).get("metadata", {}).get("deletionTimestamp")
    if going:
        return "The volume of a former FlashModel of this name goes when the last pod that mounts it has ended."
    waits = pod_reports.waiting(seen.pods, names.COMPONENT_PULL)
    return f"{waits[:1].upper()}{waits[1:]}" if waits is not None else None


def _residency(found: Finding | None) -> tuple[Fact, ...]:
    if found is None:
        return ()
    return (Fact(ConditionType.RESIDENCY_COMPLIANT, found.holds, found.reason, found.message),)
