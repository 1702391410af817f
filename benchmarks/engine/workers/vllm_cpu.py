"""vLLM's CPU backend in bf16, in process: options {model, threads}. Its int8 MoE kernel wants Intel AMX.

Eager mode: compiling takes longer than the whole suite.
"""

from __future__ import annotations

import itertools
import os
import time
from typing import Any

import protocol


class Vllm:
    """One engine, stepped by hand."""

    def __init__(self, options: dict[str, Any]) -> None:
        cpus = sorted(os.sched_getaffinity(0))[: options["threads"]]
        os.sched_setaffinity(0, cpus)  # its own setting for the number of threads has no effect here
        os.environ |= {
            "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
            "VLLM_CPU_KVCACHE_SPACE": "1",
            "VLLM_CPU_OMP_THREADS_BIND": ",".join(map(str, cpus)),
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
        }
        from vllm import LLM, SamplingParams

        self._sampling = SamplingParams
        self._engine = LLM(
            options["model"],
            dtype="bfloat16",
            max_model_len=1024,
            max_num_seqs=16,
            enforce_eager=True,
            enable_prefix_caching=False,
            skip_tokenizer_init=True,
        ).llm_engine
        self._ids = itertools.count()

    def generate(self, prompts: list[list[int]], tokens: int) -> protocol.Generation:
        """Add all prompts, then step until they are done."""
        how = self._sampling(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
        waiting: set[str] = set()
        counts: dict[str, int] = {}
        start = time.perf_counter()
        for prompt in prompts:
            name = str(next(self._ids))
            self._engine.add_request(name, {"prompt_token_ids": prompt}, how)
            waiting.add(name)
        while waiting:
            for output in self._engine.step():
                counts[output.request_id] = len(output.outputs[0].token_ids)
                waiting.discard(output.request_id)
        first, before = time.perf_counter(), sum(counts.values())
        while self._engine.has_unfinished_requests():
            for output in self._engine.step():
                counts[output.request_id] = len(output.outputs[0].token_ids)
        return protocol.Generation(first - start, time.perf_counter() - first, sum(counts.values()) - before)


if __name__ == "__main__":
    protocol.main(Vllm)
