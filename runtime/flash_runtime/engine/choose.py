"""The next token of each sequence of a step: adjust its logits, choose, and say how likely the choice was.

Each row is treated by itself, so a sequence's tokens do not depend on the batch around it. Sequences that take the best
token as it is got it from the provider. Knows no blocks and no clock. Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from flash_runtime.engine.batch import NO_TOKEN, Answers, FloatArray, highest
from flash_runtime.engine.errors import EngineError, NonFiniteLogits, NoTokenAllowed
from flash_runtime.engine.sampling import logprobs_of, sample
from flash_runtime.engine.sequence import Sequence
from flash_runtime.wire import TokenLogprobs


class Chosen(NamedTuple):
    """One token, and its probability where the request asked for it."""

    token_id: int
    logprobs: TokenLogprobs | None = None


def choose(sequences: list[Sequence], answers: Answers) -> list[Chosen | EngineError]:
    """A token for each sequence, or why there is none. The answers of each kind are in the sequences' order."""
    best = iter(answers.best.tolist())
    others = _choices([sequence for sequence in sequences if not sequence.takes_best_token], answers.logits)
    return [
        next(others)
        if not sequence.takes_best_token
        else Chosen(token)
        if (token := next(best)) != NO_TOKEN
        else _no_finite(sequence)
        for sequence in sequences
    ]


def _choices(sequences: list[Sequence], logits: FloatArray) -> Iterator[Chosen | EngineError]:
    if not sequences:
        return
    best, is_finite = highest(logits)  # [R], [R]
    for sequence, row, token, finite in zip(sequences, logits, best.tolist(), is_finite.tolist(), strict=True):
        yield _choose_one(sequence, row, token) if finite else _no_finite(sequence)


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
