"""A Llama-like decoder in torch, dense or sparse, small enough to train on a CPU. Needs torch.

A sparse MLP keeps the neurons of the teacher's FFN in one matrix, first the shared expert's, then those of each routed
expert; what the router says multiplies the inner features of each expert. That is the same function as separate
experts, and three large products instead of many small ones.

Legend: B sequences, L tokens, H hidden, F inner features, E routed experts, h and g query and key-value heads, d head
features.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor, nn

from flash_runtime.training.layout import ExpertLayout


@dataclass(frozen=True)
class Shape:
    """Sizes of one decoder."""

    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    width: int
    layers: int
    norm_eps: float
    sparse: ExpertLayout | None = None
    dense_layers: Collection[int] = ()


@dataclass(frozen=True)
class Routing:
    """What one sparse layer did."""

    probabilities: Tensor  # [T, E] of the softmax
    chosen: Tensor  # [T, E] 1 where the expert was among the top


@dataclass(frozen=True)
class Trace:
    """What a decoder computed."""

    final: Tensor  # [B, L, H] normed, what the head reads
    states: list[Tensor]
    """After each layer."""
    attentions: list[Tensor]
    """What each layer's attention added."""
    routings: list[Routing]
    """Of the sparse layers."""


class Norm(nn.Module):  # type: ignore[misc] # torch is not installed where types are checked
    """RMS norm."""

    def __init__(self, size: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.weight.shape, self.weight, self.eps)


class Attention(nn.Module):  # type: ignore[misc] # torch is not installed where types are checked
    """Causal grouped-query attention with half-split RoPE."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        inner, kv = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        self.q_proj = nn.Linear(shape.hidden, inner, bias=False)
        self.k_proj = nn.Linear(shape.hidden, kv, bias=False)
        self.v_proj = nn.Linear(shape.hidden, kv, bias=False)
        self.o_proj = nn.Linear(inner, shape.hidden, bias=False)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            part(x).view(batch, length, -1, self.shape.head_dim).transpose(1, 2)
            for part in (self.q_proj, self.k_proj, self.v_proj)
        )  # [B, h or g, L, d]
        q, k = _turned(q, turn), _turned(k, turn)
        repeats = self.shape.heads // self.shape.kv_heads
        k, v = k.repeat_interleave(repeats, dim=1), v.repeat_interleave(repeats, dim=1)
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class Mlp(nn.Module):  # type: ignore[misc] # torch is not installed where types are checked
    """SwiGLU, with a router over groups of its inner features where it is sparse."""

    def __init__(self, shape: Shape, sparse: ExpertLayout | None) -> None:
        super().__init__()
        width = shape.width if sparse is None else sparse.width
        self.gate_proj = nn.Linear(shape.hidden, width, bias=False)
        self.up_proj = nn.Linear(shape.hidden, width, bias=False)
        self.down_proj = nn.Linear(width, shape.hidden, bias=False)
        self.sparse = sparse
        if sparse is not None:
            self.router = nn.Linear(shape.hidden, sparse.experts, bias=False)
            self.shared_gate = nn.Linear(shape.hidden, 1, bias=False)

    def forward(self, x: Tensor) -> tuple[Tensor, Routing | None]:
        inner = F.silu(self.gate_proj(x)) * self.up_proj(x)  # [..., F]
        sparse = self.sparse
        if sparse is None:
            return self.down_proj(inner), None
        routed = F.softmax(self.router(x), dim=-1)  # [..., E]
        top = routed.topk(sparse.top_k, dim=-1).indices
        chosen = torch.zeros_like(routed).scatter(-1, top, 1.0)
        weights = routed * chosen * sparse.experts
        shared = 2 * torch.sigmoid(self.shared_gate(x)) * inner[..., : sparse.shared_width]
        parts = inner[..., sparse.shared_width :].unflatten(-1, (sparse.experts, sparse.expert_width))
        inner = torch.cat([shared, (parts * weights[..., None]).flatten(-2)], dim=-1)
        return self.down_proj(inner), Routing(routed.flatten(0, -2), chosen.flatten(0, -2))


class Layer(nn.Module):  # type: ignore[misc] # torch is not installed where types are checked
    """One transformer block."""

    def __init__(self, shape: Shape, sparse: ExpertLayout | None) -> None:
        super().__init__()
        self.input_layernorm = Norm(shape.hidden, shape.norm_eps)
        self.self_attn = Attention(shape)
        self.post_attention_layernorm = Norm(shape.hidden, shape.norm_eps)
        self.mlp = Mlp(shape, sparse)

    def forward(self, x: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Routing | None]:
        attended = self.self_attn(self.input_layernorm(x), turn)
        x = x + attended
        out, routing = self.mlp(self.post_attention_layernorm(x))
        return x + out, attended, routing


class Decoder(nn.Module):  # type: ignore[misc] # torch is not installed where types are checked
    """From token ids to final hidden states; the head is the embedding, which belongs to the teacher."""

    inv_freq: Tensor

    def __init__(self, shape: Shape, embedding: Tensor, inv_freq: Tensor) -> None:
        super().__init__()
        self.shape = shape
        self.layers = nn.ModuleList(
            Layer(shape, None if index in shape.dense_layers else shape.sparse) for index in range(shape.layers)
        )
        self.norm = Norm(shape.hidden, shape.norm_eps)
        self.embedding = embedding  # [V, H], not a parameter: neither trained nor saved
        self.register_buffer("inv_freq", inv_freq, persistent=False)

    def forward(self, token_ids: Tensor) -> Trace:
        x = self.embedding[token_ids]
        turn = self.turn(token_ids.shape[1])
        states, attentions, routings = [], [], []
        for layer in self.layers:
            x, attended, routing = layer(x, turn)
            states.append(x)
            attentions.append(attended)
            if routing is not None:
                routings.append(routing)
        return Trace(self.norm(x), states, attentions, routings)

    def turn(self, length: int) -> tuple[Tensor, Tensor]:
        """Cosine and sine [L, d / 2] of RoPE."""
        angles = torch.arange(length, dtype=torch.float32)[:, None] * self.inv_freq
        return angles.cos(), angles.sin()


def _turned(x: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    cosine, sine = turn
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
