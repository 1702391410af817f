"""Our engine in its own process, without a server: options as `configuration.py` names them."""

from __future__ import annotations

import itertools
import statistics
import time
from typing import Any

import numpy as np
import protocol
from configuration import engine_config

from flash_runtime.backend.load import limits, load, warm_up
from flash_runtime.engine.batch import Batch, Provider
from flash_runtime.engine.loop import Engine
from flash_runtime.wire import GenerateRequest


class Ours:
    """One Engine on one provider, stepped by hand."""

    def __init__(self, options: dict[str, Any]) -> None:
        config = engine_config(options)
        self._provider: Provider = load(config).provider
        warm_up(self._provider)
        self._engine = Engine(self._provider, limits=limits(config))
        self._ids = itertools.count()

    def generate(self, prompts: list[list[int]], tokens: int) -> protocol.Generation:
        """Add all prompts, then step until they are done."""
        request = GenerateRequest(max_tokens=tokens, ignore_eos=True)
        waiting: set[str] = set()
        start = time.perf_counter()
        for prompt in prompts:
            name = str(next(self._ids))
            self._engine.add(name, prompt, request)
            waiting.add(name)
        while waiting:
            for output in self._engine.step():
                if output.error is not None:
                    raise output.error
                waiting.discard(output.request_id)
        first = time.perf_counter()
        rest = 0
        while self._engine.has_work:
            rest += sum(len(output.token_ids) for output in self._engine.step())
        return protocol.Generation(first - start, time.perf_counter() - first, rest)

    def logits(self, prompts: list[list[int]]) -> Any:
        """One step for each prompt, in the same blocks."""
        return np.concatenate([self._provider.step(self._batch(prompt, 0)).logits for prompt in prompts])

    def steps(self, count: int, seed: int) -> dict[str, float]:
        """Seconds of one decode step of one sequence inside the provider: median over `count` random tokens."""
        tokens = np.random.default_rng(seed).integers(0, self._provider.vocab_size, count)
        seconds = []
        for position, token in enumerate(tokens.tolist()):
            batch = self._batch([token], position % 64)
            start = time.perf_counter()
            self._provider.step(batch)
            seconds.append(time.perf_counter() - start)
        return {"seconds": statistics.median(seconds)}

    def _batch(self, ids: list[int], start: int) -> Batch:
        blocks = -(-(start + len(ids)) // self._provider.block_size)
        return Batch(
            token_ids=np.array(ids, dtype=np.int32),
            positions=np.arange(start, start + len(ids), dtype=np.int32),
            query_starts=np.array([0, len(ids)], dtype=np.int32),
            block_tables=np.arange(blocks, dtype=np.int32)[None],
            logit_rows=np.array([len(ids) - 1], dtype=np.int32),
        )


if __name__ == "__main__":
    protocol.main(Ours)
