"""What a model is, in numbers that follow from its layer plan alone. Knows no files.

A parameter counts as active when a token's step multiplies by it: all but the experts it was not routed to, and the
rows of the embedding, which are only looked up.
"""

from __future__ import annotations

from dataclasses import dataclass

from flash_runtime.model.plan import ModelPlan, MoeMlp


@dataclass(frozen=True)
class Facts:
    """A model's size and shape."""

    family: str
    parameters: int
    """Weights of linears, routers and norms; biases, a few in a thousand at most, are left out."""
    active_parameters: int
    layers: int
    experts: int
    """Of one layer; 0 = the model is dense."""
    active_experts: int
    context_tokens: int


def facts(plan: ModelPlan) -> Facts:
    """Count a plan's parameters."""
    shapes = plan.linear_shapes()
    total = active = plan.hidden_size  # the final norm
    for name in {plan.head} if plan.head_from_embedding else {plan.embedding, plan.head}:
        total += _size(shapes[name])
    active += _size(shapes[plan.head])
    for layer in plan.layers:
        attention = _size(shapes[layer.qkv]) + _size(shapes[layer.o]) + 2 * plan.hidden_size
        mlp = _size(shapes[layer.mlp.gate_up]) + _size(shapes[layer.mlp.down])
        if not isinstance(layer.mlp, MoeMlp):
            total += attention + mlp
            active += attention + mlp
            continue
        always = attention + layer.mlp.num_experts * plan.hidden_size  # the router
        if (shared := layer.mlp.shared) is not None:
            always += _size(shapes[shared.gate_up]) + _size(shapes[shared.down]) + plan.hidden_size
        total += always + layer.mlp.num_experts * mlp
        active += always + layer.mlp.top_k * mlp
    sparse = [layer.mlp for layer in plan.layers if isinstance(layer.mlp, MoeMlp)]
    return Facts(
        family=plan.family,
        parameters=total,
        active_parameters=active,
        layers=plan.num_layers,
        experts=max((mlp.num_experts for mlp in sparse), default=0),
        active_experts=max((mlp.top_k for mlp in sparse), default=0),
        context_tokens=plan.max_context_tokens,
    )


def _size(shape: tuple[int, int]) -> int:
    return shape[0] * shape[1]
