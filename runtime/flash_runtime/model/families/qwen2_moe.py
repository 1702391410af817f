"""Qwen2-MoE: the Qwen2 decoder with routed SwiGLU experts and one shared expert, which a sigmoid gate weighs."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from flash_runtime.model.checkpoint import Checkpoint, ExpertsConfig
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.families import windows
from flash_runtime.model.families.decoder import DecoderBuilder
from flash_runtime.model.families.experts import experts_of, routed_mlp
from flash_runtime.model.families.recipe import Recipe, Vector
from flash_runtime.model.plan import MoeMlp, SharedExpert

ARCHITECTURES: Final = frozenset({"Qwen2MoeForCausalLM"})


def recipe(checkpoint: Checkpoint) -> Recipe:
    """Experts in every layer that the checkpoint does not keep dense."""
    experts = experts_of(checkpoint)
    if experts.shared_width is None:
        raise CheckpointError(
            f"{checkpoint.path}: {checkpoint.config.architecture} without shared_expert_intermediate_size"
        )
    builder = DecoderBuilder(checkpoint)
    layers = []
    for index in range(checkpoint.config.num_layers):
        dense = index in experts.dense_layers
        mlp = builder.dense_mlp(index) if dense else _moe_mlp(builder, index, experts, experts.shared_width)
        layers.append(builder.layer(index, mlp, window=windows.in_even_lower_layers(checkpoint.config, index)))
    return builder.recipe("qwen2_moe", layers)


def _moe_mlp(builder: DecoderBuilder, index: int, experts: ExpertsConfig, shared_width: int) -> MoeMlp:
    name, source = f"layers.{index}.shared", f"model.layers.{index}.mlp"
    gate_up, down = builder.swiglu(name, f"{source}.shared_expert", shared_width)
    gate = Vector(f"{source}.shared_expert_gate.weight", (1, builder.config.hidden_size))
    shared = SharedExpert(gate=builder.vector(f"{name}.gate", gate), gate_up=gate_up, down=down, width=shared_width)
    return replace(routed_mlp(builder, index, experts, normalise=experts.normalise), shared=shared)
