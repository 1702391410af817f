"""The FlashDeployment resource: the fields a user may write. What they read back stands in `status.py`.

Field descriptions are the reference (`kubectl explain fd.spec`): each names its unit and gives an example.
Cross-field rules stand beside the model they belong to, in CEL, and are enforced by the API server; `flash lint`
enforces the same rules without one.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel

from flash_api.quantities import number
from flash_api.rules import Rule
from flash_api.v1alpha1.base import (
    DNS_LABEL_PATTERN,
    DNS_SUBDOMAIN_PATTERN,
    SECRET_KEY_PATTERN,
    SERVICE_NAME_PATTERN,
    SHA256_PATTERN,
    SOURCE_PATTERN,
    ApiModel,
    Quantity,
)
from flash_api.v1alpha1.status import FlashDeploymentStatus

NAME_MAX: Final = 40
"""Of a FlashDeployment: leaves room for `-gateway-` and a hash within the 63 characters of a label."""


def _scheme(source: str) -> str:
    return source.partition("://")[0]


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
    key: Annotated[str, StringConstraints(pattern=SECRET_KEY_PATTERN, min_length=1, max_length=253)] = Field(
        default="api-keys", description="Key inside the Secret whose value is used. Example: api-keys."
    )


class Resources(ApiModel):
    """CPU and memory of one container. Requests and limits are equal, so a pod is never evicted for using its own."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="CpuIsSomething",
            field="cpu",
            cel="!has(self.cpu) || !quantity(self.cpu).isLessThan(quantity('1m'))",
            holds=lambda self: self.cpu is None or number(self.cpu) >= number("1m"),
            rule="must be at least 1m",
            remedy="write cores such as 2, or thousandths such as 500m",
        ),
        Rule(
            name="MemoryIsUsable",
            field="memory",
            cel="!has(self.memory) || !quantity(self.memory).isLessThan(quantity('64Mi'))",
            holds=lambda self: self.memory is None or number(self.memory) >= number("64Mi"),
            rule="must be at least 64Mi",
            remedy="write bytes with a suffix, such as 2Gi; a bare number is bytes and m is thousandths of a byte",
        ),
    )

    cpu: Quantity | None = Field(
        default=None, description="CPU cores, as a Kubernetes quantity; unset = no request. Example: 2 or 500m."
    )
    memory: Quantity | None = Field(
        default=None, description="Memory in bytes, as a Kubernetes quantity; unset = no limit. Example: 2Gi."
    )


class Model(ApiModel):
    """Which weights to serve."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="FileSourceIsAbsolute",
            field="source",
            cel="!self.source.startsWith('file://') || self.source.startsWith('file:///')",
            holds=lambda self: not self.source.startswith("file://") or self.source.startswith("file:///"),
            rule="must be an absolute path after file://",
            remedy="write three slashes, such as file:///models/olmoe",
        ),
        Rule(
            name="SourceStaysInItsFolder",
            field="source",
            cel="!self.source.split('/').exists(part, part == '..')",
            holds=lambda self: ".." not in self.source.split("/"),
            rule="must not contain ..",
            remedy="write the path without steps upwards",
        ),
        Rule(
            name="RevisionNeedsVersionedSource",
            field="revision",
            cel="!has(self.revision) || self.source.startsWith('hf://')",
            holds=lambda self: self.revision is None or self.source.startswith("hf://"),
            rule="must be unset for source {self.source}, which has no revisions",
            remedy="remove revision, or use a source of the scheme hf",
        ),
        Rule(
            name="Sha256NeedsOneFile",
            field="sha256",
            cel="!has(self.sha256) || !['hf', 'oci', 'pvc'].exists(s, self.source.startsWith(s + '://'))",
            holds=lambda self: self.sha256 is None or _scheme(self.source) not in ("hf", "oci", "pvc"),
            rule="must be unset for source {self.source}, which is many files",
            shows_value=False,
            remedy="remove sha256 and pin revision or the digest in the URI instead",
        ),
        Rule(
            name="CredentialsNeedRemoteSource",
            field="credentialsSecretRef",
            cel="!has(self.credentialsSecretRef) || "
            "['hf', 'http', 'https', 's3', 'gs', 'oci'].exists(s, self.source.startsWith(s + '://'))",
            holds=lambda self: (
                self.credentials_secret_ref is None
                or _scheme(self.source) in ("hf", "http", "https", "s3", "gs", "oci")
            ),
            rule="must be unset for source {self.source}, which asks for no credentials",
            shows_value=False,
            remedy="remove credentialsSecretRef",
        ),
    )

    source: Annotated[str, StringConstraints(pattern=SOURCE_PATTERN, min_length=3, max_length=1024)] = Field(
        description="URI of the model: builtin, file (a path where engines run), hf, http(s), pvc, s3, gs or oci. "
        "Example: builtin://smollm2-135m-instruct or file:///models/olmoe."
    )
    revision: Annotated[str, StringConstraints(min_length=1, max_length=128)] | None = Field(
        default=None, description="Branch, tag or commit of the source; unset = the source's default. Example: main."
    )
    sha256: Annotated[str, StringConstraints(pattern=SHA256_PATTERN, max_length=64)] | None = Field(
        default=None,
        description="Expected SHA-256 of the weights file, 64 hexadecimal digits; a different file is refused.",
    )
    active_experts: int | None = Field(
        default=None,
        ge=1,
        le=64,
        description="Experts used per token (top-k) in a mixture-of-experts model; unset = the model's. Example: 4.",
    )
    max_context_tokens: int | None = Field(
        default=None,
        ge=16,
        le=1_048_576,
        description="Longest prompt plus answer, in tokens; unset = the model's own limit. Example: 8192.",
    )
    credentials_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret with the token that the model source asks for. Example: {name: hub-token, key: token}.",
    )


class KVCache(ApiModel):
    """The memory that holds keys and values of running requests."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="KvCacheIsUsable",
            field="memory",
            cel="!quantity(self.memory).isLessThan(quantity('1Mi'))",
            holds=lambda self: number(self.memory) >= number("1Mi"),
            rule="must be at least 1Mi",
            remedy="write bytes with a suffix, such as 512Mi",
        ),
    )

    memory: Quantity = Field(default="512Mi", description="Bytes of one engine replica's KV cache. Example: 2Gi.")


