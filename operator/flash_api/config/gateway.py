"""What the operator hands to a gateway pod: the content of `gateway.json`. Knows no Kubernetes."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class GatewayLimits(BaseModel):
    """Bounds on what one client request may ask for, checked before any work starts."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_body_bytes: int = Field(default=4 * 1024**2, ge=1024)
    max_output_tokens: int = Field(default=4096, ge=1)
    max_choices: int = Field(default=4, ge=1, le=128)
    request_timeout_seconds: int = Field(default=600, ge=1)
    """Whole request, from body read to last token."""
    stall_timeout_seconds: int = Field(default=30, ge=1)
    """Longest silence of an engine stream before it counts as dead."""
    max_inflight_requests: int = Field(default=256, ge=1)


class GatewayTls(BaseModel):
    """The certificate that clients see, as PEM files that may be renewed at any time."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    certificate_file: str
    key_file: str


class GatewayOidc(BaseModel):
    """The OpenID Connect provider whose tokens are accepted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    issuer_url: str
    audiences: tuple[str, ...]
    """A token must name one of them."""
    username_claim: str = "sub"


class GatewayTracing(BaseModel):
    """The OpenTelemetry collector that takes traces."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    endpoint: str
    """Base URL of OTLP over HTTP."""
    sampling_percent: int = Field(default=1, ge=0, le=100)
    """Of requests whose client has not decided."""


class CanaryEngines(BaseModel):
    """Engines of a revision on trial, and how much of the work they get while there are any."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    engine: str
    """`host:port` of their gRPC. That the host has no address is the usual case: nothing is on trial."""
    percent: int = Field(ge=1, le=50)
    """Share of the conversations that they answer."""


class GatewayConfig(BaseModel):
    """One gateway process: the model it offers, the engines behind it, who may call."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    served_model_name: str
    engine: str
    """`host:port` of the engines' gRPC; every address the host resolves to is one replica."""
    canary: CanaryEngines | None = None
    """None = no revision is ever tried on a share of the requests."""
    engine_metrics: str | None = None
    """`host:port` of the engines' metrics, which say what proposals are worth; None = there is no draft to tell of."""
    regions: tuple[str, ...] = ()
    """Where engines may be; empty = anywhere. Clients are told where none can be reached."""
    model_dir: str
    """Folder that holds `model.flash`: the tokenizer and chat template are read from it."""
    max_context_tokens: int | None = None
    api_keys_file: str | None = None
    """One key a line, `#` comments allowed; None = there are none."""
    oidc: GatewayOidc | None = None
    """None = no tokens are accepted. With neither keys nor tokens nobody is asked who they are."""
    tls: GatewayTls | None = None
    """None = plain HTTP."""
    tracing: GatewayTracing | None = None
    """None = no traces."""
    limits: GatewayLimits = GatewayLimits()
    drain_seconds: int = Field(default=30, ge=1)
    """How long running requests may go on after SIGTERM."""
    canary_seconds: float = Field(default=5.0, gt=0)
    """How long one answer of `/readyz` (a real one-token request) may be reused."""
