"""How the model comes into engine and gateway pods: each pulls its own, or they mount what a FlashModel holds."""

from __future__ import annotations

from typing import Any

from flash_api import names
from flash_api.v1alpha1.engine import Draft
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.resources import Resources
from flash_api.v1alpha1.source import Variant
from flash_operator.plan import pods
from flash_operator.plan.placement import affinity
from flash_operator.plan.pods import ModelInPods
from flash_operator.plan.settings import PlanSettings
from flash_operator.shared_model import SharedModel


def model_in_pods(
    deployment: FlashDeployment,
    shared: SharedModel | None,
    *,
    image: str,
    settings: PlanSettings,
    wanted: Resources,
    text_only: bool,
) -> ModelInPods:
    """From the shared volume where the deployment names a FlashModel, else by an init container that pulls."""
    if shared is not None:
        return _mounted(shared, deployment.spec.variant)
    model = deployment.spec.model
    pull = pods.pull_container(
        model,
        deployment.spec.variant,
        image=image,
        settings=settings,
        wanted=wanted,
        flags=("--text-only",) if text_only else (),
    )
    return ModelInPods(
        volume=pods.scratch_volume("models"),
        mount=pods.mount("models", names.DIR_MODELS, read_only=True),
        init_containers=(pull,),
        source_volumes=tuple(pods.source_access(model)[0]),
    )


def draft_in_pods(deployment: FlashDeployment, settings: PlanSettings) -> ModelInPods | None:
    """The small model of spec.draft in engine pods, pulled by each; None where no draft runs inside them."""
    draft = deployment.spec.draft.in_process if deployment.spec.draft is not None else None
    if draft is None:
        return None
    pull = pods.pull_container(
        draft,
        deployment.spec.variant,
        image=settings.engine_image,
        settings=settings,
        wanted=deployment.spec.engine.resources,
        to=names.DIR_DRAFT,
        name=names.CONTAINER_PULL_DRAFT,
        volume="draft",
    )
    return ModelInPods(
        volume=pods.scratch_volume("draft"),
        mount=pods.mount("draft", names.DIR_DRAFT, read_only=True),
        init_containers=(pull,),
        source_volumes=tuple(pods.source_access(draft, names.CONTAINER_PULL_DRAFT)[0]),
    )


def model_of_draft_pods(
    deployment: FlashDeployment, draft: Draft, shared: SharedModel | None, *, settings: PlanSettings, wanted: Resources
) -> ModelInPods:
    """The small model of spec.draft in draft pods: from the volume of a FlashModel, or pulled by each pod."""
    if shared is not None:
        return _mounted(shared, deployment.spec.variant)
    assert draft.model is not None  # the mode Pods asks for one
    pull = pods.pull_container(
        draft.model, deployment.spec.variant, image=settings.engine_image, settings=settings, wanted=wanted
    )
    return ModelInPods(
        volume=pods.scratch_volume("models"),
        mount=pods.mount("models", names.DIR_MODELS, read_only=True),
        init_containers=(pull,),
        source_volumes=tuple(pods.source_access(draft.model)[0]),
    )


def claim_volume(model: str) -> dict[str, Any]:
    """The volume of a FlashModel. Read only where it is mounted, not here: one pod writes into it beside readers, and a
    disk is attached to a node in one way only."""
    return {"name": "models", "persistentVolumeClaim": {"claimName": names.model_claim(model)}}


def user_labels(model: str) -> dict[str, str]:
    """Of every pod that mounts the volume: what the pods are chosen by that must share a node."""
    return {names.LABEL_USES_MODEL: model}


def on_one_node(model: str) -> dict[str, Any]:
    """The pod affinity of those that mount a ReadWriteOnce volume: a second node could not attach it, and a pod there
    would wait for ever."""
    term = {"labelSelector": {"matchLabels": user_labels(model)}, "topologyKey": "kubernetes.io/hostname"}
    return {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}


def _mounted(shared: SharedModel, variant: Variant) -> ModelInPods:
    return ModelInPods(
        volume=claim_volume(shared.name),
        mount={**pods.mount("models", names.DIR_MODELS, read_only=True), "subPath": str(variant)},
        labels=user_labels(shared.name),
        affinity={
            **(affinity(shared.residency) if shared.residency is not None else {}),
            **(on_one_node(shared.name) if shared.read_write_once else {}),
        },
    )
