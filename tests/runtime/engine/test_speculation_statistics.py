"""Sampled tokens follow the model's distribution while proposals are verified: Pearson's chi-square on 10^5 samples."""

from __future__ import annotations

import math
from itertools import count

import numpy as np
from fakes.proposers import Always
from numpy.typing import NDArray

from flash_runtime.engine.batch import Answers, Batch
from flash_runtime.engine.loop import Engine, EngineLimits
from flash_runtime.engine.speculation import Speculation
from flash_runtime.wire import GenerateRequest

VOCAB = 12
SAMPLES = 100_000
REQUESTS = 160
TEMPERATURE = 0.8


class Markov:
    """The next token depends on the last one alone, by a table of logits."""

    vocab_size = VOCAB
    max_context_tokens = 4096
    num_blocks = 2000
    block_size = 16
    window = None

    def __init__(self) -> None:
        self.logits = np.random.default_rng(1).normal(0, 1.5, (VOCAB, VOCAB)).astype(np.float32)

    @property
    def distribution(self) -> NDArray[np.float64]:
        """Of the next token, by the last one."""
        weights = np.exp(self.logits.astype(np.float64) / TEMPERATURE)
        normalised: NDArray[np.float64] = weights / weights.sum(axis=1, keepdims=True)
        return normalised

    def step(self, batch: Batch) -> Answers:
        return Answers.of(self.logits[batch.token_ids[batch.head_rows]], batch)


class Likeliest(Always):
    """Proposes the chain of likeliest tokens: a greedy draft, which is a point mass."""

    def __init__(self, model: Markov) -> None:
        super().__init__(0)
        self._next = model.logits.argmax(axis=1).tolist()

    def propose(self, asks, patience_seconds=0.0):
        answers = super().propose(asks)
        for ask, answer in zip(asks, answers, strict=True):
            last = ask.token_ids[-1]
            for at in range(ask.num_tokens):
                answer.token_ids[at] = last = self._next[last]
        return answers


def p_value(chi_square: float, freedom: int) -> float:
    """Upper tail by the approximation of Wilson and Hilferty (1931)."""
    spread = 2 / (9 * freedom)
    z = ((chi_square / freedom) ** (1 / 3) - (1 - spread)) / math.sqrt(spread)
    return math.erfc(z / math.sqrt(2)) / 2


def test_the_sampled_distribution_is_the_models() -> None:
    model = Markov()
    ticks = count()
    speculation = Speculation(Likeliest(model), vocab_size=VOCAB, clock=lambda: float(next(ticks)), lookahead=3)
    engine = Engine(model, limits=EngineLimits(max_running=16, max_queued=REQUESTS), speculation=speculation)
    length = SAMPLES // REQUESTS
    for seed in range(REQUESTS):
        engine.add(str(seed), [0], GenerateRequest(max_tokens=length, temperature=TEMPERATURE, seed=seed))
    last = dict.fromkeys(map(str, range(REQUESTS)), 0)
    counts = np.zeros((VOCAB, VOCAB))
    while engine.has_work:
        for output in engine.step():
            for token in output.token_ids:
                counts[last[output.request_id], token] += 1
                last[output.request_id] = token
    assert counts.sum() == length * REQUESTS >= SAMPLES
    assert engine.stats().accepted_tokens > SAMPLES // 10
    expected = counts.sum(axis=1, keepdims=True) * model.distribution
    often = expected >= 5  # Pearson's rule; what is rarer is put together
    chi_square, freedom = 0.0, 0
    for row, wanted, kept in zip(counts, expected, often, strict=True):
        bins = [*zip(row[kept], wanted[kept], strict=True)]
        if (rest := float(wanted[~kept].sum())) > 0:
            bins.append((row[~kept].sum(), rest))
        chi_square += sum((found - want) ** 2 / want for found, want in bins)
        freedom += len(bins) - 1
    p = p_value(chi_square, freedom)
    print(f"{counts.sum():.0f} samples, chi-square {chi_square:.1f} at {freedom} degrees, p = {p:.3f}")
    assert p > 0.001
