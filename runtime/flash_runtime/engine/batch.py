"""The seam between the engine loop and an ops provider: one step's work as plain integer arrays.

Legend: T tokens of the step, S sequences, B blocks of the longest sequence, R rows whose logits are wanted, C rows of
which only the best token is, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

IntArray = NDArray[np.int32]
FloatArray = NDArray[np.float32]

NO_TOKEN: Final = -1
"""Stands among best tokens for a row that has none, because its logits are not finite."""


def _no_rows() -> IntArray:
    return np.empty(0, dtype=np.int32)


@dataclass(frozen=True)
class Batch:
    """One engine step. A sequence's tokens are consecutive; their keys and values are written to its blocks."""

    token_ids: IntArray  # [T]
    positions: IntArray  # [T] position of each token in its sequence
    query_starts: IntArray  # [S + 1] tokens of sequence s are query_starts[s]:query_starts[s + 1]
    block_tables: IntArray  # [S, B] physical block of each logical block; -1 past the end and before the window
    logit_rows: IntArray  # [R] indices into T
    best_rows: IntArray = field(default_factory=_no_rows)  # [C] indices into T

    @property
    def head_rows(self) -> IntArray:
        """Tokens that pass the head, [R + C]: those that want logits first."""
        return np.concatenate([self.logit_rows, self.best_rows])


class Answers(NamedTuple):
    """What a step says. Choosing where the logits are made costs less than carrying them to where they are sampled."""

    logits: FloatArray  # [R, V]
    best: IntArray  # [C] the token with the highest logit, the lowest id among equals; NO_TOKEN where it is not finite

    @classmethod
    def of(cls, logits: FloatArray, batch: Batch) -> Answers:
        """For a provider that makes all logits [R + C, V] alike, those of `batch.head_rows`."""
        count = len(batch.logit_rows)
        best, is_finite = highest(logits[count:])
        return cls(logits[:count], np.where(is_finite, best, NO_TOKEN).astype(np.int32))


def highest(logits: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The best token of each row of [C, V] (the first among equals), and whether the row has one: [C], [C]."""
    best = logits.argmax(axis=1)
    # argmax stops at the first NaN, so looking at the winner finds every row that holds one.
    return best, np.isfinite(logits[np.arange(len(best)), best])


class Provider(Protocol):
    """Executes steps of one loaded model over its own paged KV cache."""

    vocab_size: int
    max_context_tokens: int
    num_blocks: int
    """Blocks of the paged KV cache."""
    block_size: int
    """Tokens per block."""
    window: int | None
    """Positions a token sees in any layer, its own among them; earlier blocks may be missing. None = all before it."""

    def step(self, batch: Batch) -> Answers:
        """Run the batch; attention of a token sees its sequence's positions 0..own."""
