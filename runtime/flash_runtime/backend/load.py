"""From an engine config to a provider that is ready to run: opens the packed model, makes its KV cache, warms it up."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from flash_api.config.engine import EngineConfig
from flash_api.names import PACKED_MODEL
from flash_runtime.engine.batch import Batch, Provider
from flash_runtime.engine.loop import EngineLimits


@dataclass(frozen=True)
class Loaded:
    """A provider and the tokens that end an answer of its model."""

    provider: Provider
    eos_token_ids: Collection[int]
    expert_load: Callable[[], NDArray[np.int64] | None] = lambda: None
    """Tokens that each expert was given so far [layers, experts]; None for a dense model. From any thread."""


def load(config: EngineConfig) -> Loaded:
    """Open the packed model of `config.model_dir` for this machine's CPU. Raises PackedError or ValueError if unfit."""
    # Imported here: the rest of the backend works, and is tested, without the native part.
    from flash_runtime.kernels.provider import CpuProvider, KvDtype
    from flash_runtime.model.variants import PACK_VERSION
    from flash_runtime.packed import PackedError, PackedFile

    memory_bytes = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if config.kv_cache_bytes > memory_bytes:
        # The cache takes memory only as it fills, so nothing else would refuse it before the machine is out of it.
        raise ValueError(
            f"kv_cache_bytes ({config.kv_cache_bytes}) must not exceed this machine's memory ({memory_bytes} bytes)"
        )
    packed = PackedFile.open(Path(config.model_dir) / PACKED_MODEL)
    if (version := packed.header.get("pack_version")) != PACK_VERSION:
        raise PackedError(
            f"{packed.path}: pack_version is {version}, this release runs {PACK_VERSION}; "
            "pull the model again (`flash-pull`)"
        )
    provider = CpuProvider(
        packed,
        kv_cache_bytes=config.kv_cache_bytes,
        kv_dtype=KvDtype(config.kv_cache_dtype),
        threads=config.threads,
        active_experts=config.active_experts,
    )
    return Loaded(provider, packed.header["text"]["eos_token_ids"], provider.expert_load)


def limits(config: EngineConfig) -> EngineLimits:
    """The engine's limits as the config names them."""
    return EngineLimits(
        max_running=config.max_concurrent_requests,
        max_queued=config.max_queued_requests,
        max_batch_tokens=config.max_batch_tokens,
        max_context_tokens=config.max_context_tokens,
    )


def warm_up(provider: Provider) -> None:
    """One small step, so that the first request does not pay for first touches. Call it before the engine exists."""
    count = min(8, provider.block_size)
    provider.step(
        Batch(
            token_ids=np.zeros(count, dtype=np.int32),
            positions=np.arange(count, dtype=np.int32),
            query_starts=np.array([0, count], dtype=np.int32),
            block_tables=np.zeros((1, 1), dtype=np.int32),
            logit_rows=np.array([count - 1], dtype=np.int32),
        )
    )
