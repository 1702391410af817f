"""Why drafts are as they are, in sentences: where proposals come from, how many pods, and whether it pays. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from flash_api.conditions import EXPLANATIONS, ConditionType, Reason
from flash_operator.cockpit.facts import Served

_WHY_NOT: Final = {
    "BelowBreakEven": "they cost more than they bring at this load, with this text; engines try again by themselves",
    "Disconnected": "no draft pod is connected",
    "Late": "draft pods answer later than waiting pays",
    "Overloaded": "draft pods have no room for more requests",
    "Behind": "draft pods still read the requests",
    "TokenizerDiffers": "the draft has another tokenizer than the model",
    "RevisionDiffers": "the draft pods are of another revision than the engine pods",
    "NothingProposed": "nothing in the text repeats, or the draft had none",
    "Prompts": "steps are busy with prompts",
    "NoRoom": "the KV cache or the step's budget has no room for them",
}
"""What `status.draft.whyNot` means, as a clause."""


def explain_draft(served: Served) -> Iterator[str]:
    """Sentences about spec.draft; none where the spec has none."""
    draft: Mapping[str, Any] = served.spec.get("draft") or {}
    status: Mapping[str, Any] = served.status.get("draft") or {}
    mode = str(draft.get("mode", "Pods"))
    if not draft or mode == "Off":
        return
    if mode == "Pods":
        yield from _pods(served, draft, status)
    else:
        where = "the prompt itself" if mode == "PromptLookup" else "a small model inside the engine"
        yield f"Proposals come from {where}: spec.draft.mode is {mode}."
    yield from _worth(status)


def _pods(served: Served, draft: Mapping[str, Any], status: Mapping[str, Any]) -> Iterator[str]:
    why = f"spec.draft.replicas is {draft['replicas']}" if "replicas" in draft else "there is one for each engine pod"
    place = draft.get("placement", "SameNode")
    wanted = status.get("desired", 0)
    yield (
        f"{wanted} {'is' if wanted == 1 else 'are'} wanted, because {why}; {status.get('ready', 0)} ready. "
        f"They run where engine pods of their revision run ({place})."
    )
    ready = served.condition(ConditionType.DRAFT_READY)
    if ready and ready["status"] != "True":
        reason = ready.get("reason")
        known = EXPLANATIONS.get(Reason(reason)) if reason in set(Reason) else None
        cause = ready.get("message") or (known.cause if known else reason)
        yield f"DraftReady is {ready['status']} ({reason}): {cause} Ready does not depend on it."


def _worth(status: Mapping[str, Any]) -> Iterator[str]:
    if "active" not in status:
        yield "What proposals are worth is not known yet: too little was generated."
        return
    if status["active"]:
        yield "Proposals are used."
    else:
        why = str(status.get("whyNot", ""))
        yield f"Proposals are not used: {_WHY_NOT.get(why, why or 'no engine says why')}. Answers are the same."
    if "acceptancePercent" in status:
        tokens = f", so a step brings {status['tokensPerStep']} tokens" if "tokensPerStep" in status else ""
        yield f"{status['acceptancePercent']} % of the proposed tokens hold{tokens}."
    if "speedupPercent" in status:
        yield f"Engines measure {status['speedupPercent'] / 100:.2f} times the speed without."
