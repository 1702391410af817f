"""The pods that offer the OpenAI-compatible API: who may call and how much one call may ask for."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field, StringConstraints

from flash_api.v1alpha1.base import CLAIM_PATTERN, HTTPS_PATTERN, LIST_AS_SET, ApiModel, SecretKeyRef, each_once
from flash_api.v1alpha1.resources import Resources


class Oidc(ApiModel):
    """Callers show a token of an OpenID Connect provider."""

    issuer_url: Annotated[str, StringConstraints(pattern=HTTPS_PATTERN, min_length=9, max_length=512)] = Field(
        alias="issuerURL",
        description="URL of the provider, exactly as its tokens name it; its keys are found below it and are asked for "
        "by the gateway pods, with the certificate authorities of their image. Example: "
        "https://login.example.com/realms/acme.",
    )
    audiences: Annotated[
        list[Annotated[str, StringConstraints(min_length=1, max_length=256)]],
        Field(min_length=1, max_length=8),
        AfterValidator(each_once),
    ] = Field(
        json_schema_extra=LIST_AS_SET,
        description="Audiences of which a token must name one, so that a token for another service does not open this "
        "one. Example: [flashplane].",
    )
    username_claim: Annotated[str, StringConstraints(pattern=CLAIM_PATTERN, min_length=1, max_length=128)] = Field(
        default="sub",
        description="Claim that names the caller: callers of different names share no cached prompts. An email counts "
        "unless email_verified says that it is not. Example: email.",
    )


class Auth(ApiModel):
    """Who may call the gateway."""

    api_keys_secret_ref: SecretKeyRef | None = Field(
        default=None,
        description="Secret whose key holds the accepted API keys, one a line; unset = no key is asked for. "
        "Example: {name: chat-keys, key: api-keys}.",
    )
    oidc: Oidc | None = Field(
        default=None, description="OpenID Connect provider whose tokens are accepted, beside API keys if both are set."
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
