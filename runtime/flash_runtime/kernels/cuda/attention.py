"""Attention over the paged cache in plain torch operations, sequence after sequence: simple, and not fast.

Legend: T tokens of the step, h and g query and key-value heads, d head features, P positions a sequence holds.
"""

from __future__ import annotations

from typing import Any

from flash_runtime.kernels.cuda.extra import torch
from flash_runtime.kernels.cuda.placement import Placement


class PagedCache:
    """Keys and values of all layers, by slot."""

    def __init__(self, *, layers: int, slots: int, kv_heads: int, head_dim: int, dtype: Any, device: Any) -> None:
        shape = (layers, slots, kv_heads, head_dim)
        self._keys = torch.zeros(shape, dtype=dtype, device=device)
        self._values = torch.zeros(shape, dtype=dtype, device=device)

    def write(self, layer: int, slots: Any, k: Any, v: Any) -> None:
        """Put k and v [T, g, d] where `slots` [T] says."""
        self._keys[layer, slots] = k.to(self._keys.dtype)
        self._values[layer, slots] = v.to(self._values.dtype)

    def read(self, layer: int, slots: Any) -> tuple[Any, Any]:
        """Keys and values of `slots`, float32 [P, g, d]."""
        return self._keys[layer, slots].to(torch.float32), self._values[layer, slots].to(torch.float32)


def attend(
    q: Any, cache: PagedCache, layer: int, placement: Placement, positions: Any, *, factor: float, window: int | None
) -> Any:
    """q [T, h, d], each token over its sequence's positions up to its own (the last `window` of them) -> [T, h, d]."""
    out = torch.empty_like(q)
    for sequence in placement.sequences:
        keys, values = cache.read(layer, torch.from_numpy(sequence.slots).to(q.device))  # [P, g, d]
        own = positions[sequence.rows, None]  # [T', 1]
        others = torch.arange(len(keys), device=q.device)[None, :]  # [1, P]
        hidden = others > own
        if window is not None:
            hidden |= others <= own - window
        part = q[sequence.rows]  # [T', h, d]
        grouped = part.reshape(len(part), keys.shape[1], -1, q.shape[2])  # [T', g, h / g, d]
        scores = torch.einsum("tgqd,pgd->gqtp", grouped, keys) * factor
        weights = torch.softmax(scores.masked_fill(hidden, -torch.inf), dim=-1)
        out[sequence.rows] = torch.einsum("gqtp,pgd->tgqd", weights, values).reshape(part.shape)
    return out


def turn(x: Any, cosine: Any, sine: Any) -> Any:
    """RoPE over the pairs (i, i + d / 2) of x [T, heads, d]; cosine and sine [T, 1, d / 2]."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
