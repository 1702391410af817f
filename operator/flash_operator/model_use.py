"""What a deployment may make of the FlashModel that it names, from that object as stored. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from pydantic import ValidationError

from flash_api import names
from flash_api.conditions import ConditionType, Reason, Refusal
from flash_api.manifest import describe, stored_model
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.flashmodel import FlashModel
from flash_api.v1alpha1.residency import ResidencyMode
from flash_api.v1alpha1.source import Model, ModelRef, Variant
from flash_api.v1alpha1.status_details import ModelFacts
from flash_operator.difference import Identity, has_template, identity
from flash_operator.plan import PlanSettings
from flash_operator.plan.pull_job import pull_job
from flash_operator.shared_model import ModelUse, SharedModel, shared_model

Manifest = Mapping[str, Any]


def model_use(
    deployment: FlashDeployment, live: Manifest | None, settings: PlanSettings, *, by_pods: bool = False
) -> ModelUse | None:
    """None for a deployment that has a source of its own. `live` is the FlashModel that it names, None = it is not
    there; `by_pods` = there are no volumes here, and each pod pulls from the model's source."""
    ref = deployment.spec.model.model_ref
    if ref is None:
        return None
    if live is None or live["metadata"].get("deletionTimestamp"):
        where = f"namespace {deployment.metadata.namespace}"
        return ModelUse(
            SharedModel(ref.name),
            deployment.spec.variant,
            Reason.MODEL_NOT_FOUND,
            f"{names.MODEL_KIND} {ref.name} is not in {where}.",
        )
    try:
        model = stored_model(live)
    except ValidationError as error:
        why = "; ".join(str(problem) for problem in describe(error, live))
        return ModelUse(
            SharedModel(ref.name),
            deployment.spec.variant,
            Reason.MODEL_NOT_CACHED,
            f"{names.MODEL_KIND} {ref.name}: {why}",
        )
    variant, status = deployment.spec.variant, live.get("status") or {}
    packed = _packed(model, variant, status, settings)
    known = packed.get("sizeBytes") if packed is not None else None
    shared = shared_model(model, packed_bytes=known, by_pods=by_pods)
    waits, message = _waits(model, variant, status, packed, by_pods=by_pods)
    facts, tokenizer = None, ""
    if packed is not None:
        tokenizer = str(status.get("tokenizer") or "")
        name, digest = str(status.get("name") or ref.name), str(status.get("digest") or "")
        facts = ModelFacts(name=name[:256], digest=digest[:71], size_bytes=known)
    return ModelUse(shared, variant, waits, message, _refusal(deployment, model), facts, tokenizer)


def draft_use(
    deployment: FlashDeployment, live: Manifest | None, settings: PlanSettings, *, by_pods: bool = False
) -> ModelUse | None:
    """The same of the FlashModel that spec.draft.model names: a draft is packed as the model that it drafts for."""
    ref = draft_ref(deployment)
    if ref is None:
        return None
    asked = deployment.spec.model_copy(update={"model": Model(model_ref=ModelRef(name=ref))})
    found = model_use(deployment.model_copy(update={"spec": asked}), live, settings, by_pods=by_pods)
    if found is None or found.refusal is None:
        return found
    said = found.refusal.message.replace("spec.model.", "spec.draft.model.")
    return replace(found, refusal=replace(found.refusal, message=said))


def draft_ref(deployment: FlashDeployment) -> str | None:
    """The FlashModel that draft pods use, None = none."""
    draft = deployment.spec.draft
    if draft is None or not draft.in_pods or draft.model is None or draft.model.model_ref is None:
        return None
    return draft.model.model_ref.name


def held_back(
    planned: Sequence[Manifest], live: Sequence[Manifest], use: ModelUse | None, *, drafts: bool = False
) -> frozenset[Identity]:
    """Deployments that must not be applied yet: their new pods would mount what is not there. Those whose pods stay as
    they are may still be scaled, and those without pods may be anything.

    `use` is that of the model, which all pods but `drafts` mount; or of the draft's model, which only they do.
    """
    if use is None or use.waits is None:
        return frozenset()
    present = {identity(manifest): manifest for manifest in live}
    return frozenset(
        identity(desired)
        for desired in planned
        if desired["kind"] == "Deployment"
        and (desired["metadata"]["labels"][names.LABEL_COMPONENT] == names.COMPONENT_DRAFT) is drafts
        and desired["spec"]["replicas"] > 0
        and not (identity(desired) in present and has_template(present[identity(desired)], desired))
    )


def _packed(model: FlashModel, variant: Variant, status: Manifest, settings: PlanSettings) -> Manifest | None:
    """The entry of the variant, where it is the work of the very Job that the spec and this release ask for."""
    job = pull_job(model, variant, settings)["metadata"]["name"]
    return next((each for each in status.get("variants") or () if each.get("job") == job), None)


def _waits(
    model: FlashModel, variant: Variant, status: Manifest, packed: Manifest | None, *, by_pods: bool
) -> tuple[Reason | None, str]:
    what = f"{names.MODEL_KIND} {model.metadata.name}"
    if variant not in model.spec.variants:
        there = ", ".join(model.spec.variants)
        return Reason.VARIANT_NOT_PACKED, f"{what} packs {there}, not {variant}."
    if packed is not None or by_pods:
        return None, ""
    ready: Manifest = next((c for c in status.get("conditions") or () if c.get("type") == ConditionType.READY), {})
    why = f" ({ready['reason']}: {ready.get('message', '')})" if ready and ready.get("status") != "True" else ""
    return Reason.MODEL_NOT_CACHED, f"{variant} of {what} is not packed yet{why}."


def _refusal(deployment: FlashDeployment, model: FlashModel) -> Refusal | None:
    """A promise about prompts and weights holds only where the volume is promised to be too."""
    promised, held = deployment.spec.residency, model.spec.residency
    if promised is None or promised.mode is not ResidencyMode.ENFORCE:
        return None
    if held is not None and held.mode is ResidencyMode.ENFORCE and set(held.regions) <= set(promised.regions):
        return None
    allowed = ", ".join(sorted(promised.regions))
    where = "any region" if held is None else f"{', '.join(sorted(held.regions))} ({held.mode})"
    remedy = f"Name a FlashModel with spec.residency.regions in {allowed} and mode Enforce."
    what = f"spec.model.modelRef.name ({model.metadata.name}) is kept in {where}, and spec.residency allows {allowed}"
    return Refusal(Reason.MODEL_OUTSIDE_REGION, f"{what}. {remedy}", remedy)
