"""SwiGLU on torch tensors: dense, routed to experts, and shared by all tokens. The linears are int8, the rest is float.

Legend: T tokens, H hidden, F an MLP's width, E experts, R experts of one token, P = T * R (token, expert) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flash_runtime.kernels.cuda.extra import torch
from flash_runtime.kernels.cuda.linear import Linear, grouped
from flash_runtime.kernels.cuda.routing import by_expert


@dataclass(frozen=True)
class Swiglu:
    """down(silu(gate(x)) * up(x))."""

    gate_up: Linear  # [1, 2 F, H]
    down: Linear  # [1, H, F]

    def __call__(self, x: Any) -> Any:
        """[T, H] -> [T, H]"""
        return self.down(_inner(self.gate_up(x)))


@dataclass(frozen=True)
class SharedExpert:
    """What every token passes, weighted by sigmoid(gate . x)."""

    gate: Any  # f32 [H]
    swiglu: Swiglu

    def __call__(self, x: Any) -> Any:
        return torch.sigmoid(x @ self.gate)[:, None] * self.swiglu(x)


@dataclass(frozen=True)
class Moe:
    """The top_k experts of each token, summed by router weight, and the shared one where there is one."""

    router: Any  # f32 [E, H]
    gate_up: Linear  # [E, 2 F, H]
    down: Linear  # [E, H, F]
    top_k: int
    normalise: bool
    shared: SharedExpert | None

    def __call__(self, x: Any) -> Any:
        """[T, H] -> [T, H]"""
        routed = torch.softmax(x @ self.router.T, dim=-1)  # [T, E]
        chosen = routed.argsort(dim=-1, descending=True, stable=True)[:, : self.top_k]  # [T, R]
        gates = routed.gather(1, chosen)
        if self.normalise:
            gates = gates / gates.sum(dim=-1, keepdim=True)
        routing = by_expert(chosen, len(self.router))
        inner = _inner(grouped(self.gate_up, x, routing, pairs_per_row=self.top_k))  # [P, F]
        each = grouped(self.down, inner, routing, pairs_per_row=1).reshape(*chosen.shape, -1)  # [T, R, H]
        out = torch.zeros_like(x)
        for rank in range(self.top_k):  # in this order, whatever a reduction would choose
            out += gates[:, rank, None] * each[:, rank]
        return out if self.shared is None else out + self.shared(x)


def _inner(both: Any) -> Any:
    gate, up = both.chunk(2, dim=-1)
    return torch.nn.functional.silu(gate) * up
