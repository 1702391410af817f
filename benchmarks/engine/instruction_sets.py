"""The kernels of each instruction set that this CPU has, in turn in one process, on the packed synthetic model.

Steps of the provider alone: no scheduling, and only the last token's logits, so the figures lie above those of the
whole engine. `python benchmarks/engine/instruction_sets.py FILE.flash [THREADS]` prints them for any packed model.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np

from flash_runtime.engine.batch import Batch
from flash_runtime.kernels import _native
from flash_runtime.kernels.provider import CpuProvider
from flash_runtime.model.opened import open_packed

KV_CACHE_BYTES: Final = 64 * 1024**2
_BLOCK: Final = 16


@dataclass(frozen=True)
class Step:
    """So many sequences, each with so many tokens after so many that are held."""

    title: str
    sequences: int
    tokens: int
    rounds: int = 1
    """Steps of one sample: short ones are timed together."""
    held: int = 0

    def batch(self, vocab: int, seed: int) -> Batch:
        """Random ids; the held tokens are whatever the cache has."""
        count = self.sequences * self.tokens
        blocks = -(-(self.held + self.tokens) // _BLOCK)
        positions = np.tile(np.arange(self.held, self.held + self.tokens, dtype=np.int32), self.sequences)
        starts = np.arange(0, count + 1, self.tokens, dtype=np.int32)
        return Batch(
            token_ids=np.random.default_rng(seed).integers(0, vocab, count).astype(np.int32),
            positions=positions,
            query_starts=starts,
            block_tables=np.arange(self.sequences * blocks, dtype=np.int32).reshape(self.sequences, blocks),
            logit_rows=starts[1:] - 1,
        )


STEPS: Final = (
    Step("decode, batch 1", sequences=1, tokens=1, rounds=16),
    Step("decode, batch 16", sequences=16, tokens=1, rounds=2),
    Step("prefill 512", sequences=1, tokens=512),
    Step("decode, batch 1, after 4,000", sequences=1, tokens=1, rounds=8, held=4000),
)


def title(step: str, isa: str) -> str:
    """What a row is called."""
    return f"{step}, {isa} kernels"


TITLES: Final = tuple(title(step.title, isa) for step in STEPS for isa in ("avx512", "avxvnni", "avx2", "portable"))
Samples = Mapping[tuple[str, str], list[float]]
"""Tokens per second by step and instruction set."""


def measure(file: Path, *, threads: int, repeats: Iterable[int]) -> Samples:
    """Every step on every instruction set, one after the other in each round."""
    packed, plan = open_packed(file)
    isas = _native.supported_isas()
    providers = {isa: CpuProvider(packed, kv_cache_bytes=KV_CACHE_BYTES, isa=isa, threads=threads) for isa in isas}
    steps = [step for step in STEPS if step.held + step.tokens <= plan.max_context_tokens]
    samples: dict[tuple[str, str], list[float]] = {(step.title, isa): [] for step in steps for isa in isas}
    for isa, provider in providers.items():  # the first step takes scratch memory
        for step in steps if isa != isas[-1] else steps[:1]:
            provider.step(step.batch(plan.vocab_size, 0))
    for repeat in repeats:
        for step in steps:
            batches = [step.batch(plan.vocab_size, 100 * repeat + number) for number in range(step.rounds)]
            for isa, provider in providers.items():
                begin = time.perf_counter()
                for batch in batches:
                    provider.step(batch)
                rate = step.rounds * step.sequences * step.tokens / (time.perf_counter() - begin)
                samples[step.title, isa].append(rate)
    return samples


if __name__ == "__main__":
    found = measure(Path(sys.argv[1]), threads=int(sys.argv[2]) if len(sys.argv) > 2 else 1, repeats=range(3))
    for (step_title, isa), values in found.items():
        print(f"{step_title:30} {isa:9} {np.median(values):9,.1f} tokens/s  {min(values):,.1f} to {max(values):,.1f}")
