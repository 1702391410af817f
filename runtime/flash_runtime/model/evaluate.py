"""How much quality a number format costs: every provider over the same text, each token against the reference.

Perplexity is exp of the mean negative log-likelihood of each token after the first of its window. Knows providers and
token ids; knows no files and no variants.

Legend: T tokens of a chunk, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from flash_runtime.engine.batch import FloatArray, IntArray, Provider
from flash_runtime.model import sequence

OnTokens = Callable[[int], None]
"""Told how many more tokens have been scored."""


@dataclass(frozen=True)
class Score:
    """One provider on one text, beside the reference."""

    tokens: int
    perplexity: float
    change: float
    """perplexity / reference's - 1."""
    change_error: float
    """Standard error of `change`, from the paired differences of single tokens."""
    divergence: float
    """Mean Kullback-Leibler divergence of the predicted distribution from the reference's, in nats."""
    same_top: float
    """Share of positions whose likeliest token is the reference's."""


@dataclass
class _Sums:
    """What is kept of each scored token."""

    nll: list[FloatArray] = field(default_factory=list)
    divergence: list[FloatArray] = field(default_factory=list)
    same_top: list[FloatArray] = field(default_factory=list)


def evaluate(
    reference: Provider,
    others: Mapping[str, Provider],
    windows: Sequence[IntArray],
    *,
    on_tokens: OnTokens = lambda count: None,
) -> dict[str | None, Score]:
    """Scores by name over independent windows of token ids; the reference's own stands under None.

    The providers go through a window side by side, so only one chunk's logits are held at a time.
    """
    sums: dict[str | None, _Sums] = {name: _Sums() for name in (None, *others)}
    for window in windows:
        runs: dict[str | None, sequence.Sequence] = {None: sequence.Sequence(reference)}
        runs.update((name, sequence.Sequence(provider)) for name, provider in others.items())
        for chunk, targets in _chunks(window):
            expected = _log_softmax(runs[None].feed(chunk))[: len(targets)]  # [T, V]
            for name, run in runs.items():
                found = expected if name is None else _log_softmax(run.feed(chunk))[: len(targets)]
                _add(sums[name], found, expected, targets)
            on_tokens(len(targets))
    baseline = np.concatenate(sums[None].nll)
    return {name: _score(one, baseline) for name, one in sums.items()}


def windows_of(token_ids: IntArray, *, max_tokens: int, window_tokens: int) -> list[IntArray]:
    """Windows spread evenly over the text, `max_tokens` in all; the whole text where it is shorter."""
    if len(token_ids) <= max_tokens:
        starts = list(range(0, len(token_ids), window_tokens))
    else:
        count = max(1, max_tokens // window_tokens)
        starts = [index * len(token_ids) // count for index in range(count)]
    windows = [token_ids[start : start + window_tokens] for start in starts]
    return [window for window in windows if len(window) > 1]


def _chunks(window: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
    """Pieces of the window and what follows each of their tokens; the window's last token has no successor."""
    for start in range(0, len(window) - 1, sequence.CHUNK_TOKENS):
        end = min(start + sequence.CHUNK_TOKENS, len(window) - 1)
        yield window[start:end], window[start + 1 : end + 1]


def _add(sums: _Sums, found: FloatArray, expected: FloatArray, targets: IntArray) -> None:
    sums.nll.append(-np.take_along_axis(found, targets[:, None].astype(np.int64), axis=1)[:, 0])
    sums.divergence.append((np.exp(expected) * (expected - found)).sum(axis=1))
    sums.same_top.append((found.argmax(axis=1) == expected.argmax(axis=1)).astype(np.float32))


def _score(sums: _Sums, baseline: FloatArray) -> Score:
    nll = np.concatenate(sums.nll).astype(np.float64)
    difference = nll - baseline
    change = math.exp(difference.mean()) - 1
    spread = float(difference.std(ddof=1)) if len(nll) > 1 else 0.0
    return Score(
        tokens=len(nll),
        perplexity=math.exp(nll.mean()),
        change=change,
        change_error=(1 + change) * spread / math.sqrt(len(nll)),
        divergence=float(np.concatenate(sums.divergence).mean()),
        same_top=float(np.concatenate(sums.same_top).mean()),
    )


def _log_softmax(logits: FloatArray) -> FloatArray:
    """In float32 but for the sum, which has up to a quarter million terms."""
    shifted = logits - logits.max(axis=1, keepdims=True)
    total = np.log(np.exp(shifted).sum(axis=1, keepdims=True, dtype=np.float64))
    result: FloatArray = shifted - total.astype(np.float32)
    return result
