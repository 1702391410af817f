"""Where a step's tokens lie and what they see, and which batches are refused before anything is computed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from flash_runtime.engine.batch import Batch
from flash_runtime.kernels.cuda.placement import Bounds, place

BOUNDS = Bounds(vocab_size=101, max_context_tokens=512, num_blocks=32, block_size=4)


def ints(*values: Any) -> np.ndarray:
    return np.array(values, dtype=np.int32)


# A prompt's tokens 3..5 over blocks 7 and 2, and one token at position 0 in block 9.
BATCH = Batch(
    token_ids=ints(1, 2, 3, 4),
    positions=ints(3, 4, 5, 0),
    query_starts=ints(0, 3, 4),
    block_tables=ints([7, 2], [9, -1]),
    logit_rows=ints(2, 3),
)


def test_a_token_goes_to_its_block_and_offset() -> None:
    assert place(BATCH, BOUNDS).slots.tolist() == [7 * 4 + 3, 2 * 4, 2 * 4 + 1, 9 * 4]


def test_a_sequence_sees_its_positions_in_order_and_no_more() -> None:
    first, second = place(BATCH, BOUNDS).sequences
    assert first.rows == slice(0, 3)
    assert first.slots.tolist() == [28, 29, 30, 31, 8, 9]
    assert second.rows == slice(3, 4)
    assert second.slots.tolist() == [36]


def test_a_sequence_without_tokens_takes_no_part() -> None:
    batch = replace(BATCH, query_starts=ints(0, 3, 3, 4), block_tables=ints([7, 2], [-1, -1], [9, -1]))
    assert len(place(batch, BOUNDS).sequences) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"token_ids": ints(0, 1, 2, 101)}, r"token_ids \(101\) must lie in 0..100"),
        ({"token_ids": ints(0, -1, 2, 3)}, r"token_ids \(-1\)"),
        ({"positions": ints(3, 4, 512, 0)}, r"positions \(512\) must lie in 0..511"),
        ({"positions": ints(3, 4, 5, 4)}, r"block_tables \(-1\) must lie in 0..31"),
        ({"positions": ints(3, 4, 8, 0)}, "block_tables has 2 blocks of 4 tokens for 9 positions"),
        ({"positions": ints(3)}, "positions has 1 elements, expected 4"),
        ({"block_tables": ints([7, 32], [9, -1])}, r"block_tables \(32\)"),
        ({"block_tables": ints([7, 2])}, "block_tables has 1 rows, expected 2"),
        ({"query_starts": ints(0, 5, 4)}, r"query_starts \(\[0, 5, 4\]\)"),
        ({"query_starts": ints(1, 3, 4)}, "query_starts"),
        ({"query_starts": np.array([], dtype=np.int32)}, "query_starts"),
        ({"logit_rows": ints(4)}, r"logit_rows \(4\) must lie in 0..3"),
    ],
)
def test_a_batch_with_an_index_out_of_range_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        place(replace(BATCH, **changes), BOUNDS)
