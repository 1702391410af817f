"""Qwen3-MoE: the Qwen3 decoder with routed SwiGLU experts in place of the MLP (some layers may stay dense)."""

from __future__ import annotations

from typing import Final

from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.families import windows
from flash_runtime.model.families.decoder import DecoderBuilder
from flash_runtime.model.families.experts import experts_of, routed_mlp
from flash_runtime.model.families.recipe import Recipe

ARCHITECTURES: Final = frozenset({"Qwen3MoeForCausalLM"})


def recipe(checkpoint: Checkpoint) -> Recipe:
    """Attention as in Qwen3; experts in every layer that the checkpoint does not keep dense."""
    experts = experts_of(checkpoint)
    builder = DecoderBuilder(checkpoint)
    layers = []
    for index in range(checkpoint.config.num_layers):
        dense = index in experts.dense_layers
        mlp = builder.dense_mlp(index) if dense else routed_mlp(builder, index, experts, normalise=experts.normalise)
        layers.append(builder.layer(index, mlp, window=windows.in_every_layer_if_switched_on(checkpoint.config, index)))
    return builder.recipe("qwen3_moe", layers)
