"""The FlashDeployment resource: the fields a user may write and the status they read back.

Field descriptions are the reference (`kubectl explain fd.spec`): each names its unit and gives an example.
Cross-field rules stand beside the model they belong to, in CEL, and are enforced by the API server; `flash lint`
enforces the same rules without one.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

QUANTITY_PATTERN = r"^[0-9]+(\.[0-9]+)?(m|k|M|G|T|Ki|Mi|Gi|Ti)?$"
SOURCE_PATTERN = r"^(builtin|hf|https?|file|pvc|s3|gs|oci)://[^\s]+$"
DNS_LABEL_PATTERN = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?$"
DNS_SUBDOMAIN_PATTERN = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"

Quantity = Annotated[str, StringConstraints(pattern=QUANTITY_PATTERN, max_length=20)]


class CelRule(BaseModel):
    """One `x-kubernetes-validations` entry."""

    model_config = ConfigDict(frozen=True, alias_generator=to_camel, populate_by_name=True)

    rule: str
    message: str
    message_expression: str | None = None
    field_path: str | None = None


class ApiModel(BaseModel):
    """Camel case on the wire, frozen in memory, unknown fields refused at the door."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    cel_rules: ClassVar[tuple[CelRule, ...]] = ()


class Variant(StrEnum):
    """How weights and activations are stored and multiplied."""

    CLOUD = "Cloud"
    LITE = "Lite"
    NANO = "Nano"


class Visibility(StrEnum):
    """Who may reach the endpoint."""

    PRIVATE = "Private"
    CLUSTER = "Cluster"
    PUBLIC = "Public"


class SecretKeyRef(ApiModel):
    """A key of a Secret in the deployment's namespace."""

    name: Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN_PATTERN, min_length=1, max_length=253)] = Field(
        description="Name of the Secret, in the same namespace. Example: chat-keys."
    )
    key: Annotated[str, StringConstraints(pattern=r"^[-._a-zA-Z0-9]+$", min_length=1, max_length=253)] = Field(
        default="api-keys", description="Key inside the Secret whose value is used. Example: api-keys."
    )


class Resources(ApiModel):
    """CPU and memory of one container. Requests and limits are equal, so a pod is never evicted for using its own."""

    cpu: Quantity | None = Field(
        default=None, description="CPU cores, as a Kubernetes quantity; unset = no request. Example: 2 or 500m."
    )
    memory: Quantity | None = Field(
        default=None, description="Memory in bytes, as a Kubernetes quantity; unset = no limit. Example: 2Gi."
    )


class Model(ApiModel):
    """Which weights to serve."""

    source: Annotated[str, StringConstraints(pattern=SOURCE_PATTERN, min_length=3, max_length=1024)] = Field(
        description="URI of the model. Schemes: builtin, file, hf, http(s), pvc, s3, gs, oci. "
        "Example: builtin://smollm2-135m-instruct or file:///models/olmoe."
    )
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        default=None, description="Branch, tag or commit of the source; unset = the source's default. Example: main."
    )
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$", max_length=64)] | None = Field(
        default=None,
        description="Expected SHA-256 of the weights file, 64 hexadecimal digits; a different file is refused.",
    )
    active_experts: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Experts used per token (top-k) of a mixture-of-experts model; unset = the model's own. Example: 4.",
    )
    max_context_tokens: int | None = Field(
        default=None,
        ge=16,
        le=1_048_576,
        description="Longest prompt plus answer, in tokens; unset = the model's own limit. Example: 8192.",
    )
    credentials_secret_ref: SecretKeyRef | None = Field(
        default=None, description="Secret with the token that the model source asks for. Example: {name: hub-token, key: token}."
    )


class KVCache(ApiModel):
    """The memory that holds keys and values of running requests."""

    memory: Quantity = Field(default="512Mi", description="Bytes of one engine replica's KV cache. Example: 2Gi.")