class Engine(ApiModel):
    """The pods that run the model: tritonserver with our Python-backend engine."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="KvCacheFitsInMemory",
            field="kvCache.memory",
            cel="!has(self.resources.memory) || "
            "quantity(self.kvCache.memory).isLessThan(quantity(self.resources.memory))",
            holds=lambda self: (
                self.resources.memory is None or number(self.kv_cache.memory) < number(self.resources.memory)
            ),
            rule="must be less than resources.memory ({self.resources.memory})",
            remedy="raise resources.memory or lower kvCache.memory: the weights need room beside the cache",
        ),
    )

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
        default=4096,
        ge=1,
        le=1_048_576,
        description="Longest answer in tokens that a request may ask for. Example: 4096.",
    )
    max_inflight_requests: int = Field(
        default=256,
        ge=1,
        le=100_000,
        description="Requests that one gateway pod holds at once; more get 429. Example: 256.",
    )
    request_timeout_seconds: int = Field(
        default=600,
        ge=1,
        le=86_400,
        description="Longest time in seconds for one request, queueing included. Example: 600.",
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
        description="Private: from the deployment's namespace; Cluster: from every namespace; Public: from outside.",
    )
    port: int = Field(
        default=8080,
        ge=1,
        le=65535,
        description="TCP port of the gateway Service; in local mode the port on 127.0.0.1. Example: 8080.",
    )


class FlashDeploymentSpec(ApiModel):
    """What to serve."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="PublicEndpointNeedsKeys",
            field="gateway.auth",
            cel="self.endpoint.visibility != 'Public' || has(self.gateway.auth.apiKeysSecretRef)",
            holds=lambda self: (
                self.endpoint.visibility is not Visibility.PUBLIC or self.gateway.auth.api_keys_secret_ref is not None
            ),
            rule="must name apiKeysSecretRef when endpoint.visibility is {self.endpoint.visibility}",
            shows_value=False,
            remedy="name a Secret with API keys, or make the endpoint Private or Cluster",
        ),
    )

    variant: Variant = Field(
        default=Variant.LITE,
        description="Number format: Cloud = bf16, Lite = int8 weights and activations, Nano = int4. Example: Lite.",
    )
    model: Model = Field(description="Which weights to serve.")
    engine: Engine = Field(default=Engine(), description="The pods that run the model.")
    gateway: Gateway = Field(default=Gateway(), description="The pods that offer the API.")
    endpoint: Endpoint = Field(default=Endpoint(), description="Where clients reach the deployment.")


class ObjectMeta(BaseModel):
    """The part of metav1.ObjectMeta that we read."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="ignore", frozen=True)

    name: Annotated[str, StringConstraints(min_length=1, max_length=253)]
    namespace: Annotated[str, StringConstraints(pattern=DNS_LABEL_PATTERN, max_length=63)] = "default"
    uid: str = ""
    resource_version: str = ""
    generation: int = 0
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)
    deletion_timestamp: str | None = None


class FlashDeployment(ApiModel):
    """Serve one model behind one private OpenAI-compatible endpoint."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="NameLeavesRoomForSuffixes",
            field="metadata.name",
            cel=f"size(self.metadata.name) <= {NAME_MAX}",
            holds=lambda self: len(self.metadata.name) <= NAME_MAX,
            rule=f"must have at most {NAME_MAX} characters",
            remedy="choose a shorter name: Services and ConfigMaps are named after it",
        ),
        Rule(
            name="NameIsServiceName",
            field="metadata.name",
            cel=f"self.metadata.name.matches('{SERVICE_NAME_PATTERN}')",
            holds=lambda self: re.fullmatch(SERVICE_NAME_PATTERN, self.metadata.name) is not None,
            rule="must be lower case letters, digits and -, start with a letter and end with a letter or digit",
            remedy="choose a name such as chat or chat-eu: it becomes a Service's DNS name",
        ),
    )

    api_version: Literal["flashplane.dev/v1alpha1"] = "flashplane.dev/v1alpha1"
    kind: Literal["FlashDeployment"] = "FlashDeployment"
    metadata: ObjectMeta
    spec: FlashDeploymentSpec
    status: FlashDeploymentStatus = FlashDeploymentStatus()
