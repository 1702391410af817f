"""What a user reads back from a FlashDeployment. Written by the operator only; knows nothing of how it is derived."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from flash_api.v1alpha1.base import ApiModel


class Condition(ApiModel):
    """One fact about the deployment, in the form of metav1.Condition."""

    type: Annotated[str, StringConstraints(max_length=64)] = Field(description="Name of the fact. Example: Ready.")
    status: Literal["True", "False", "Unknown"] = Field(description="Whether the fact holds.")
    reason: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9]*$", min_length=1, max_length=64)] = Field(
        description="Why, as one word of a closed list. Example: EnginesStarting."
    )
    message: Annotated[str, StringConstraints(max_length=2048)] = Field(default="", description="Why, as a sentence.")
    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this fact is about.")
    last_transition_time: str = Field(
        json_schema_extra={"format": "date-time"}, description="When the status last changed, RFC 3339."
    )


class ReplicaStatus(ApiModel):
    """Pods of one component."""

    desired: int = Field(default=0, ge=0, description="Pods wanted.")
    ready: int = Field(default=0, ge=0, description="Pods that passed their readiness probe.")
    updated: int = Field(default=0, ge=0, description="Pods of the newest revision.")


class FlashDeploymentStatus(ApiModel):
    """What is. Derived anew on each pass, never accumulated."""

    observed_generation: int = Field(default=0, ge=0, description="Generation of the spec that this status is about.")
    conditions: Annotated[list[Condition], Field(max_length=16)] = Field(
        default_factory=list,
        description="Facts about the deployment; Ready carries the cause of the first one that fails.",
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    engine: ReplicaStatus = Field(default=ReplicaStatus(), description="Engine pods.")
    gateway: ReplicaStatus = Field(default=ReplicaStatus(), description="Gateway pods.")
    replicas: Annotated[str, StringConstraints(max_length=32)] = Field(
        default="", description="Ready and wanted engine pods. Example: 1/2."
    )
    endpoint: Annotated[str, StringConstraints(max_length=512)] = Field(
        default="", description="Base URL for OpenAI clients. Example: http://chat-gateway.default.svc:8080/v1."
    )
    ignored_fields: Annotated[list[Annotated[str, StringConstraints(max_length=256)]], Field(max_length=64)] = Field(
        default_factory=list,
        description="Fields of the spec that do not hold where this deployment runs, each with the reason.",
    )
