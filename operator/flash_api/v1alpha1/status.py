"""What a user reads back from our resources. Written by the operator only; knows nothing of how it is derived."""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, StringConstraints

from flash_api.v1alpha1.base import LIST_OF_ITS_OWN, ApiModel
from flash_api.v1alpha1.source import Variant
from flash_api.v1alpha1.status_details import (
    REPLICAS_MAX,
    TIME,
    Bytes,
    ColdStart,
    Digest,
    DraftStatus,
    Generation,
    LastFailure,
    Latency,
    Message,
    ModelFacts,
    ReplicaStatus,
    ResidencyStatus,
    RolloutStatus,
    ScalingStatus,
    Time,
    Word,
)

__all__ = [
    "ColdStart",
    "Condition",
    "DraftStatus",
    "FlashDeploymentStatus",
    "FlashModelStatus",
    "LastFailure",
    "Latency",
    "ModelFacts",
    "PackedVariant",
    "ReplicaStatus",
    "ResidencyStatus",
    "RolloutStatus",
    "ScalingStatus",
]


class Condition(ApiModel):
    """One fact about the object, in the form of metav1.Condition."""

    type: Annotated[str, StringConstraints(max_length=64)] = Field(description="Name of the fact. Example: Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the fact holds. Example: True.")
    reason: Word = Field(description="Why, as one word of a closed list. Example: EnginesStarting.")
    message: Message = Field(default="", description="Why, as a sentence. Example: 1 of 2 engine pods are ready.")
    observed_generation: Generation = Field(
        default=0, description="Generation of the spec that this fact is about, as a count of changes. Example: 3."
    )
    last_transition_time: Time = Field(
        json_schema_extra=TIME,
        description="When the status last changed, RFC 3339. Example: 2026-01-01T12:00:00Z.",
    )


Conditions = Annotated[list[Condition], Field(max_length=16)]
_BY_TYPE: Final[dict[str, Any]] = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}


class FlashDeploymentStatus(ApiModel):
    """What is. Derived anew on each pass, never accumulated."""

    observed_generation: Generation = Field(
        default=0, description="Generation of the spec that this status is about, as a count of changes. Example: 3."
    )
    conditions: Conditions = Field(
        default_factory=list,
        description="Facts about the deployment; Ready carries the cause of the first one that fails. "
        "Example: [{type: Ready, status: 'True', reason: Serving}].",
        json_schema_extra=_BY_TYPE,
    )
    engine: ReplicaStatus = Field(default=ReplicaStatus(), description="Engine pods.")
    draft: DraftStatus | None = Field(
        default=None, description="Draft pods, and what proposals are worth; unset = the spec has no draft."
    )
    gateway: ReplicaStatus = Field(default=ReplicaStatus(), description="Gateway pods.")
    replicas: Annotated[str, StringConstraints(max_length=32)] = Field(
        default="", description="Ready and wanted engine pods. Example: 1/2."
    )
    endpoint: Annotated[str, StringConstraints(max_length=512)] = Field(
        default="", description="Base URL for OpenAI clients. Example: http://chat-gateway.default.svc:8080/v1."
    )
    region: Annotated[str, StringConstraints(max_length=256)] = Field(
        default="", description="Regions of the pods, as their nodes say; empty = not known. Example: eu-central-1."
    )
    applied_revision: Annotated[str, StringConstraints(max_length=63)] = Field(
        default="", description="Hash of the plan that was last applied as a whole. Example: 7d9c5b6f4a."
    )
    model: ModelFacts | None = Field(default=None, description="The model as it was loaded.")
    latency: Latency | None = Field(default=None, description="What users felt lately.")
    last_failure: LastFailure | None = Field(default=None, description="The newest failure of a container.")
    scaling: ScalingStatus | None = Field(default=None, description="What autoscaling decided; unset = it is off.")
    rollout: RolloutStatus | None = Field(default=None, description="How far the newest revision has got.")
    cold_start: ColdStart | None = Field(
        default=None, description="Where the time of the newest engine pod's start went."
    )
    residency: ResidencyStatus | None = Field(
        default=None, description="Where everything is; unset = the spec has no residency."
    )
    ignored_fields: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(max_length=64)] = Field(
        default_factory=list,
        json_schema_extra=LIST_OF_ITS_OWN,
        description="Fields of the spec that do not hold where this deployment runs, each with the reason. "
        "Example: [engine.resources.cpu: processes share this machine].",
    )


class PackedVariant(ApiModel):
    """One variant that is ready for use."""

    variant: Variant = Field(description="Which variant. Example: Lite.")
    digest: Digest = Field(
        default="",
        description="Digest of the packed file: sha256: and 64 hexadecimal digits. Example: sha256:9f86d08….",
    )
    size_bytes: Bytes | None = Field(default=None, description="Packed size in bytes. Example: 141557760.")
    job: Annotated[str, StringConstraints(max_length=63)] = Field(
        default="", description="Job that packed it. Example: olmoe-pull-lite-3f9a6c21b0."
    )


class FlashModelStatus(ApiModel):
    """What is. Derived anew on each pass, never accumulated."""

    observed_generation: Generation = Field(
        default=0, description="Generation of the spec that this status is about, as a count of changes. Example: 1."
    )
    conditions: Conditions = Field(
        default_factory=list,
        description="Facts about the model; Ready carries the cause of the first one that fails. "
        "Example: [{type: Ready, status: 'True', reason: ModelPacked}].",
        json_schema_extra=_BY_TYPE,
    )
    name: Annotated[str, StringConstraints(max_length=256)] = Field(
        default="", description="Name of the model as its source gives it. Example: OLMoE-1B-7B-0924."
    )
    digest: Digest = Field(
        default="",
        description="Digest of the weights as downloaded: sha256: and 64 hexadecimal digits. Example: sha256:9f86d08….",
    )
    tokenizer: Annotated[str, StringConstraints(max_length=64)] = Field(
        default="",
        description="SHA-256 of its tokenizer, 64 hexadecimal digits: a draft and its model must have the same. "
        "Example: 9f86d08….",
    )
    size_bytes: Bytes | None = Field(
        default=None, description="Bytes of all packed variants together. Example: 141557760."
    )
    progress: Annotated[str, StringConstraints(max_length=16)] = Field(
        default="", description="Variants that are packed, of those wanted. Example: 1/2."
    )
    variants: Annotated[list[PackedVariant], Field(max_length=3)] = Field(
        default_factory=list,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["variant"]},
        description="Variants that are ready for use. Example: [{variant: Lite, sizeBytes: 141557760}].",
    )
    used_by: Annotated[int, Field(ge=0, le=REPLICAS_MAX)] = Field(
        default=0, description="FlashDeployments whose pods mount this model, as a count. Example: 3."
    )
    last_failure: LastFailure | None = Field(default=None, description="The newest failure of a container.")
