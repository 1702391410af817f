"""The FlashDeployment resource: the fields a user may write. What they read back stands in `status.py`.

Field descriptions are the reference (`kubectl explain fd.spec`): each names its unit and gives an example.
Cross-field rules stand beside the model they belong to, in CEL, and are enforced by the API server; `flash lint`
enforces the same rules without one.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal

from pydantic import Field

from flash_api.rules import Rule
from flash_api.v1alpha1.autoscaling import Autoscaling
from flash_api.v1alpha1.base import NAME_MAX, NAME_RULES, ApiModel, ObjectMeta, SecretKeyRef
from flash_api.v1alpha1.endpoint import Endpoint, Visibility
from flash_api.v1alpha1.engine import Draft, DraftMode, Engine, KVCache, KVCacheDtype
from flash_api.v1alpha1.gateway import Auth, Gateway, Limits
from flash_api.v1alpha1.observability import Observability
from flash_api.v1alpha1.placement import Placement
from flash_api.v1alpha1.residency import Residency
from flash_api.v1alpha1.resources import Resources
from flash_api.v1alpha1.rollout import Rollout
from flash_api.v1alpha1.source import Model, Variant
from flash_api.v1alpha1.status import FlashDeploymentStatus

__all__ = [
    "NAME_MAX",
    "Auth",
    "Autoscaling",
    "Draft",
    "DraftMode",
    "Endpoint",
    "Engine",
    "FlashDeployment",
    "FlashDeploymentSpec",
    "Gateway",
    "KVCache",
    "KVCacheDtype",
    "Limits",
    "Model",
    "ObjectMeta",
    "Observability",
    "Placement",
    "Residency",
    "Resources",
    "Rollout",
    "SecretKeyRef",
    "Variant",
    "Visibility",
]

REGION_LABEL: Final = "topology.kubernetes.io/region"
"""The node label that says where a node is."""


def _selects_allowed_region(spec: FlashDeploymentSpec) -> bool:
    selector = (spec.placement and spec.placement.node_selector) or {}
    return spec.residency is None or selector.get(REGION_LABEL, spec.residency.regions[0]) in spec.residency.regions


class FlashDeploymentSpec(ApiModel):
    """What to serve."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="PublicEndpointNeedsKeys",
            field="gateway.auth",
            cel="self.endpoint.visibility != 'Public' || has(self.gateway.auth.apiKeysSecretRef) || "
            "has(self.gateway.auth.oidc)",
            holds=lambda self: (
                self.endpoint.visibility is not Visibility.PUBLIC
                or self.gateway.auth.api_keys_secret_ref is not None
                or self.gateway.auth.oidc is not None
            ),
            rule="must name apiKeysSecretRef or oidc when endpoint.visibility is {self.endpoint.visibility}",
            shows_value=False,
            remedy="name a Secret with API keys or a token provider, or make the endpoint Private or Cluster",
        ),
        Rule(
            name="NodeSelectorStaysInRegions",
            field="placement.nodeSelector",
            cel="!has(self.residency) || !has(self.placement) || !has(self.placement.nodeSelector) || "
            f"!('{REGION_LABEL}' in self.placement.nodeSelector) || "
            f"self.placement.nodeSelector['{REGION_LABEL}'] in self.residency.regions",
            holds=_selects_allowed_region,
            rule=f"must name an allowed region in {REGION_LABEL}, or none",
            shows_value=False,
            remedy="remove that label: residency.regions already chooses the nodes",
        ),
        Rule(
            name="ResidencyIsNeverRemoved",
            field="residency",
            cel="!has(oldSelf.residency) || has(self.residency)",
            holds=lambda self, old: old.residency is None or self.residency is not None,
            rule="must not be removed",
            shows_value=False,
            remedy="make another deployment without residency: what was promised for this one stays promised",
            of_change=True,
        ),
    )

    variant: Variant = Field(
        default=Variant.LITE,
        description="Number format: Cloud = bf16, Lite = int8 weights and activations, Nano = int4. Example: Lite.",
    )
    model: Model = Field(description="Which weights to serve.")
    draft: Draft | None = Field(
        default=None, description="Speculative decoding with a small model; unset = one token at a time."
    )
    engine: Engine = Field(default=Engine(), description="The pods that run the model.")
    gateway: Gateway = Field(default=Gateway(), description="The pods that offer the API.")
    endpoint: Endpoint = Field(default=Endpoint(), description="Where clients reach the deployment.")
    residency: Residency | None = Field(
        default=None, description="Regions that everything stays in; unset = wherever the cluster has nodes."
    )
    rollout: Rollout | None = Field(
        default=None,
        description="How a new revision takes the place of the old one; unset = one pod after the other, the new one "
        "first.",
    )
    placement: Placement | None = Field(
        default=None, description="Which nodes the pods may run on; unset = any that has room."
    )
    observability: Observability | None = Field(default=None, description="What the pods tell about themselves.")
    suspend: bool = Field(
        default=False,
        description="Whether all pods are stopped, while the object, its endpoint and its cache stay. Example: true.",
    )


class FlashDeployment(ApiModel):
    """Serve one model behind one private OpenAI-compatible endpoint."""

    cel_rules: ClassVar[tuple[Rule, ...]] = NAME_RULES

    api_version: Literal["flashplane.dev/v1alpha1"] = "flashplane.dev/v1alpha1"
    kind: Literal["FlashDeployment"] = "FlashDeployment"
    metadata: ObjectMeta
    spec: FlashDeploymentSpec = Field(description="What to serve.")
    status: FlashDeploymentStatus = Field(
        default=FlashDeploymentStatus(), description="What is; written by the operator."
    )
