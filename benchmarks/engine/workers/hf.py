"""`transformers` in bf16: options {model, threads}. Calls the model directly, which costs less than `generate`."""

from __future__ import annotations

import time
from typing import Any

import protocol
import torch
from transformers import AutoModelForCausalLM, DynamicCache


class Transformers:
    """One model on the CPU, its experts in the eager form: the fastest of its forms on CPUs."""

    def __init__(self, options: dict[str, Any]) -> None:
        torch.set_num_threads(options["threads"])
        torch.set_grad_enabled(False)
        self._model = AutoModelForCausalLM.from_pretrained(
            options["model"], dtype=torch.bfloat16, experts_implementation="eager"
        ).eval()

    def generate(self, prompts: list[list[int]], tokens: int) -> protocol.Generation:
        """Prompts of one length as one batch."""
        start = time.perf_counter()
        cache = DynamicCache(config=self._model.config)
        ids = self._next(torch.tensor(prompts), cache)
        first = time.perf_counter()
        for _ in range(tokens - 1):
            ids = self._next(ids, cache)
        return protocol.Generation(first - start, time.perf_counter() - first, (tokens - 1) * len(prompts))

    def logits(self, prompts: list[list[int]]) -> Any:
        """Prompts of one length as one batch."""
        return self._model(input_ids=torch.tensor(prompts), logits_to_keep=1).logits[:, -1].float().numpy()

    def _next(self, ids: torch.Tensor, cache: DynamicCache) -> torch.Tensor:
        out = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        return out.logits[:, -1:].argmax(dim=-1)  # [B, 1]


if __name__ == "__main__":
    protocol.main(Transformers)
