"""What an engine step costs in Python: schedule, batch, greedy choice, settle. The model's own time is taken out.

The provider has its logits ready, as many as a vocabulary of 50,304 asks for, in so many arrays that none is still in a
cache near the core: choosing reads memory that other cores wrote, as it does behind the kernels.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from flash_runtime.engine.batch import Batch, FloatArray
from flash_runtime.engine.loop import Engine, EngineLimits
from flash_runtime.wire import GenerateRequest

VOCAB = 50_304
PROMPT_TOKENS = 16
STEPS = 128
ARRAYS = 8


class ReadyLogits:
    """A model that has always answered already."""

    vocab_size = VOCAB
    max_context_tokens = 8192
    num_blocks = 1024
    block_size = 16

    def __init__(self, rows: int) -> None:
        self.seconds = 0.0
        self._step = 0
        self._logits = np.random.default_rng(1).normal(size=(ARRAYS, rows, VOCAB)).astype(np.float32)

    def step(self, batch: Batch) -> FloatArray:
        """The next ready rows."""
        begun = time.perf_counter()
        self._step += 1
        logits: FloatArray = self._logits[self._step % ARRAYS, : len(batch.logit_rows)]
        self.seconds += time.perf_counter() - begun
        return logits


def measure(batch_size: int = 16, repeats: int = 9) -> float:
    """Seconds of Python per decode step with so many greedy streams: the median of repeats."""
    provider = ReadyLogits(batch_size)
    return statistics.median(_once(provider, batch_size) for _ in range(repeats))


def _once(provider: ReadyLogits, batch_size: int) -> float:
    engine = Engine(provider, limits=EngineLimits(max_running=batch_size))
    for number in range(batch_size):
        prompt = [(number * 31 + at * 7) % VOCAB for at in range(PROMPT_TOKENS)]
        engine.add(str(number), prompt, GenerateRequest(max_tokens=STEPS + 1))
    engine.step()  # the prompts
    provider.seconds = 0.0
    begun = time.perf_counter()
    for _ in range(STEPS):
        engine.step()
    return (time.perf_counter() - begun - provider.seconds) / STEPS


if __name__ == "__main__":
    for size in (1, 4, 16):
        print(f"batch {size:2}: {measure(size) * 1e3:.3f} ms of Python per step")
