"""The next token of each sequence of a step: adjust its logits, choose, and say how likely the choice was.

Each row is treated by itself, so a sequence's tokens do not depend on the batch around it. Knows no blocks and no
clock. Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flash_runtime.engine.batch import FloatArray
from flash_runtime.engine.errors import EngineError, NonFiniteLogits, NoTokenAllowed
from flash_runtime.engine.sampling import greedy, logprobs_of, sample
from flash_runtime.engine.sequence import Sequence
from flash_runtime.wire import TokenLogprobs


class Chosen(NamedTuple):
    """One token, and its probability where the request asked for it."""

    token_id: int
    logprobs: TokenLogprobs | None = None


def choose(sequences: list[Sequence], logits: FloatArray) -> list[Chosen | EngineError]:
    """A token for each row of [R, V], or why there is none."""
    if not sequences:
        return []
    best, is_finite = greedy(logits)  # [R], [R]
    return [
        _no_finite(sequence)
        if not finite
        else Chosen(token)
        if sequence.takes_best_token
        else _choose_one(sequence, logits[row], token)
        for row, (sequence, token, finite) in enumerate(zip(sequences, best.tolist(), is_finite.tolist(), strict=True))
    ]


def _choose_one(sequence: Sequence, raw: FloatArray, token: int) -> Chosen | EngineError:
    request, row = sequence.request, raw
    if sequence.adjuster is not None:
        row = sequence.adjuster(raw)
        token = int(row.argmax())
        if not np.isfinite(row[token]):
            return NoTokenAllowed(f"no token may stand at position {len(sequence.token_ids)}")
    if request.temperature:
        token = sample(row, request, len(sequence.token_ids))
    return Chosen(token, None if request.logprobs is None else logprobs_of(raw, token, request.logprobs))


def _no_finite(sequence: Sequence) -> NonFiniteLogits:
    position = len(sequence.token_ids)
    return NonFiniteLogits(
        f"the model produced no finite logits for the token at position {position}: its weights may be damaged"
    )
