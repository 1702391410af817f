"""What physics allows: bytes that a step must read against bandwidth, products it must form against the peak. Pure."""

from __future__ import annotations

from typing import Final

from shape import Shape

BYTES_PER_WEIGHT: Final = {"int8": 1.0, "int4": 0.625, "bf16": 2.0}
"""int4 with two float16 numbers for each group of 32; the scales of int8, one a row, do not show."""


def touched_experts(shape: Shape, batch: int) -> float:
    """Experts of a layer that a batch of tokens needs, if the router spreads them evenly."""
    return shape.experts * (1 - (1 - shape.top_k / shape.experts) ** batch)


def step_bytes(shape: Shape, *, layers: str, head: str, batch: int) -> float:
    """Weights that one decode step of a batch reads at least once; keys and values are left out."""
    body = shape.attention_weights + shape.expert_weights * touched_experts(shape, batch)
    return body * BYTES_PER_WEIGHT[layers] + shape.head_weights * BYTES_PER_WEIGHT[head]


def decode_rate(shape: Shape, *, layers: str, head: str, batch: int, bandwidth: float) -> float:
    """Tokens per second of all sequences together, at `bandwidth` bytes per second."""
    return batch * bandwidth / step_bytes(shape, layers=layers, head=head, batch=batch)


def prefill_operations(shape: Shape) -> int:
    """Multiplications and additions for one token of a prompt: all matrices but the head, without attention."""
    return 2 * (shape.attention_weights + shape.expert_weights * shape.top_k)


def prefill_rate(shape: Shape, *, peak: float) -> float:
    """Tokens per second, at `peak` operations per second."""
    return peak / prefill_operations(shape)
