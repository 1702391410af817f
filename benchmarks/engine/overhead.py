"""Python time of one engine step: scheduling, the batch's arrays, choosing tokens, settling; no model behind it."""

from __future__ import annotations

import statistics
import time
from typing import Final

import numpy as np

from flash_runtime.engine.batch import Batch, FloatArray
from flash_runtime.engine.loop import Engine, EngineLimits
from flash_runtime.wire import GenerateRequest

_STEPS: Final = 200


class _Instant:
    """A provider that answers at once, with logits of a real vocabulary."""

    vocab_size = 50_304
    max_context_tokens = 4096
    num_blocks = 2048
    block_size = 16

    def __init__(self, rows: int) -> None:
        self._logits = np.random.default_rng(0).standard_normal((rows, self.vocab_size), dtype=np.float32)

    def step(self, batch: Batch) -> FloatArray:
        return self._logits[: len(batch.logit_rows)]


def measure(batch: int = 16) -> float:
    """Seconds of a decode step of `batch` greedy sequences: the median of many."""
    engine = Engine(_Instant(batch), limits=EngineLimits(max_running=batch))
    for index in range(batch):
        engine.add(str(index), list(range(16)), GenerateRequest(max_tokens=_STEPS + 8, ignore_eos=True))
    for _ in range(4):  # prefill, then what is first used
        engine.step()
    seconds = []
    for _ in range(_STEPS):
        start = time.perf_counter()
        engine.step()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)
