"""OLMoE: routed SwiGLU experts in every layer; queries and keys are normalised over all heads together."""

from __future__ import annotations

from typing import Final

from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.model.families.decoder import DecoderBuilder
from flash_runtime.model.families.experts import experts_of, routed_mlp
from flash_runtime.model.families.recipe import Recipe

ARCHITECTURES: Final = frozenset({"OlmoeForCausalLM"})


def recipe(checkpoint: Checkpoint) -> Recipe:
    """Every layer the same."""
    experts = experts_of(checkpoint)
    builder = DecoderBuilder(checkpoint)
    layers = []
    for index in range(checkpoint.config.num_layers):
        mlp = routed_mlp(builder, index, experts, normalise=experts.normalise)
        layers.append(builder.layer(index, mlp, qk_norm_over="projection"))
    return builder.recipe("olmoe", layers)
