"""What engine and draft pods are told alike: which packed model their process holds, and how. Knows no Kubernetes, and
no tritonserver."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from flash_api.v1alpha1.engine import KVCacheDtype
from flash_api.v1alpha1.flashdeployment import Variant
from flash_api.v1alpha1.observability import LogLevel


class ServerConfig(BaseModel):
    """One process of tritonserver with one packed model."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    served_model_name: str
    """The FlashDeployment's name: what clients call the model, and what metrics are labelled with."""
    source: str
    """Model source URI, e.g. `builtin://smollm2-135m-instruct`."""
    revision: str | None = None
    sha256: str | None = None
    """Expected digest of the source's weights file; a mismatch stops the pull."""
    variant: Variant = Variant.LITE
    model_dir: str
    """Folder that holds `model.flash` (the packed model) after the pull."""
    kv_cache_dtype: KVCacheDtype = KVCacheDtype.BFLOAT16
    threads: int | None = Field(default=None, ge=1, le=1024)
    """CPU threads of the kernels; None = from the cgroup quota."""
    log_level: LogLevel = LogLevel.INFO
    """Least serious lines of the model process that are still written."""
