"""Dense decoders of the Llama kind: RMS norm, grouped-query attention with RoPE, SwiGLU.

Llama and its namesakes (SmolLM2, TinyLlama, …), Mistral (a sliding window), Qwen2 (biases on q, k, v) and Qwen3 (norms
on q and k heads).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final

from flash_runtime.model.checkpoint import Checkpoint, ModelConfig
from flash_runtime.model.families import windows
from flash_runtime.model.families.decoder import DecoderBuilder
from flash_runtime.model.families.recipe import Recipe


def _unbound(config: ModelConfig, index: int) -> None:
    """Llama knows no sliding window."""


_WINDOWS: Final[Mapping[str, Callable[[ModelConfig, int], int | None]]] = {
    "LlamaForCausalLM": _unbound,
    "MistralForCausalLM": windows.in_every_layer,
    "Qwen2ForCausalLM": windows.in_upper_layers,
    "Qwen3ForCausalLM": windows.in_upper_layers,
}
ARCHITECTURES: Final = frozenset(_WINDOWS)


def recipe(checkpoint: Checkpoint) -> Recipe:
    """Every layer the same but for its window: attention, then one dense MLP."""
    builder, config = DecoderBuilder(checkpoint), checkpoint.config
    window = _WINDOWS[config.architecture]
    layers = [
        builder.layer(index, builder.dense_mlp(index), window=window(config, index))
        for index in range(config.num_layers)
    ]
    return builder.recipe("llama", layers)
