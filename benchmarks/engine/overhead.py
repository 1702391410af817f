"""What an engine step costs in Python: schedule, batch, take the choices in, settle. The model's own time is taken out.

The streams are greedy: their tokens are chosen where the logits are made, as part of the model's step.
"""

from __future__ import annotations

import statistics
import time

import numpy as np

from flash_runtime.engine.batch import Answers, Batch
from flash_runtime.engine.loop import Engine, EngineLimits
from flash_runtime.wire import GenerateRequest

VOCAB = 50_304
PROMPT_TOKENS = 16
STEPS = 128


class ReadyAnswers:
    """A model that has always answered already."""

    vocab_size = VOCAB
    max_context_tokens = 8192
    num_blocks = 1024
    block_size = 16
    window = None

    def __init__(self) -> None:
        self.seconds = 0.0
        self._step = 0

    def step(self, batch: Batch) -> Answers:
        """The next ready tokens."""
        begun = time.perf_counter()
        self._step += 1
        best = np.full(len(batch.best_rows), self._step % VOCAB, dtype=np.int32)
        answers = Answers(np.empty((len(batch.logit_rows), VOCAB), dtype=np.float32), best)
        self.seconds += time.perf_counter() - begun
        return answers


def measure(batch_size: int = 16, repeats: int = 9) -> float:
    """Seconds of Python per decode step with so many greedy streams: the median of repeats."""
    provider = ReadyAnswers()
    return statistics.median(_once(provider, batch_size) for _ in range(repeats))


def _once(provider: ReadyAnswers, batch_size: int) -> float:
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
