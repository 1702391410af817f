"""Routed SwiGLU experts, written down as plan and sources: what the mixture-of-experts families share.

Router: softmax over all experts in float, the top_k of it, normalised to sum to 1 where the family or its checkpoint
says so.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flash_runtime.model.checkpoint import Checkpoint, ExpertsConfig
from flash_runtime.model.errors import CheckpointError
from flash_runtime.model.families.decoder import DecoderBuilder
from flash_runtime.model.families.recipe import Linear, Vector
from flash_runtime.model.plan import MoeMlp

_MAX_EXPERTS: Final = 4096
"""Far above any model; a larger number is damage."""


@dataclass(frozen=True)
class ExpertNames:
    """What a family calls its modules, below the layer."""

    router: str = "mlp.gate"
    experts: str = "mlp.experts"
    gate: str = "gate_proj"
    up: str = "up_proj"
    down: str = "down_proj"


def experts_of(checkpoint: Checkpoint) -> ExpertsConfig:
    """The experts' facts; raises CheckpointError for a mixture of experts without any."""
    experts = checkpoint.config.experts
    if experts is None:
        raise CheckpointError(f"{checkpoint.path}: {checkpoint.config.architecture} without a number of experts")
    if experts.num_experts > _MAX_EXPERTS:
        raise CheckpointError(f"{checkpoint.path}: num_experts ({experts.num_experts}) must be at most {_MAX_EXPERTS}")
    return experts


def routed_mlp(
    builder: DecoderBuilder, index: int, experts: ExpertsConfig, *, normalise: bool, names: ExpertNames | None = None
) -> MoeMlp:
    """One layer's experts, each with tensors of its own."""
    names = names or ExpertNames()
    hidden, width = builder.config.hidden_size, experts.width
    layer = f"model.layers.{index}"
    modules = [f"{layer}.{names.experts}.{expert}" for expert in range(experts.num_experts)]
    gate_up = [Linear((f"{m}.{names.gate}", f"{m}.{names.up}"), (width, width), hidden) for m in modules]
    down = [Linear((f"{m}.{names.down}",), (hidden,), width) for m in modules]
    return moe_mlp(
        builder, index, experts, router=f"{layer}.{names.router}", gate_up=gate_up, down=down, normalise=normalise
    )


def moe_mlp(
    builder: DecoderBuilder,
    index: int,
    experts: ExpertsConfig,
    *,
    router: str,
    gate_up: list[Linear],
    down: list[Linear],
    normalise: bool,
) -> MoeMlp:
    """One layer's experts from their linears, in order."""
    shape = (experts.num_experts, builder.config.hidden_size)
    return MoeMlp(
        router=builder.vector(f"layers.{index}.router", Vector(f"{router}.weight", shape)),
        gate_up=builder.experts(f"layers.{index}.experts.gate_up", gate_up),
        down=builder.experts(f"layers.{index}.experts.down", down),
        num_experts=experts.num_experts,
        top_k=experts.top_k,
        width=experts.width,
        normalise=normalise,
    )
