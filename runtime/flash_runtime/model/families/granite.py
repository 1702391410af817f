"""Granite and Granite-MoE: the Llama decoder, dense or with routed experts, with constants on four of its values.

The experts of one layer lie stacked in one tensor. Their router takes the softmax over the chosen experts alone, which
the plan writes as weights that are normalised.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from flash_runtime.model.checkpoint import Checkpoint, ExpertsConfig
from flash_runtime.model.families.decoder import DecoderBuilder
from flash_runtime.model.families.experts import experts_of, moe_mlp
from flash_runtime.model.families.recipe import Linear, Recipe
from flash_runtime.model.plan import MoeMlp

_DENSE: Final = "GraniteForCausalLM"
ARCHITECTURES: Final = frozenset({_DENSE, "GraniteMoeForCausalLM"})


def recipe(checkpoint: Checkpoint) -> Recipe:
    """Every layer the same."""
    builder, config = DecoderBuilder(checkpoint), checkpoint.config
    if config.architecture == _DENSE:
        layers = [builder.layer(index, builder.dense_mlp(index)) for index in range(config.num_layers)]
    else:
        experts = experts_of(checkpoint)
        layers = [builder.layer(index, _experts_mlp(builder, index, experts)) for index in range(config.num_layers)]
    found = builder.recipe("granite", layers)
    plan = replace(
        found.plan,
        embedding_factor=config.multipliers.embedding,
        attention_factor=config.multipliers.attention,
        residual_factor=config.multipliers.residual,
        logits_factor=1 / config.multipliers.logits_divisor,
    )
    return replace(found, plan=plan)


def _experts_mlp(builder: DecoderBuilder, index: int, experts: ExpertsConfig) -> MoeMlp:
    hidden, block = builder.config.hidden_size, f"model.layers.{index}.block_sparse_moe"
    parts = range(experts.num_experts)
    return moe_mlp(
        builder,
        index,
        experts,
        router=f"{block}.router.layer",
        gate_up=[Linear((f"{block}.input_linear",), (2 * experts.width,), hidden, part=part) for part in parts],
        down=[Linear((f"{block}.output_linear",), (hidden,), experts.width, part=part) for part in parts],
        normalise=True,
    )
