"""Mixtral: the Llama decoder with routed SwiGLU experts in every layer; the chosen experts' weights sum to 1."""

from __future__ import annotations

from typing import Final

from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.families import windows
from flash_runtime.model.families.decoder import DecoderBuilder
from flash_runtime.model.families.experts import ExpertNames, experts_of, routed_mlp
from flash_runtime.model.families.recipe import Recipe

ARCHITECTURES: Final = frozenset({"MixtralForCausalLM"})

_NAMES: Final = ExpertNames(
    router="block_sparse_moe.gate", experts="block_sparse_moe.experts", gate="w1", up="w3", down="w2"
)


def recipe(checkpoint: Checkpoint) -> Recipe:
    """Every layer the same."""
    experts = experts_of(checkpoint)
    builder = DecoderBuilder(checkpoint)
    layers = []
    for index in range(checkpoint.config.num_layers):
        mlp = routed_mlp(builder, index, experts, normalise=True, names=_NAMES)
        layers.append(builder.layer(index, mlp, window=windows.in_every_layer(checkpoint.config, index)))
    return builder.recipe("mixtral", layers)
