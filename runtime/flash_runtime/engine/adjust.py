"""What a request changes about the model's logits before a token is chosen: token mask, logit bias, penalties.

Knows one sequence's tokens, not batches or randomness. Order and definitions are vLLM's, so that a request means the
same there and here (docs.vllm.ai: vllm.v1.sample.sampler, SamplingParams): mask, bias, then repetition, frequency and
presence penalty; temperature and filters follow in `sampling`. Frequency and presence count *generated* tokens, the
repetition penalty also those of the prompt. Legend: V vocabulary, S distinct tokens seen.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import FloatArray
from flash_runtime.wire import GenerateRequest


class TokenMask(Protocol):
    """Which tokens may come next, decided from outside (a grammar). One object serves one sequence, from its start.

    A preempted sequence keeps its tokens and its mask; only keys and values are computed again. It runs on the engine's
    thread: what it raises ends the engine, and its time is every request's.
    """

    def allowed(self) -> NDArray[np.bool_]:
        """True for every token that may come next: [V]. Read before the next call, never changed."""

    def advance(self, token_id: int) -> None:
        """The token that was chosen and is now part of the output. A stop token is not."""

    def count_allowed(self, token_ids: Ids[int]) -> int:
        """How many of these tokens, from the first on, may come next one after another. Changes nothing."""


class Adjuster:
    """One sequence's changes to its logits. Holds the counts they depend on."""

    def __init__(self, request: GenerateRequest, prompt_ids: Ids[int], mask: TokenMask | None) -> None:
        self._request = request
        self._mask = mask
        self._bias_ids = np.fromiter(request.logit_bias.keys(), dtype=np.intp)
        self._biases = np.fromiter(request.logit_bias.values(), dtype=np.float32)
        self._output = _Seen()
        self._context = _Seen()
        if request.repetition_penalty != 1.0:
            for token_id in prompt_ids:
                self._context.add(token_id)
        if request.frequency_penalty or request.presence_penalty:
            for token_id in prompt_ids[max(0, len(prompt_ids) - request.num_resumed) :]:
                self._output.add(token_id)

    def advance(self, token_id: int) -> None:
        """Take in the token that was chosen."""
        if self._request.frequency_penalty or self._request.presence_penalty:
            self._output.add(token_id)
        if self._request.repetition_penalty != 1.0:
            self._context.add(token_id)
        if self._mask is not None:
            self._mask.advance(token_id)

    def count_allowed(self, token_ids: Ids[int]) -> int:
        """How many of these tokens, from the first on, the mask lets come next."""
        return len(token_ids) if self._mask is None else self._mask.count_allowed(token_ids)

    def __call__(self, row: FloatArray) -> FloatArray:
        """A changed copy of finite logits [V]; what the mask forbids is -inf."""
        row = row.copy()
        if self._mask is not None:
            allowed = self._mask.allowed()  # [V]
            # A mask of another size belongs to another vocabulary: nothing may be chosen by it.
            row[~allowed if allowed.shape == row.shape else slice(None)] = -np.inf
        if len(self._bias_ids):
            row[self._bias_ids] += self._biases
        penalty = np.float32(self._request.repetition_penalty)
        if penalty != 1.0:
            ids = self._context.token_ids  # [S]
            logits = row[ids]
            row[ids] = np.where(logits > 0, logits / penalty, logits * penalty)
        if len(ids := self._output.token_ids):  # [S]
            row[ids] -= np.float32(self._request.frequency_penalty) * self._output.counts
            row[ids] -= np.float32(self._request.presence_penalty)
        return row


def adjuster(request: GenerateRequest, prompt_ids: Ids[int], mask: TokenMask | None = None) -> Adjuster | None:
    """None for a request that takes the logits as they are."""
    is_plain = (
        mask is None
        and not request.logit_bias
        and not request.frequency_penalty
        and not request.presence_penalty
        and request.repetition_penalty == 1.0
    )
    return None if is_plain else Adjuster(request, prompt_ids, mask)


class _Seen:
    """Distinct tokens and how often each was seen, as arrays that grow by doubling."""

    def __init__(self) -> None:
        self._index: dict[int, int] = {}
        self._token_ids = np.zeros(64, dtype=np.intp)
        self._counts = np.zeros(64, dtype=np.float32)

    @property
    def token_ids(self) -> NDArray[np.intp]:
        return self._token_ids[: len(self._index)]  # [S]

    @property
    def counts(self) -> FloatArray:
        return self._counts[: len(self._index)]  # [S]

    def add(self, token_id: int) -> None:
        at = self._index.setdefault(token_id, len(self._index))
        if at == len(self._counts):
            self._token_ids = np.concatenate([self._token_ids, np.zeros_like(self._token_ids)])
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
        self._token_ids[at] = token_id
        self._counts[at] += 1
