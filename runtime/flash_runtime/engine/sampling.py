"""Which token comes next: temperature, min-p, top-k, top-p. Knows rows of logits, not sequences or batches.

Random numbers are counter-based: the uniform for a token depends on (seed, position) and nothing else, so a stream
is the same alone, in any batch, after preemption and on another replica. Legend: R rows, V vocabulary, N candidates.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as Row
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import FloatArray
from flash_runtime.wire import GenerateRequest, TokenLogprobs

_MASK: Final = 0xFFFFFFFF
LOWEST_LOGPROB: Final = -9999.0
"""Stands for minus infinity, which JSON cannot say; OpenAI's API uses the same number."""
_SEGMENTS: Final = 256
_FIRST_LOOK: Final = 128
"""Most nuclei are smaller than this, and then nothing else needs sorting."""


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


def sample(row: FloatArray, request: GenerateRequest, position: int) -> int:
    """The token at `position` of a request with temperature > 0, by inverse CDF over one row [V] with a finite best.

    Filters apply in vLLM's order (docs.vllm.ai: vllm.v1.sample.sampler): temperature, then min-p, then top-k, then
    top-p over what is left. Equal logits are ordered by token id, so the choice never depends on how a sort broke a
    tie.
    """
    token_ids, weights = _candidates(row, request)  # [N], [N]
    index = _draw(weights, uniform(request.seed, position))
    return index if token_ids is None else int(token_ids[index])


def _draw(weights: NDArray[np.float64], fraction: float) -> int:
    """The index at which the running sum of weights first exceeds this fraction of their total."""
    width = -(-len(weights) // _SEGMENTS)
    if width == 1:
        return _exceeding(weights, fraction * float(weights.sum()))[0]
    # First among sums of segments, then inside one: a running sum over a whole vocabulary costs most of a sample.
    count = len(weights) // width
    sums = weights[: count * width].reshape(count, width).sum(axis=1)
    sums = np.append(sums, weights[count * width :].sum())
    segment, rest = _exceeding(sums, fraction * float(sums.sum()))
    return segment * width + _exceeding(weights[segment * width : (segment + 1) * width], rest)[0]


def _exceeding(weights: NDArray[np.float64], target: float) -> tuple[int, float]:
    """The index at which the running sum first exceeds `target`, and what is left of the target before it."""
    cumulative = np.cumsum(weights)
    index = int(np.searchsorted(cumulative, target, side="right"))
    if index == len(weights):  # sums are rounded: then it is the last one that has any weight
        index = int(np.flatnonzero(weights)[-1])
    return index, target - (float(cumulative[index - 1]) if index else 0.0)


def logprobs_of(row: FloatArray, token: int, num_top: int) -> TokenLogprobs:
    """How likely `token` and the `num_top` likeliest tokens were in the model's own distribution, logits [V].

    That is before mask, bias, penalties and temperature, as in vLLM (its `raw_logprobs`) for lack of a definition in
    OpenAI's reference.
    """
    highest = row.max()
    log_sum = float(highest) + float(np.log(np.exp(row - highest).sum(dtype=np.float64)))
    top = _top(row, num_top).tolist() if num_top else []
    return TokenLogprobs(_logprob(row[token], log_sum), tuple((id_, _logprob(row[id_], log_sum)) for id_ in top))


def _logprob(logit: np.float32, log_sum: float) -> float:
    # Six decimals are what float32 logits are good for, and short on the wire.
    return max(round(float(logit) - log_sum, 6), LOWEST_LOGPROB)


def _candidates(
    row: FloatArray, request: GenerateRequest
) -> tuple[Row[int] | NDArray[np.intp] | None, NDArray[np.float64]]:
    """Token ids (None = all, in order) and their unnormalised probabilities; ordered best first where filtered."""
    vocab_size = len(row)
    token_ids: NDArray[np.intp] | None = None
    if request.min_p:
        # softmax(row / T) >= min_p * its maximum, without the softmax.
        threshold = float(row.max()) + request.temperature * math.log(request.min_p)
        token_ids = _best_first(row, np.flatnonzero(row >= np.float32(threshold)))
        token_ids = token_ids[: request.top_k or None]
    elif 0 < request.top_k < vocab_size:
        token_ids = _top(row, request.top_k)
    if token_ids is not None:
        row = row[token_ids]
    # In float32 until the exponential, in float64 after it: the sums below run over up to V terms.
    with np.errstate(over="ignore"):  # next to temperature 0 all but the best go to minus infinity, which is right
        weights = np.exp((row - row.max()).astype(np.float64) / request.temperature)
    if request.top_p == 1.0:
        return token_ids, weights
    total = float(weights.sum())
    nucleus = request.top_p * total
    if token_ids is None and weights[first := _top(row, _FIRST_LOOK)].sum() > nucleus:
        token_ids, weights = first, weights[first]
    if token_ids is None:
        # Tokens below (1 - p) / V weigh at most 1 - p together, so the nucleus lies among the others: no full sort.
        token_ids = _best_first(row, np.flatnonzero(weights >= (total - nucleus) / vocab_size))
        weights = weights[token_ids]
    size = int(np.searchsorted(np.cumsum(weights), nucleus, side="left")) + 1
    return token_ids[:size], weights[:size]


def _top(row: FloatArray, count: int) -> NDArray[np.intp]:
    """Ids of the `count` highest logits of [V], best first."""
    vocab_size = len(row)
    width = vocab_size // _SEGMENTS
    if count >= vocab_size:
        return _best_first(row, np.arange(vocab_size))
    if width > 1 and count <= _SEGMENTS // 2:
        # As many segments reach their `count`-th best maximum as tokens do at least, so no top token is below it.
        maxima = row[: width * _SEGMENTS].reshape(_SEGMENTS, width).max(axis=1)
        threshold = np.partition(maxima, _SEGMENTS - count)[_SEGMENTS - count]
    else:
        threshold = np.partition(row, vocab_size - count)[vocab_size - count]
    return _best_first(row, np.flatnonzero(row >= threshold))[:count]


def _best_first(row: FloatArray, token_ids: NDArray[np.intp]) -> NDArray[np.intp]:
    return token_ids[np.argsort(-row[token_ids], kind="stable")]
