"""What the CUDA suite measures: the int8 linears beside torch's own bf16 and int8, on random weights.

A case holds calls, not times: it runs on any device, so a test can run it where no GPU is.

Legend: T tokens, H hidden, F an expert's width, E experts, R experts of one token.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from flash_runtime.kernels.cuda.linear import Linear
from flash_runtime.kernels.cuda.mlp import Moe


@dataclass(frozen=True)
class Shape:
    """One MoE layer."""

    name: str
    hidden: int
    width: int
    experts: int
    per_token: int


SHAPES = (Shape("MoE 32 x 512", 1024, 512, 32, 4), Shape("MoE 128 x 768", 2048, 768, 128, 8))
TOKENS = (1, 16, 512, 4096)
LINEAR = 8192
"""Input and output features of the plain linear: 64 MiB of int8, more than an L2 cache holds."""


@dataclass(frozen=True)
class Case:
    """The same work twice: ours, and a peer's."""

    name: str
    ours: Callable[[], Any]
    peer: Callable[[], Any]
    peer_name: str
    weight_bytes: int
    """int8 bytes that ours must read at least once a call."""


def cases(
    device: str, *, shapes: tuple[Shape, ...] = SHAPES, tokens: tuple[int, ...] = TOKENS, linear: int = LINEAR
) -> Iterator[Case]:
    """Every case, made when its turn comes: the weights of one are in memory at a time."""
    torch.manual_seed(1)
    for count in tokens:
        yield from _linear_cases(device, count, linear)
    for shape in shapes:
        for count in tokens:
            yield _moe_case(device, count, shape)


def _linear_cases(device: str, tokens: int, size: int) -> Iterator[Case]:
    ours, weight = _random_linear(device, 1, size, size)
    x = torch.randn(tokens, size, device=device)
    name = f"linear {size} x {size}, {tokens} tokens"
    half, half_weight = x.to(torch.bfloat16), weight[0].to(torch.bfloat16)
    yield Case(name, lambda: ours(x), lambda: half @ half_weight.T, "torch bf16", ours.weight.numel())
    if tokens > 16:  # torch._int_mm takes no fewer rows
        rounded = torch.randint(-127, 128, (tokens, size), dtype=torch.int8, device=device)
        peer = "torch._int_mm, no scales, no rounding"
        yield Case(name, lambda: ours(x), lambda: torch._int_mm(rounded, ours.weight[0].T), peer, ours.weight.numel())


def _moe_case(device: str, tokens: int, shape: Shape) -> Case:
    gate_up, gate_up_weight = _random_linear(device, shape.experts, 2 * shape.width, shape.hidden)
    down, down_weight = _random_linear(device, shape.experts, shape.hidden, shape.width)
    router = torch.randn(shape.experts, shape.hidden, device=device)
    moe = Moe(router, gate_up, down, shape.per_token, normalise=True, shared=None)
    x = torch.randn(tokens, shape.hidden, device=device)
    touched = int((x @ router.T).topk(shape.per_token).indices.unique().numel())
    weights = (gate_up_weight.to(torch.bfloat16), down_weight.to(torch.bfloat16))
    return Case(
        name=f"{shape.name}, {tokens} tokens",
        ours=lambda: moe(x),
        peer=lambda: _bf16_moe(x, router, *weights, per_token=shape.per_token),
        peer_name="torch bf16, expert by expert",
        weight_bytes=touched * (gate_up.weight[0].numel() + down.weight[0].numel()),
    )


def _random_linear(device: str, experts: int, n: int, k: int) -> tuple[Linear, Any]:
    """An int8 stack and the float weights it stands for."""
    values = torch.randint(-127, 128, (experts, n, k), dtype=torch.int8, device=device)
    scale = torch.full((experts, n), 1 / (73.0 * k**0.5), device=device)  # 73: the spread of the values
    return Linear(values, scale, bias=None), values.to(torch.float32) * scale[..., None]


def _bf16_moe(x: Any, router: Any, gate_up: Any, down: Any, *, per_token: int) -> Any:
    """What torch does without a grouped kernel: each expert's rows in turn. x [T, H] -> [T, H]"""
    gates, chosen = torch.softmax(x @ router.T, dim=-1).topk(per_token)  # [T, R]
    gates = gates / gates.sum(dim=-1, keepdim=True)
    half, out = x.to(torch.bfloat16), torch.zeros_like(x)
    for expert in chosen.unique().tolist():
        rows, ranks = (chosen == expert).nonzero(as_tuple=True)
        gate, up = (half[rows] @ gate_up[expert].T).chunk(2, dim=-1)
        each = (torch.nn.functional.silu(gate) * up) @ down[expert].T
        out.index_add_(0, rows, gates[rows, ranks, None] * each.to(torch.float32))
    return out
