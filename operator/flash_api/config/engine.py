"""What the operator hands to an engine pod: the content of `engine.json`. Knows no Kubernetes and no tritonserver."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from flash_api.config.server import ServerConfig
from flash_api.v1alpha1.engine import LOOKAHEAD_MAX, DraftMode


class EngineDraft(BaseModel):
    """Where one engine process takes proposals for the next tokens from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    mode: DraftMode
    lookahead: int | None = Field(default=None, ge=1, le=LOOKAHEAD_MAX)
    """Tokens proposed at once; None = what pays, as measured."""
    model_dir: str | None = None
    """Of mode InProcess: the folder that holds the draft's `model.flash`."""
    endpoints: tuple[str, ...] = ()
    """Of mode Pods: `host:port` of the drafts' gRPC. A name stands for all addresses that it resolves to."""
    rollout_revision: str | None = Field(default=None, min_length=1, max_length=128)
    """Of mode Pods: drafts of another one (`DraftConfig.rollout_revision`) are not asked."""

    @model_validator(mode="after")
    def _pods_are_named(self) -> Self:
        if self.mode is DraftMode.PODS:
            if not self.endpoints:
                raise ValueError("endpoints must name at least one host:port when mode is Pods")
            if self.rollout_revision is None:
                raise ValueError("rollout_revision must be set when mode is Pods: drafts are rolled with their engines")
        for endpoint in self.endpoints:
            host, _, port = endpoint.rpartition(":")
            if not host or not port.isdigit() or not 0 < int(port) < 65536:
                raise ValueError(f"endpoints ({endpoint}) must be host:port with a port from 1 to 65535")
        return self


class EngineConfig(ServerConfig):
    """One engine process: which packed model it serves and how much it may hold at once."""

    max_context_tokens: int | None = Field(default=None, ge=16, le=1_048_576)
    """Prompt plus answer, in tokens; None = the model's own limit."""
    active_experts: int | None = Field(default=None, ge=1, le=64)
    max_concurrent_requests: int = Field(default=16, ge=1, le=1024)
    """Sequences that share one engine step; more wait in a queue."""
    max_queued_requests: int = Field(default=128, ge=0, le=100_000)
    max_batch_tokens: int = Field(default=512, ge=16, le=65_536)
    """Tokens (prefill and decode) computed in one step."""
    kv_cache_bytes: int = Field(default=512 * 1024**2, ge=1024**2)
    draft: EngineDraft | None = None
    """None = every step yields one token of a sequence."""
    shutdown_seconds: int = Field(default=30, ge=1, le=3600)
    """How long running streams may go on after SIGTERM."""
