"""llama.cpp through its C interface: options {model, threads}. Batches share one call, as its own batched-bench does.

Weights are repacked where llama.cpp knows how (its default), and the sampler is one argmax.
"""

from __future__ import annotations

import time
from typing import Any, Final

import llama_cpp
import numpy as np
import protocol
from numpy.typing import NDArray

_SEQUENCES: Final = 16
_CONTEXT: Final = 1024


class LlamaCpp:
    """One model and one context."""

    def __init__(self, options: dict[str, Any]) -> None:
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_default_params()
        model.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(options["model"].encode(), model)
        if not self._model:
            raise RuntimeError(f"llama.cpp refuses {options['model']}")
        context = llama_cpp.llama_context_default_params()
        context.n_ctx = _CONTEXT * _SEQUENCES
        context.n_seq_max = _SEQUENCES
        context.n_batch = context.n_ubatch = 512
        context.n_threads = context.n_threads_batch = options["threads"]
        self._context = llama_cpp.llama_init_from_model(self._model, context)
        if not self._context:
            raise RuntimeError("llama.cpp makes no context")
        self._vocab = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(self._model))
        self._batch = llama_cpp.llama_batch_init(512, 0, 1)
        print(llama_cpp.llama_print_system_info().decode())

    def generate(self, prompts: list[list[int]], tokens: int) -> protocol.Generation:
        """Prompts in one call, then one token of each sequence a call."""
        self._clear()
        start = time.perf_counter()
        rows = self._prompts(prompts)
        chosen = rows.argmax(axis=1)
        first = time.perf_counter()
        positions = [len(prompt) for prompt in prompts]
        for step in range(tokens - 1):
            work = [
                (int(token), position + step, index, True)
                for index, (token, position) in enumerate(zip(chosen, positions, strict=True))
            ]
            chosen = self._decode(work).argmax(axis=1)
        return protocol.Generation(first - start, time.perf_counter() - first, (tokens - 1) * len(prompts))

    def logits(self, prompts: list[list[int]]) -> Any:
        """Each prompt alone."""
        rows = []
        for prompt in prompts:
            self._clear()
            rows.append(self._prompts([prompt])[0].copy())
        return np.stack(rows)

    def _prompts(self, prompts: list[list[int]]) -> NDArray[np.float32]:
        return self._decode(
            [
                (token, position, index, position == len(prompt) - 1)
                for index, prompt in enumerate(prompts)
                for position, token in enumerate(prompt)
            ]
        )

    def _decode(self, work: list[tuple[int, int, int, bool]]) -> NDArray[np.float32]:
        """Logits of the tokens that want them, in order: [R, V], valid until the next call."""
        batch = self._batch
        batch.n_tokens = len(work)
        for slot, (token, position, sequence, wants) in enumerate(work):
            batch.token[slot] = token
            batch.pos[slot] = position
            batch.n_seq_id[slot] = 1
            batch.seq_id[slot][0] = sequence
            batch.logits[slot] = wants
        if status := llama_cpp.llama_decode(self._context, batch):
            raise RuntimeError(f"llama_decode: {status}")
        rows = sum(wants for *_, wants in work)
        return np.ctypeslib.as_array(llama_cpp.llama_get_logits(self._context), (rows, self._vocab))

    def _clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), False)


if __name__ == "__main__":
    protocol.main(LlamaCpp)
