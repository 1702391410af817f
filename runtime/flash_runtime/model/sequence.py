"""One sequence of tokens through a provider, chunk by chunk; it has the cache to itself. Knows no scheduler."""

from __future__ import annotations

from typing import Final

import numpy as np

from flash_runtime.engine.batch import Batch, FloatArray, IntArray, Provider

CHUNK_TOKENS: Final = 128
"""Tokens of one step: it bounds the rows of logits in memory at once."""


class Sequence:
    """Feeds tokens in order; its keys and values lie in the provider's first blocks."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._num_cached_tokens = 0

    def feed(self, token_ids: IntArray) -> FloatArray:
        """Logits [T, V] after each of the next tokens [T]; raises ValueError where they outgrow context or cache."""
        provider, start = self._provider, self._num_cached_tokens
        end = start + len(token_ids)
        room = min(provider.max_context_tokens, provider.num_blocks * provider.block_size)
        if end > room:
            raise ValueError(
                f"the sequence would be {end} tokens long, the model's cache holds {room}: use fewer tokens"
            )
        self._num_cached_tokens = end
        return provider.step(
            Batch(
                token_ids=np.asarray(token_ids, dtype=np.int32),
                positions=np.arange(start, end, dtype=np.int32),
                query_starts=np.array([0, len(token_ids)], dtype=np.int32),
                block_tables=np.arange(-(-end // provider.block_size), dtype=np.int32)[None, :],
                logit_rows=np.arange(len(token_ids), dtype=np.int32),
            )
        ).logits
