"""What this release can serve of the API. A valid spec outside of it is refused with what to write instead.

Each function is one fact; it names the refusal when the fact does not hold.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from flash_api.conditions import EXPLANATIONS, Reason, Refusal
from flash_api.endpoints import BUCKETS, endpoint, is_object, is_plain
from flash_api.rules import value_at
from flash_api.v1alpha1.flashdeployment import DraftMode, FlashDeploymentSpec
from flash_api.v1alpha1.source import ModelChoice, scheme
from flash_operator.checks.unserved import UNSERVED, Unserved


def PlainSourceIsSafe(spec: FlashDeploymentSpec) -> Refusal | None:  # noqa: N802
    """What comes over http:// is compared with a digest, and no token goes out over it."""
    draft = spec.draft.model if spec.draft and spec.draft.mode is not DraftMode.OFF else None
    return _plain_source(spec.model, "spec.model") or (_plain_source(draft, "spec.draft.model") if draft else None)


def FieldIsServed(field: Unserved, spec: FlashDeploymentSpec) -> Refusal | None:  # noqa: N802
    """The field is not written, or says what happens anyway."""
    value = value_at(spec, field.path)
    if value is None or value in field.harmless:
        return None
    if any(value_at(spec, other) is not None for other in field.served_with):
        return None
    if field.but_where is not None and value_at(spec, field.but_where[0]) in field.but_where[1]:
        return None
    written = f" ({value})" if isinstance(value, str | int) and not isinstance(value, bool) else ""
    what = f"spec.{field.path}{written} is not served by this release"
    return Refusal(Reason.FIELD_NOT_SERVED, f"{what}. {field.instead}", field.instead)


FACTS: Final[tuple[Callable[[FlashDeploymentSpec], Refusal | None], ...]] = (
    PlainSourceIsSafe,
    *(partial(FieldIsServed, field) for field in UNSERVED),
)


def refusal(spec: FlashDeploymentSpec) -> Refusal | None:
    """The first fact that does not hold."""
    return next((found for fact in FACTS if (found := fact(spec)) is not None), None)


def _refusal(reason: Reason, what: str) -> Refusal:
    return Refusal(reason, f"{what}. {EXPLANATIONS[reason].remedy}")


def _unsafe(field: str, rule: str, source: str, remedy: str) -> Refusal:
    what = f"{field} {rule} for source {source}, which protects nothing on the way, so it is not served by this release"
    return Refusal(Reason.SOURCE_NOT_SERVED, f"{what}. {remedy}", remedy)


def _plain_source(model: ModelChoice, path: str) -> Refusal | None:
    source = model.source or ""
    way = endpoint(source) or source
    if not is_plain(way) and not source.startswith("http://"):
        return None
    if scheme(source) in BUCKETS and not is_object(source):
        remedy = "Use an https:// endpoint, or name one file and write its SHA-256."
        return _unsafe(f"{path}.source", "must be one file", source, remedy)
    if model.sha256 is None:
        return _unsafe(f"{path}.sha256", "must be set", source, "Write the file's SHA-256, or use https://.")
    if model.credentials_secret_ref is not None and scheme(source) != "s3":  # whose requests are signed
        return _unsafe(f"{path}.credentialsSecretRef", "must be unset", source, "Remove it, or use https://.")
    return None
