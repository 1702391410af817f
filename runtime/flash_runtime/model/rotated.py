"""A recipe whose residual stream and attention outputs are rotated: the same model in numbers that round better.

The factors of every RMS norm move into the weights behind it. Such a norm commutes with any rotation, so the basis of
the residual stream is free: embedding, o and down write it rotated; qkv, gate_up, routers and head read it so
(SliceGPT, Ashkboos et al. 2024, arXiv 2401.15024). Attention mixes values position by position, so the basis inside a
head is free too: v writes and o reads it rotated. Nothing is left to do at run time.

Embedding and head differ afterwards, also where the checkpoint ties them. Knows what reads and writes what in the plan;
knows no families and no number formats.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from flash_runtime.model.families.recipe import Inputs, Linear, Recipe
from flash_runtime.model.plan import MoeMlp
from flash_runtime.model.rotation import Rotation

_HEAD: Final = "head"
"""The packed name of a head that had the embedding's."""


def rotated(recipe: Recipe) -> Recipe:
    """The recipe of the same model with its rotations folded into the weights."""
    plan = recipe.plan
    stream, heads = Rotation(plan.hidden_size), Rotation(plan.head_dim)
    vectors, linears, experts = dict(recipe.vectors), dict(recipe.linears), dict(recipe.experts)

    def behind(norm: str) -> Inputs:
        """What reads the stream behind this norm takes over."""
        vectors[norm] = replace(recipe.vectors[norm], folded=True)
        return Inputs(stream, norm=recipe.vectors[norm].tensor)

    def change(name: str, inputs: Inputs | None, *outputs: Rotation | None) -> None:
        def changed(linear: Linear) -> Linear:
            assert len(outputs) in (0, len(linear.modules))
            return replace(linear, inputs=inputs, outputs=outputs)

        if name in experts:
            experts[name] = tuple(changed(linear) for linear in experts[name])
        else:
            linears[name] = changed(linears[name])

    if tied := plan.head == plan.embedding:
        linears[_HEAD] = linears[plan.embedding]
        plan = replace(plan, head=_HEAD)
    change(plan.embedding, Inputs(stream))
    change(plan.head, behind(plan.final_norm))
    for layer in plan.layers:
        change(layer.qkv, behind(layer.attn_norm), None, None, heads)
        change(layer.o, Inputs(heads), stream)
        normed = behind(layer.mlp_norm)
        change(layer.mlp.gate_up, normed)
        change(layer.mlp.down, None, stream)
        if isinstance(layer.mlp, MoeMlp):
            vectors[layer.mlp.router] = replace(vectors[layer.mlp.router], inputs=normed)
            if (shared := layer.mlp.shared) is not None:
                vectors[shared.gate] = replace(vectors[shared.gate], inputs=normed)
                change(shared.gate_up, normed)
                change(shared.down, None, stream)
    return replace(
        recipe,
        plan=replace(plan, head_from_embedding=tied),
        vectors=vectors,
        linears=linears,
        experts=experts,
    )
