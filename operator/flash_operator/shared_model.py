"""What a deployment takes from the FlashModel that it names, for its plan and for its status. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from flash_api import names
from flash_api.conditions import Reason, Refusal
from flash_api.quantities import whole_bytes
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.flashmodel import FlashModel, FlashModelSpec
from flash_api.v1alpha1.residency import Residency
from flash_api.v1alpha1.source import ModelChoice, Variant
from flash_api.v1alpha1.status_details import ModelFacts


@dataclass(frozen=True)
class SharedModel:
    """A FlashModel, as far as pods that use it must know."""

    name: str
    read_write_once: bool = True
    """Pods that mount the volume must run on one node."""
    residency: Residency | None = None
    size_bytes: int | None = None
    """Of the packed variant, or of the volume as long as that is all that is known; None = not even that."""
    pulled_by_pods: FlashModelSpec | None = None
    """Set where there are no volumes: each pod pulls from this source through a cache that all share."""


@dataclass(frozen=True)
class ModelUse:
    """The model for the plan, and whether pods may mount it now."""

    shared: SharedModel
    variant: Variant
    waits: Reason | None = None
    """Why they may not; None = they may."""
    message: str = ""
    refusal: Refusal | None = None
    """Why the deployment may never use this model."""
    facts: ModelFacts | None = None
    tokenizer: str = ""
    """SHA-256 of the model's tokenizer; empty = nobody has said it yet."""

    def is_mounted_by(self, deployment: Mapping[str, Any]) -> bool:
        """Whether the pods of this live Deployment mount the very folder that the spec asks for."""
        pod = ((deployment.get("spec") or {}).get("template") or {}).get("spec") or {}
        claims = [(volume.get("persistentVolumeClaim") or {}).get("claimName") for volume in pod.get("volumes") or ()]
        mounts = [mount for each in pod.get("containers") or () for mount in each.get("volumeMounts") or ()]
        return names.model_claim(self.shared.name) in claims and any(m.get("subPath") == self.variant for m in mounts)


def shared_model(model: FlashModel, *, packed_bytes: int | None = None, by_pods: bool = False) -> SharedModel:
    """What pods that use the model must know of it."""
    declared = model.spec.cache.size
    return SharedModel(
        model.metadata.name,
        read_write_once=model.spec.cache.access_mode == "ReadWriteOnce",
        residency=model.spec.residency,
        size_bytes=packed_bytes or (whole_bytes(declared) if declared is not None else None),
        pulled_by_pods=model.spec if by_pods else None,
    )


def resolved(deployment: FlashDeployment, shared: SharedModel | None) -> tuple[FlashDeployment, SharedModel | None]:
    """The deployment and the volume to mount: none where it has a source of its own, or gets that of the FlashModel."""
    ref = deployment.spec.model.model_ref
    if ref is None:
        return deployment, None
    shared = shared or SharedModel(ref.name)
    if shared.pulled_by_pods is None:
        return deployment, shared
    source = shared.pulled_by_pods
    model = deployment.spec.model.model_copy(
        update={
            "model_ref": None,
            "source": source.source,
            "revision": source.revision,
            "sha256": source.sha256,
            "credentials_secret_ref": source.credentials_secret_ref,
        }
    )
    spec = deployment.spec.model_copy(update={"model": model})
    return deployment.model_copy(update={"spec": spec}), None


def resolved_draft(
    deployment: FlashDeployment, shared: SharedModel | None
) -> tuple[FlashDeployment, SharedModel | None]:
    """The same of the model of spec.draft."""
    draft = deployment.spec.draft
    if draft is None or draft.model is None or draft.model.model_ref is None:
        return deployment, None
    shared = shared or SharedModel(draft.model.model_ref.name)
    if shared.pulled_by_pods is None:
        return deployment, shared
    source = shared.pulled_by_pods
    model = ModelChoice(
        source=source.source,
        revision=source.revision,
        sha256=source.sha256,
        credentials_secret_ref=source.credentials_secret_ref,
    )
    spec = deployment.spec.model_copy(update={"draft": draft.model_copy(update={"model": model})})
    return deployment.model_copy(update={"spec": spec}), None
