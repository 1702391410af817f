"""The seam between the engine loop and an ops provider: one step's work as plain integer arrays.

Legend: T tokens of the step, S sequences, B blocks of the longest sequence, R rows of logits wanted, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]


@dataclass(frozen=True)
class Batch:
    """One engine step. A sequence's tokens are consecutive; their keys and values are written to its blocks."""

    token_ids: IntArray  # [T]
    positions: IntArray  # [T] position of each token in its sequence
    query_starts: IntArray  # [S + 1] tokens of sequence s are query_starts[s]:query_starts[s + 1]
    block_tables: IntArray  # [S, B] physical block of each logical block, -1 past the end
    logit_rows: IntArray  # [R] indices into T


class Provider(Protocol):
    """Executes steps of one loaded model over its own paged KV cache."""

    vocab_size: int
    max_context_tokens: int
    num_blocks: int
    """Blocks of the paged KV cache."""
    block_size: int
    """Tokens per block."""

    def step(self, batch: Batch) -> FloatArray:
        """Run the batch; attention of a token sees its sequence's positions 0..own. Returns logits [R, V], float32."""
