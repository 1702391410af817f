"""Whether this release can pull a FlashModel: its source is judged as that of a deployment that names it itself."""

from __future__ import annotations

from flash_api.conditions import Refusal
from flash_api.v1alpha1.flashdeployment import FlashDeploymentSpec
from flash_api.v1alpha1.flashmodel import FlashModelSpec
from flash_api.v1alpha1.source import Model
from flash_operator.checks.served import refusal


def model_refusal(spec: FlashModelSpec) -> Refusal | None:
    """The first fact that does not hold."""
    model = Model(
        source=spec.source,
        revision=spec.revision,
        sha256=spec.sha256,
        credentials_secret_ref=spec.credentials_secret_ref,
    )
    found = refusal(FlashDeploymentSpec(model=model))
    return None if found is None else Refusal(found.reason, found.message.replace("spec.model.", "spec."), found.remedy)
