"""A packed model of this release, opened for looking at it or for running one sequence. Knows no requests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from flash_runtime.model.plan import ModelPlan
from flash_runtime.model.variants import PACK_VERSION
from flash_runtime.packed import PackedError, PackedFile

if TYPE_CHECKING:
    from flash_runtime.kernels.provider import CpuProvider, KvDtype

BLOCK_TOKENS: Final = 16
_AGAIN: Final = "pull or pack the model again (`flash-pull`, `flash pack`)"


def open_packed(path: Path) -> tuple[PackedFile, ModelPlan]:
    """Map the file and read its plan; raises PackedError for a damaged file or one of another release."""
    packed = PackedFile.open(path)
    if (version := packed.header.get("pack_version")) != PACK_VERSION:
        raise PackedError(f"{path}: pack_version is {version}, this release runs {PACK_VERSION}; {_AGAIN}")
    try:
        return packed, ModelPlan.from_json(packed.header.get("model"))
    except ValueError as error:
        raise PackedError(f"{path}: {error}; {_AGAIN}") from error


def native_provider(path: Path, *, cached_tokens: int, kv_dtype: KvDtype | None = None) -> CpuProvider:
    """The native engine with a cache for one sequence; raises PackedError for a file that it cannot run."""
    from flash_runtime.kernels.provider import MIN_CACHED_TOKENS, CpuProvider, KvDtype, block_bytes

    packed, plan = open_packed(path)
    num_blocks = -(-max(cached_tokens, MIN_CACHED_TOKENS) // BLOCK_TOKENS)
    kv_dtype = kv_dtype or KvDtype.BFLOAT16
    cache_bytes = num_blocks * block_bytes(plan, BLOCK_TOKENS, kv_dtype)
    try:
        return CpuProvider(packed, kv_cache_bytes=cache_bytes, block_size=BLOCK_TOKENS, kv_dtype=kv_dtype)
    except ValueError as error:
        raise PackedError(f"{path}: {error}") from error
