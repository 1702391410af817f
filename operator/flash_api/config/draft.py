"""What the operator hands to a draft pod: the content of `draft.json`. Knows no Kubernetes and no tritonserver."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from flash_api.v1alpha1.engine import KVCacheDtype
from flash_api.v1alpha1.flashdeployment import Variant
from flash_api.v1alpha1.observability import LogLevel


class DraftConfig(BaseModel):
    """One draft process: which packed model proposes, and for how many sequences at once."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    served_model_name: str
    """The FlashDeployment's name: what its metrics are labelled with."""
    source: str
    """Source URI of the draft model, e.g. `builtin://flash-tiny-draft`."""
    revision: str | None = None
    sha256: str | None = None
    """Expected digest of the source's weights file; a mismatch stops the pull."""
    variant: Variant = Variant.LITE
    model_dir: str
    """Folder that holds `model.flash` (the packed model) after the pull."""
    rollout_revision: str = Field(min_length=1, max_length=128)
    """Of the deployment's template. Engines of another one get no proposals: see `EngineDraft.rollout_revision`."""
    kv_cache_bytes: int = Field(default=256 * 1024**2, ge=1024**2)
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.BFLOAT16
    max_sequences: int = Field(default=64, ge=1, le=4096)
    """Sequences of all engines that it keeps at once; those asked about last stay."""
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of the kernels; None = from the cgroup quota."""
    log_level: LogLevel = LogLevel.INFO
    """Least serious lines of the model process that are still written."""
    shutdown_seconds: int = Field(default=10, ge=1, le=3600)
    """How long engines have after SIGTERM to let go; they do at once."""