class Engine(ApiModel):
    """The pods that run the model: tritonserver with our Python-backend engine."""

    cel_rules: ClassVar[tuple[CelRule, ...]] = ()

    replicas: int = Field(default=1, ge=0, le=1000, description="Number of engine pods. Example: 2.")
    resources: Resources = Field(default=Resources(), description="CPU and memory of one engine pod.")
    max_concurrent_requests: int = Field(
        default=16, ge=1, le=1024, description="Requests that one engine pod works on at once; more wait. Example: 16."
    )
    kv_cache: KVCache = Field(default=KVCache(), description="Memory for keys and values of running requests.")


class Auth(ApiModel):
    """Who may call the gateway."""

    api_keys_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret whose key holds the accepted API keys, one a line; unset = no key is asked for. "
        "Example: {name: chat-keys, key: api-keys}.",
    )


class Limits(ApiModel):
    """What one client request may ask for."""

    max_body_bytes: int = Field(
        default=4 * 1024**2, ge=1024, le=256 * 1024**2, description="Largest request body in bytes. Example: 4194304."
    )
    max_output_tokens: int = Field(
        default=4096, ge=1, le=1_048_576, description="Longest answer in tokens that a request may ask for. Example: 4096."
    )
    max_inflight_requests: int = Field(
        default=256, ge=1, le=100_000, description="Requests that one gateway pod holds at once; more get 429. Example: 256."
    )
    request_timeout_seconds: int = Field(
        default=600, ge=1, le=86_400, description="Longest time in seconds for one request, queueing included. Example: 600."
    )


class Gateway(ApiModel):
    """The pods that offer the OpenAI-compatible API."""

    replicas: int = Field(default=1, ge=1, le=1000, description="Number of gateway pods. Example: 2.")
    auth: Auth = Field(default=Auth(), description="Who may call.")
    limits: Limits = Field(default=Limits(), description="What one request may ask for.")
    resources: Resources = Field(default=Resources(), description="CPU and memory of one gateway pod.")


class Endpoint(ApiModel):
    """Where clients reach the deployment."""

    visibility: Visibility = Field(
        default=Visibility.PRIVATE,
        description="Private: the deployment's namespace only; Cluster: every namespace; Public: from outside the cluster.",
    )
    port: int = Field(
        default=8080,
        ge=1,
        le=65535,
        description="TCP port of the gateway Service; in local mode the port on 127.0.0.1. Example: 8080.",
    )


class FlashDeploymentSpec(ApiModel):
    """What to serve."""

    variant: Variant = Field(
        default=Variant.LITE,
        description="Number format: Cloud = bf16, Lite = int8 weights and activations, Nano = int4 weights. Example: Lite.",
    )
    model: Model = Field(description="Which weights to serve.")
    engine: Engine = Field(default=Engine(), description="The pods that run the model.")
    gateway: Gateway = Field(default=Gateway(), description="The pods that offer the API.")
    endpoint: Endpoint = Field(default=Endpoint(), description="Where clients reach the deployment.")


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
        description="Fields of the spec that do not hold where this deployment runs (local mode), each with the reason.",
    )


class ObjectMeta(BaseModel):
    """The part of metav1.ObjectMeta that we read."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: Annotated[str, StringConstraints(pattern=DNS_LABEL_PATTERN, min_length=1, max_length=40)]
    namespace: Annotated[str, StringConstraints(max_length=63)] = "default"
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    deletion_timestamp: str | None = None


class FlashDeployment(ApiModel):
    """Serve one model behind one private OpenAI-compatible endpoint."""

    api_version: Literal["flashplane.dev/v1alpha1"] = "flashplane.dev/v1alpha1"
    kind: Literal["FlashDeployment"] = "FlashDeployment"
    metadata: ObjectMeta
    spec: FlashDeploymentSpec
    status: FlashDeploymentStatus = FlashDeploymentStatus()
