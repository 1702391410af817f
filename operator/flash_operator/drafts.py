"""Draft pods as a pass saw them, what that means for the conditions, and what their proposals are worth. Pure.

Draft pods never count for `Ready`: without them answers are the same and slower. While they start, the deployment is
being reconciled; once they fail, wait for a node or are stuck, nothing is under way that would end by itself, and
`DraftReady` alone says so.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from flash_api import names
from flash_api.conditions import EXPLANATIONS, ConditionType, Reason
from flash_api.draft_report import DraftReport
from flash_api.v1alpha1.engine import Draft, DraftMode
from flash_api.v1alpha1.status_details import PERCENT_MAX, DraftStatus, ReplicaStatus
from flash_operator.observation import Fact, Observation
from flash_operator.roles import Role, role, with_pods

Manifest = Mapping[str, Any]

ACCEPTANCE_STEP: Final = 5
SPEEDUP_STEP: Final = 10
TOKENS_STEP: Final = 0.2
"""A figure is written anew when it is off by at least so much: figures that wobble must not cause writes."""


@dataclass(frozen=True)
class Drafts:
    """The draft pods that engine pods ask, and figures of proposals as the status is to hold them."""

    pods: Role = field(default_factory=Role)
    figures: Mapping[str, Any] = field(default_factory=dict)


def drafts(seen: Observation, written: Any) -> Drafts:
    """Those of the revision of the live engine pods. `written` is `status.draft` as it was, in wire form, or None."""
    found = role(seen.children, names.drafts_name(seen.name, asked_revision(seen.children, seen.name)))
    told = seen.probe.draft if seen.probe is not None else None
    return Drafts(with_pods(found, seen.pods, names.COMPONENT_DRAFT), worth(told, written))


def asked_revision(children: Sequence[Manifest], deployment: str) -> str:
    """Which draft pods engine pods ask, as their live Deployment says; empty = none."""
    engine = names.engine_name(deployment)
    live = (child["metadata"] for child in children if child.get("kind") == "Deployment")
    labels = next((meta.get("labels") or {} for meta in live if meta["name"] == engine), {})
    return str(labels.get(names.LABEL_DRAFT_REVISION) or "")


def under_way(draft: Draft | None, pods: Role) -> bool:
    """Draft pods come or go, and it ends by itself."""
    halted = pods.failure is not None or pods.stuck is not None or pods.waits is not None
    return draft is not None and draft.in_pods and pods.exists and not pods.rolled_out and not halted


def draft_ready(seen: Observation, found: Drafts) -> tuple[Fact, ...]:
    """The condition DraftReady, where the spec has draft pods."""
    if seen.draft is None or not seen.draft.in_pods:
        return ()
    return (_draft_ready(seen, found.pods, found.figures.get("why_not")),)


def _draft_ready(seen: Observation, drafts: Role, why_not: str | None) -> Fact:
    kind = ConditionType.DRAFT_READY
    use = seen.draft_model
    if seen.refusal is not None and seen.refusal.reason is Reason.DRAFT_SHARES_TOKENIZER:
        return Fact(kind, "False", Reason.TOKENIZER_DIFFERS, seen.refusal.message)
    if not drafts.exists:
        if seen.refusal is not None:
            return Fact(kind, "Unknown", Reason.NOT_APPLIED)
        if use is not None and use.waits is not None:
            return Fact(kind, "False", use.waits, use.message)
        return Fact(kind, "False", Reason.DRAFTS_MISSING, EXPLANATIONS[Reason.DRAFTS_MISSING].cause)
    count = f"{drafts.ready} of {drafts.desired} draft pods are ready"
    if drafts.desired == 0:
        reason = Reason.SUSPENDED if seen.suspended else Reason.SCALED_TO_ZERO
        return Fact(kind, "False", reason, "No engine pod runs that would ask a draft.")
    if drafts.failure is not None:
        return Fact(kind, "False", Reason.DRAFTS_FAILING, f"{count}: {drafts.failure}")
    if drafts.stuck is not None:
        return Fact(kind, "False", Reason.DRAFTS_STUCK, f"{count}: {drafts.stuck}")
    if drafts.ready < drafts.desired:
        return Fact(kind, "False", Reason.DRAFTS_STARTING, f"{count}{_waits(drafts)}")
    if not drafts.rolled_out:
        return Fact(kind, "True", Reason.DRAFTS_UPDATING, f"{drafts.updated} of {drafts.desired} are up to date.")
    if why_not == Reason.TOKENIZER_DIFFERS:
        return Fact(kind, "False", Reason.TOKENIZER_DIFFERS, EXPLANATIONS[Reason.TOKENIZER_DIFFERS].cause)
    if why_not == Reason.BELOW_BREAK_EVEN:
        return Fact(kind, "True", Reason.BELOW_BREAK_EVEN, f"{count}. {EXPLANATIONS[Reason.BELOW_BREAK_EVEN].cause}")
    return Fact(kind, "True", Reason.DRAFTS_READY, f"{count}.")


def _waits(drafts: Role) -> str:
    if drafts.waits is None:
        return "."
    return f": {drafts.waits.rstrip('.')}; it waits for room near an engine pod, as spec.draft.placement asks."


def draft_status(seen: Observation, counts: ReplicaStatus, found: Drafts) -> DraftStatus | None:
    """What `status.draft` must say."""
    if seen.draft is None or seen.draft.mode is DraftMode.OFF:
        return None
    pods = counts if seen.draft.in_pods else ReplicaStatus()
    return DraftStatus.model_validate({**pods.model_dump(), **found.figures})


def worth(told: DraftReport | None, written: Any) -> dict[str, Any]:
    """Figures of a DraftStatus after a gateway told these; what was not told, as where nobody asks, stays as it is."""
    former = DraftStatus.model_validate(written or {}, extra="ignore")
    told = told or DraftReport()
    active = former.active if told.active is None else told.active
    why_not = former.why_not if told.active is None else _word(told.why_not)
    return {
        "active": active,
        "why_not": None if active else why_not,
        "acceptance_percent": _stepped(_percent(told.acceptance, 100), former.acceptance_percent, ACCEPTANCE_STEP),
        "tokens_per_step": _tokens(told.tokens_per_step, former.tokens_per_step),
        "speedup_percent": _stepped(_percent(told.speedup, PERCENT_MAX), former.speedup_percent, SPEEDUP_STEP),
    }


_WORDS: Final = {
    "tokenizer": str(Reason.TOKENIZER_DIFFERS),
    "revision": "RevisionDiffers",
    "no_match": "NothingProposed",
}
"""Reasons that say more as a status says them."""


def _word(reason: str | None) -> str | None:
    """`below_break_even` as a status says it: BelowBreakEven."""
    if reason in _WORDS:
        return _WORDS[reason]
    return "".join(part.capitalize() for part in reason.split("_")) or None if reason else None


def _percent(share: float | None, most: int) -> int | None:
    return None if share is None else min(most, round(share * 100))


def _stepped(now: int | None, written: int | None, step: int) -> int | None:
    return written if now is None or (written is not None and abs(now - written) < step) else now


def _tokens(now: float | None, written: str | None) -> str | None:
    try:
        if now is None or (written is not None and abs(now - float(written)) < TOKENS_STEP):
            return written
    except ValueError:  # another hand wrote it
        pass
    return f"{now:.1f}"
