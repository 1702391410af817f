"""Shapes of tiny models that between them run every branch of the kernels: keyword arguments of `tiny_model`."""

from __future__ import annotations

from typing import Any

FACTORS = {"embedding": 3.0, "attention": 0.2, "residual": 0.4, "logits": 0.25}
SHAPES: dict[str, dict[str, Any]] = {
    "dense": {},
    "dense_bias_norms": {"bias": True, "norms": "head", "head_dim": 32, "kv_heads": 1, "heads": 2},
    "wide_heads": {"heads": 2, "kv_heads": 2, "head_dim": 70},
    "moe": {"hidden": 128, "experts": 9, "top_k": 3, "width": 40, "norms": "head"},
    "norms_over_all_heads": {"norms": "projection"},
    "moe_shared": {"experts": 5, "top_k": 2, "width": 24, "shared": 70},
    "factors": {"factors": FACTORS, "width": 40},
    "moe_factors": {"experts": 5, "width": 24, "shared": 33, "factors": FACTORS},
    "window_within_a_chunk": {"window": 11},
    "window_over_chunks": {"window": 70, "heads": 2, "kv_heads": 2, "head_dim": 20},
    "int4_dense": {"weight_format": "int4", "bias": True},
    "int4_moe_int8_head": {"weight_format": "int4", "experts": 9, "top_k": 3, "width": 40, "shared": 70},
    "int4_head": {"weight_format": "int4", "head_format": "int4"},
    "bf16_moe": {"weight_format": "bf16", "head_format": "bf16", "experts": 5, "width": 90, "shared": 33},
    "bf16_down": {"wide": ("1.down",), "factors": FACTORS},
    "moe_wide": {"experts": 4, "top_k": 4, "width": 70, "heads": 4, "kv_heads": 4, "head_dim": 16},
}
