"""Which token comes next: greedy, temperature, top-k, top-p. Knows rows of logits, not sequences or batches.

Random numbers are counter-based: the uniform for a token depends on (seed, position) and nothing else, so a stream
is the same alone, in any batch, after preemption and on another replica. Legend: R rows, V vocabulary, N candidates.
"""

from __future__ import annotations

from collections.abc import Sequence as Row
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import FloatArray
from flash_runtime.wire import GenerateRequest

_MASK: Final = 0xFFFFFFFF


def philox(counter: tuple[int, int, int, int], key: tuple[int, int]) -> tuple[int, int, int, int]:
    """Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011): four 32-bit words."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(10):
        product0 = 0xD2511F53 * c0
        product1 = 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (product1 >> 32) ^ c1 ^ k0, product1 & _MASK, (product0 >> 32) ^ c3 ^ k1, product0 & _MASK
        k0 = (k0 + 0x9E3779B9) & _MASK
        k1 = (k1 + 0xBB67AE85) & _MASK
    return c0, c1, c2, c3


def uniform(seed: int, position: int) -> float:
    """A number in [0, 1) with 53 random bits that belongs to this position of this seed."""
    high, low, _, _ = philox((position & _MASK, position >> 32, 0, 0), (seed & _MASK, seed >> 32))
    return float((high << 21) | (low >> 11)) / 2.0**53


def greedy(logits: FloatArray) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
    """The best token of each row of [R, V] (the first among equals), and whether the row has one: [R], [R]."""
    best = logits.argmax(axis=1)
    # argmax stops at the first NaN, so looking at the winner finds every row that holds one.
    return best, np.isfinite(logits[np.arange(len(best)), best])


def sample(row: FloatArray, request: GenerateRequest, position: int) -> int:
    """The token at `position` of a request with temperature > 0, by inverse CDF over one finite row [V].

    Filters apply in the usual order: temperature, then top-k, then top-p over what is left. Equal logits are ordered by
    token id, so the choice never depends on how a sort broke a tie.
    """
    token_ids, weights = _candidates(row, request)  # [N], [N]
    cumulative = np.cumsum(weights)
    index = int(np.searchsorted(cumulative, uniform(request.seed, position) * cumulative[-1], side="right"))
    index = min(index, len(weights) - 1)
    return index if token_ids is None else int(token_ids[index])


def _candidates(
    row: FloatArray, request: GenerateRequest
) -> tuple[Row[int] | NDArray[np.intp] | None, NDArray[np.float64]]:
    """Token ids (None = all, in order) and their unnormalised probabilities; ordered best first where filtered."""
    vocab_size = len(row)
    token_ids: NDArray[np.intp] | None = None
    if 0 < request.top_k < vocab_size:
        threshold = np.partition(row, vocab_size - request.top_k)[vocab_size - request.top_k]
        token_ids = _best_first(row, np.flatnonzero(row >= threshold))[: request.top_k]
        row = row[token_ids]
    # In float32 until the exponential, in float64 after it: the sums below run over up to V terms.
    with np.errstate(over="ignore"):  # next to temperature 0 all but the best go to minus infinity, which is right
        weights = np.exp((row - row.max()).astype(np.float64) / request.temperature)
    if request.top_p == 1.0:
        return token_ids, weights
    weights /= weights.sum()
    if token_ids is None:
        # Tokens below (1 - p) / V weigh at most 1 - p together, so the nucleus lies among the others: no full sort.
        token_ids = _best_first(row, np.flatnonzero(weights >= (1.0 - request.top_p) / vocab_size))
        weights = weights[token_ids]
    size = int(np.searchsorted(np.cumsum(weights), request.top_p, side="left")) + 1
    return token_ids[:size], weights[:size]


def _best_first(row: FloatArray, token_ids: NDArray[np.intp]) -> NDArray[np.intp]:
    return token_ids[np.argsort(-row[token_ids], kind="stable")]
