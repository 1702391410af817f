"""Whether the draft has the tokenizer of its model, as the pulls of both have found: its packed files say."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from flash_api import names
from flash_api.conditions import EXPLANATIONS, Reason, Refusal
from flash_operator import pod_reports

Manifest = Mapping[str, Any]


def DraftSharesTokenizer(  # noqa: N802
    pods: Sequence[Manifest], revision: str, *, of_model: str = "", of_draft: str = ""
) -> Refusal | None:
    """Token ids of the draft mean what they mean to the engine. `revision` pairs the pods of both; `of_model` and
    `of_draft` are what FlashModels say of theirs. What has not been pulled yet breaks no rule, and engines compare for
    themselves."""
    paired = [pod for pod in pods if (pod["metadata"].get("labels") or {}).get(names.LABEL_DRAFT_REVISION) == revision]
    drafts = {of_draft} if of_draft else pod_reports.tokenizers(paired, names.COMPONENT_DRAFT)
    engines = {of_model} if of_model else pod_reports.tokenizers(paired, names.COMPONENT_ENGINE, names.COMPONENT_CANARY)
    if not drafts or not engines or drafts == engines:
        return None
    what = f"spec.draft.model has a tokenizer of SHA-256 {_text(drafts)}, and spec.model one of {_text(engines)}"
    remedy = EXPLANATIONS[Reason.DRAFT_SHARES_TOKENIZER].remedy
    return Refusal(Reason.DRAFT_SHARES_TOKENIZER, f"{what}: both must be the same. {remedy}", remedy)


def _text(found: Collection[str]) -> str:
    return " and ".join(sorted(found))
