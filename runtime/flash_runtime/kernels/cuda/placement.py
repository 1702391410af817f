"""Where a step's tokens lie in the paged cache, and what each sequence sees: a checked batch as plain integers.

NumPy on the host, no torch: an index out of its range is refused here, because on a GPU it would end the process.

Legend: T tokens of the step, P positions that a sequence's tokens may see.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import Batch, IntArray

Slots = NDArray[np.int64]


@dataclass(frozen=True)
class Sequence:
    """One sequence's part of the step."""

    rows: slice
    """Its tokens among T."""
    slots: Slots
    """[P] where the keys of positions 0, 1, … lie; the step's own are among them."""


@dataclass(frozen=True)
class Placement:
    """Slot = block * block_size + offset."""

    slots: Slots  # [T] where each token's key and value go
    sequences: tuple[Sequence, ...]


@dataclass(frozen=True)
class Bounds:
    """What the indices of a batch may reach."""

    vocab_size: int
    max_context_tokens: int
    num_blocks: int
    block_size: int


def place(batch: Batch, bounds: Bounds) -> Placement:
    """Raises ValueError naming the field, the value and its range."""
    tokens, size = len(batch.token_ids), bounds.block_size
    if len(batch.positions) != tokens:
        raise ValueError(f"positions has {len(batch.positions)} elements, expected {tokens}")
    _check("token_ids", batch.token_ids, bounds.vocab_size)
    _check("positions", batch.positions, bounds.max_context_tokens)
    _check("logit_rows", batch.logit_rows, tokens)
    _check("best_rows", batch.best_rows, tokens)
    slots = np.empty(tokens, dtype=np.int64)
    sequences = []
    for rows, table in _parts(batch, tokens):
        positions = batch.positions[rows].astype(np.int64)
        if not len(positions):
            continue
        seen = np.arange(positions.max() + 1)  # [P]
        if len(table) * size < len(seen):
            raise ValueError(f"block_tables has {len(table)} blocks of {size} tokens for {len(seen)} positions")
        blocks = table[seen // size]
        _check("block_tables", blocks, bounds.num_blocks)
        held = blocks.astype(np.int64) * size + seen % size
        slots[rows] = held[positions]
        sequences.append(Sequence(rows=rows, slots=held))
    return Placement(slots=slots, sequences=tuple(sequences))


def _parts(batch: Batch, tokens: int) -> Iterator[tuple[slice, IntArray]]:
    starts = batch.query_starts
    if len(starts) == 0 or starts[0] != 0 or starts[-1] != tokens or (np.diff(starts) < 0).any():
        raise ValueError(f"query_starts ({starts.tolist()}) must rise from 0 to the {tokens} tokens of the step")
    if len(batch.block_tables) != len(starts) - 1:
        raise ValueError(f"block_tables has {len(batch.block_tables)} rows, expected {len(starts) - 1}")
    for index, table in enumerate(batch.block_tables):
        yield slice(int(starts[index]), int(starts[index + 1])), table


def _check(name: str, values: IntArray, end: int) -> None:
    wrong = values[(values < 0) | (values >= end)]
    if len(wrong):
        raise ValueError(f"{name} ({wrong[0]}) must lie in 0..{end - 1}")
