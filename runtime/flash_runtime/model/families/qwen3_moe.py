"""Qwen3-MoE: the Qwen3 decoder with routed SwiGLU experts in place of the MLP (some layers may stay dense).

Router: softmax over all experts in float, the top_k of it, normalised to sum to 1 where the checkpoint says so.
"""

from __future__ import annotations

from typing import Final

from flash_runtime.model.checkpoint import Checkpoint, ExpertsConfig
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.families.decoder import DecoderBuilder
from flash_runtime.model.families.recipe import Linear, Recipe, Vector
from flash_runtime.model.plan import MoeMlp

ARCHITECTURES: Final = frozenset({"Qwen3MoeForCausalLM"})

_MAX_EXPERTS: Final = 4096
"""Far above any model; a larger number is damage."""


def recipe(checkpoint: Checkpoint) -> Recipe:
    """Attention as in Qwen3; experts in every layer that the checkpoint does not keep dense."""
    experts = checkpoint.config.experts
    if experts is None:
        raise CheckpointError(f"{checkpoint.path}: {checkpoint.config.architecture} without num_experts")
    if experts.num_experts > _MAX_EXPERTS:
        raise CheckpointError(f"{checkpoint.path}: num_experts ({experts.num_experts}) must be at most {_MAX_EXPERTS}")
    builder = DecoderBuilder(checkpoint)
    layers = []
    for index in range(checkpoint.config.num_layers):
        mlp = builder.dense_mlp(index) if index in experts.dense_layers else _experts_mlp(builder, index, experts)
        layers.append(builder.layer(index, mlp))
    return builder.recipe("qwen3_moe", layers)


def _experts_mlp(builder: DecoderBuilder, index: int, experts: ExpertsConfig) -> MoeMlp:
    hidden = builder.config.hidden_size
    source = f"model.layers.{index}.mlp"
    gate_up, down = [], []
    for expert in range(experts.num_experts):
        module = f"{source}.experts.{expert}"
        gate_up.append(Linear((f"{module}.gate_proj", f"{module}.up_proj"), (experts.width, experts.width), hidden))
        down.append(Linear((f"{module}.down_proj",), (hidden,), experts.width))
    return MoeMlp(
        router=builder.vector(f"layers.{index}.router", Vector(f"{source}.gate.weight", (experts.num_experts, hidden))),
        gate_up=builder.experts(f"layers.{index}.experts.gate_up", gate_up),
        down=builder.experts(f"layers.{index}.experts.down", down),
        num_experts=experts.num_experts,
        top_k=experts.top_k,
        width=experts.width,
        normalise=experts.normalise,
    )
