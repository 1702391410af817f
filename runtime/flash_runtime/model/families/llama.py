"""Dense decoders of the Llama kind: RMS norm, grouped-query attention with RoPE, SwiGLU.

Llama and its namesakes (SmolLM2, TinyLlama, …), Qwen2 (biases on q, k, v) and Qwen3 (norms on q and k heads).
"""

from __future__ import annotations

from typing import Final

from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.families.decoder import DecoderBuilder
from flash_runtime.model.families.recipe import Recipe

ARCHITECTURES: Final = frozenset({"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"})


def recipe(checkpoint: Checkpoint) -> Recipe:
    """Every layer the same: attention, then one dense MLP."""
    builder = DecoderBuilder(checkpoint)
    layers = [builder.layer(index, builder.dense_mlp(index)) for index in range(checkpoint.config.num_layers)]
    return builder.recipe("llama", layers)
