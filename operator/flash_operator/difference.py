"""Whether a live object still is what the plan says, so that an idle deployment causes no write. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from flash_api import names
from flash_operator.plan.metadata import content_hash

Manifest = Mapping[str, Any]
Identity = tuple[str, str]

EXACT_KINDS: Final = ("NetworkPolicy",)
"""Kinds of which an addition by others is drift too: one more rule would open a door that we keep shut."""


def identity(manifest: Manifest) -> Identity:
    """Kind and name: what tells the objects of one deployment apart."""
    return str(manifest["kind"]), str(manifest["metadata"]["name"])


def is_as_planned(live: Manifest, desired: Manifest) -> bool:
    """Nothing of ours has drifted, and nothing that we once wrote has left the plan since.

    What others add (defaults of the API server, labels, sidecars) is theirs and does not count, but for EXACT_KINDS.
    """
    planned = desired["metadata"].get("annotations", {}).get(names.ANNOTATION_PLAN_HASH)
    applied = (live["metadata"].get("annotations") or {}).get(names.ANNOTATION_PLAN_HASH)
    if planned != applied:
        return False
    if desired["kind"] not in EXACT_KINDS:
        return _covers(live, desired)
    beside = {key: value for key, value in desired.items() if key != "spec"}
    return _filled(live.get("spec") or {}) == _filled(desired["spec"]) and _covers(live, beside)


def covers(live: object, desired: object) -> bool:
    """Everything that is desired is there; what is there beside it does not count."""
    return _covers(live, desired)


def has_template(live: Manifest, desired: Manifest) -> bool:
    """The pods that both would make are the same, as far as `desired` says: to apply it starts no new revision."""
    return _covers(live.get("spec", {}).get("template"), desired["spec"]["template"])


def revision(planned: Sequence[Manifest]) -> str:
    """A name for the whole plan: the same for equal plans."""
    return content_hash([manifest["metadata"]["annotations"][names.ANNOTATION_PLAN_HASH] for manifest in planned])


def owned_by(live: Manifest, uid: str) -> bool:
    """The object's controller is the FlashDeployment with this uid: this incarnation, not one of the same name."""
    references = live["metadata"].get("ownerReferences") or ()
    return any(reference.get("controller") and reference.get("uid") == uid for reference in references)


def superfluous(live: Sequence[Manifest], planned: Sequence[Manifest], uid: str) -> tuple[Manifest, ...]:
    """Objects of ours that the plan no longer holds. What is not ours, or is going already, is left alone."""
    wanted = {identity(manifest) for manifest in planned}
    return tuple(
        manifest
        for manifest in live
        if identity(manifest) not in wanted
        and owned_by(manifest, uid)
        and not manifest["metadata"].get("deletionTimestamp")
    )


def _filled(spec: Mapping[str, Any]) -> dict[str, Any]:
    """Without empty lists, which the API server does not store."""
    return {key: value for key, value in spec.items() if value != []}


def _covers(live: object, desired: object) -> bool:
    if live == desired:  # most of a plan is stored as it was planned, and this needs no Python to see it
        return True
    if isinstance(desired, Mapping):
        return isinstance(live, Mapping) and all(key in live and _covers(live[key], desired[key]) for key in desired)
    if isinstance(desired, list | tuple):
        return isinstance(live, list | tuple) and _covers_list(live, desired)
    return False


def _covers_list(live: Sequence[Any], desired: Sequence[Any]) -> bool:
    if desired and all(isinstance(item, Mapping) for item in desired):
        # Containers, volumes, ports, owners: others may add elements of their own.
        return all(any(_covers(candidate, item) for candidate in live) for item in desired)
    return len(live) == len(desired) and all(_covers(a, b) for a, b in zip(live, desired, strict=True))
