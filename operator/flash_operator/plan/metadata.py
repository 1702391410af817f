"""Names, labels, owner and content hashes of planned objects: what makes an object recognisably ours."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.flashmodel import FlashModel

Manifest = Mapping[str, Any]
Owner = FlashDeployment | FlashModel

HASH_DIGITS = 10


def content_hash(value: object) -> str:
    """A short digest of a JSON value, the same for equal values whatever their key order."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_DIGITS]


def selector(owner: Owner, component: str) -> dict[str, str]:
    """Labels that pick the pods of one component. Selectors are immutable, so this set never changes."""
    if isinstance(owner, FlashModel):
        return {names.LABEL_MODEL: owner.metadata.name, names.LABEL_COMPONENT: component}
    return names.pod_selector(owner.metadata.name, component)


def labels(owner: Owner, component: str) -> dict[str, str]:
    """Labels of every object of one component."""
    return {
        names.LABEL_NAME: "flashplane",
        names.LABEL_INSTANCE: owner.metadata.name,
        names.LABEL_PART_OF: owner.metadata.name,
        names.LABEL_MANAGED_BY: names.MANAGED_BY,
        **selector(owner, component),
    }


def owner_reference(owner: Owner) -> dict[str, Any]:
    """Makes the garbage collector remove the object together with its owner."""
    return {
        "apiVersion": names.API_VERSION,
        "kind": owner.kind,
        "name": owner.metadata.name,
        "uid": owner.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def owned_object(
    owner: Owner,
    component: str,
    *,
    api_version: str,
    kind: str,
    name: str,
    extra_labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
    **content: object,
) -> Manifest:
    """A whole manifest, with labels, owner and the hash of everything in it.

    The hash is how a pass notices that a field *left* the plan: server-side apply would remove it, but comparing the
    live object with the plan cannot tell our old field from someone else's addition.
    """
    body: dict[str, Any] = {
        "apiVersion": api_version,
        "kind": kind,
        "metadata": {
            "name": name,
            "namespace": owner.metadata.namespace,
            # Ours twice: they come first, and nobody's take their place.
            "labels": {**(ours := labels(owner, component)), **(extra_labels or {}), **ours},
            # A manifest that is not stored anywhere (`flash plan`) has no uid, and can own nothing.
            **({"ownerReferences": [owner_reference(owner)]} if owner.metadata.uid else {}),
        },
        **content,
    }
    if annotations:
        body["metadata"]["annotations"] = dict(annotations)
    body["metadata"]["annotations"] = {**(annotations or {}), names.ANNOTATION_PLAN_HASH: content_hash(body)}
    return body
