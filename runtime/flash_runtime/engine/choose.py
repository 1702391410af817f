"""The next token of each sequence of a step: adjust its logits, choose, and say how likely the choice was.

A token is chosen from its row with the random number of its position, given the tokens before it. So a proposal holds
exactly if it is the token that would have been chosen anyway: answers are the same with proposals and without, greedy
or sampled, and a proposed token holds with the probability that the model gives it.

Each row is treated by itself, so a sequence's tokens do not depend on the batch around it. Sequences that take the best
token as it is got it from the provider. Knows no blocks and no clock. Legend: R rows, V vocabulary.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from flash_runtime.engine.batch import NO_TOKEN, Answers, FloatArray
from flash_runtime.engine.errors import EngineError, NonFiniteLogits, NoTokenAllowed
from flash_runtime.engine.sampling import logprobs_of, sample
from flash_runtime.engine.sequence import Sequence
from flash_runtime.wire import TokenLogprobs


class Chosen(NamedTuple):
    """One token, and its probability where the request asked for it."""

    token_id: int
    logprobs: TokenLogprobs | None = None


class Choices:
    """The answers of one step, taken out sequence by sequence in the step's order, and token by token."""

    def __init__(self, answers: Answers) -> None:
        self._best: list[int] = answers.best.tolist()
        self._logits = answers.logits
        self._next_best = self._next_row = 0

    def take(self, sequence: Sequence, count: int) -> int:
        """The first of a sequence's next `count` rows, of the kind that it uses."""
        if sequence.takes_best_token:
            first, self._next_best = self._next_best, self._next_best + count
        else:
            first, self._next_row = self._next_row, self._next_row + count
        return first

    def choose(self, sequence: Sequence, row: int) -> Chosen | EngineError:
        """The sequence's next token from one of its rows, or why there is none."""
        if sequence.takes_best_token:
            token = self._best[row]
            return Chosen(token) if token != NO_TOKEN else _no_finite(sequence)
        logits = self._logits[row]
        token = int(logits.argmax())
        # argmax stops at the first NaN, so looking at the winner finds every row that holds one.
        return _choose_one(sequence, logits, token) if np.isfinite(logits[token]) else _no_finite(sequence)


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
