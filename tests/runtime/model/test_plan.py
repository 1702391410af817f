"""The layer plan as plain data: its JSON form is a contract with the kernels."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tiny_checkpoints import write_checkpoint

from flash_runtime.kernels.layout import LinearFormat
from flash_runtime.model.checkpoint import open_checkpoint
from flash_runtime.model.families import recipe
from flash_runtime.model.plan import ModelPlan


@pytest.fixture(params=["qwen2", "qwen3_moe_all"])
def plan(request: pytest.FixtureRequest, tmp_path: Path) -> ModelPlan:
    return recipe(open_checkpoint(write_checkpoint(tmp_path, request.param))).plan


def test_a_plan_survives_its_json_form(plan: ModelPlan) -> None:
    assert ModelPlan.from_json(plan.to_json()) == plan


@pytest.mark.parametrize("plan", ["qwen2"], indirect=True)
def test_the_json_form_of_a_dense_layer(plan: ModelPlan) -> None:
    document = plan.to_json()
    assert document["layers"][0] == {
        "attn_norm": "layers.0.attn_norm",
        "qkv": "layers.0.qkv",
        "q_norm": None,
        "k_norm": None,
        "o": "layers.0.o",
        "mlp_norm": "layers.0.mlp_norm",
        "mlp": {"kind": "dense", "gate_up": "layers.0.gate_up", "down": "layers.0.down", "width": 160},
        "qk_norm_over": "head",
        "window": None,
    }
    del document["layers"]
    assert document == {
        "family": "llama",
        "hidden_size": 96,
        "num_layers": 3,
        "num_heads": 6,
        "num_kv_heads": 2,
        "head_dim": 16,
        "vocab_size": 264,
        "norm_eps": 1e-5,
        "max_context_tokens": 512,
        "rope_inv_freq": "rope_inv_freq",
        "rope_scale": 1.0,
        "embedding": "embedding",
        "final_norm": "final_norm",
        "head": "embedding",
        "weight_format": "int8",
        "head_format": "int8",
        "wide": [],
        "embedding_factor": 1.0,
        "attention_factor": None,
        "residual_factor": 1.0,
        "logits_factor": 1.0,
        "head_from_embedding": False,
    }


@pytest.mark.parametrize("plan", ["qwen3_moe_all"], indirect=True)
def test_the_json_form_of_experts(plan: ModelPlan) -> None:
    layers = plan.to_json()["layers"]
    assert layers[0]["mlp"] == {
        "kind": "moe",
        "router": "layers.0.router",
        "gate_up": "layers.0.experts.gate_up",
        "down": "layers.0.experts.down",
        "num_experts": 8,
        "top_k": 8,
        "width": 48,
        "normalise": False,
        "shared": None,
    }
    assert layers[0]["q_norm"] == "layers.0.q_norm"
    assert layers[1]["mlp"]["kind"] == "dense"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": 0}, "hidden_size.*found 0"),
        ({"residual_factor": 0}, "residual_factor.*found 0"),
        ({"num_layers": 2}, "num_layers is 2, layers has 3"),
        ({"surprise": 1}, "surprise"),
        ({"layers": [{"mlp": {"kind": "sparse"}}] * 3}, r"layers\.0"),
        ({"head": None}, "head"),
        ({"wide": ["layers.0.qkv"]}, r"wide names 'layers\.0\.qkv', which is not the down of a dense MLP"),
        ({"weight_format": "int2"}, "weight_format.*found 'int2'"),
    ],
)
def test_a_malformed_plan_is_refused_with_the_field(plan: ModelPlan, change: dict, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ModelPlan.from_json({**plan.to_json(), **change})


def test_every_linear_has_a_shape(plan: ModelPlan) -> None:
    shapes = plan.linear_shapes()
    assert shapes[plan.head] == (264, 96)
    heads = (plan.num_heads + 2 * plan.num_kv_heads) * plan.head_dim
    assert shapes["layers.0.qkv"] == (heads, 96)
    assert shapes[plan.layers[0].mlp.down] == (96, plan.layers[0].mlp.width)


@pytest.mark.parametrize("plan", ["qwen2"], indirect=True)
def test_the_down_of_a_dense_layer_may_be_bf16_whatever_the_others_are(plan: ModelPlan) -> None:
    wide = ModelPlan.from_json({**plan.to_json(), "wide": ["layers.1.down"]})
    assert wide.linear_format("layers.1.down") == "bf16"
    assert wide.linear_format("layers.0.down") == "int8"


def test_embedding_and_head_may_have_a_format_of_their_own(plan: ModelPlan) -> None:
    nano = replace(plan, weight_format=LinearFormat.INT4)
    assert nano.linear_format(nano.embedding) == nano.linear_format(nano.head) == "int8"
    assert nano.linear_format("layers.0.qkv") == "int4"
    document = nano.to_json()
    del document["head_format"]
    with pytest.raises(ValueError, match="head_format: Field required"):
        ModelPlan.from_json(document)
