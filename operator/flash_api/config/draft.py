"""What the operator hands to a draft pod: the content of `draft.json`. Knows no Kubernetes and no tritonserver."""

from __future__ import annotations

from pydantic import Field

from flash_api.config.server import ServerConfig


class DraftConfig(ServerConfig):
    """One draft process: which packed model proposes, and for how many sequences at once."""

    rollout_revision: str = Field(min_length=1, max_length=128)
    """Of the deployment's template. Engines of another one get no proposals: see `EngineDraft.rollout_revision`."""
    kv_cache_bytes: int = Field(default=256 * 1024**2, ge=1024**2)
    max_sequences: int = Field(default=64, ge=1, le=4096)
    """Sequences of all engines that it keeps at once; those asked about last stay."""
    shutdown_seconds: int = Field(default=10, ge=1, le=3600)
    """How long engines have after SIGTERM to let go; they do at once."""
