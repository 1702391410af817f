"""Which rows each block of the grouped kernel takes: pairs sorted by expert, every expert padded to whole blocks.

Nothing here waits for the GPU: sizes follow from the counts alone, and blocks that turn out empty are marked.

Legend: T token rows, R experts of one token, P = T * R (token, expert) pairs, E experts, M rows of a block, B blocks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flash_runtime.kernels.cuda.extra import torch
from flash_runtime.kernels.cuda.kernel import FEW_ROWS, MANY_ROWS


@dataclass(frozen=True)
class Routing:
    """Pair p belongs to token p // R."""

    pair_of_slot: Any  # int32 [B * M], P in padding
    expert_of_block: Any  # int32 [B], -1 where no pair is
    num_pairs: int
    block_rows: int


def block_rows(pairs: int, experts: int) -> int:
    """Rows of a block: wide ones once an expert is expected to fill half of one. Not tuned on a GPU."""
    return MANY_ROWS if 2 * pairs >= experts * MANY_ROWS else FEW_ROWS


def one_expert(tokens: int, device: Any) -> Routing:
    """The routing of a plain linear: every row in its order."""
    rows = block_rows(tokens, 1)
    blocks = -(-tokens // rows)
    return Routing(
        pair_of_slot=torch.arange(blocks * rows, dtype=torch.int32, device=device),
        expert_of_block=torch.zeros(blocks, dtype=torch.int32, device=device),
        num_pairs=tokens,
        block_rows=rows,
    )


def by_expert(chosen: Any, num_experts: int) -> Routing:
    """The routing of `chosen`, int64 [T, R]; equal experts keep their pairs' order."""
    flat = chosen.reshape(-1)  # [P]
    pairs, device = len(flat), flat.device
    rows = block_rows(pairs, num_experts)
    counts = torch.zeros(num_experts, dtype=torch.int64, device=device)
    counts.scatter_add_(0, flat, torch.ones_like(flat))  # [E]
    padded = (counts + rows - 1) // rows * rows
    ends = padded.cumsum(0)  # [E] where each expert's slots end
    order = flat.argsort(stable=True)  # [P]
    owner = flat[order]
    rank = torch.arange(pairs, device=device) - (counts.cumsum(0) - counts)[owner]  # [P] within its expert
    # Every expert that has a pair wastes at most rows - 1 slots.
    blocks = (pairs + min(pairs, num_experts) * (rows - 1)) // rows
    pair_of_slot = torch.full((blocks * rows,), pairs, dtype=torch.int32, device=device)
    pair_of_slot[(ends - padded)[owner] + rank] = order.to(torch.int32)
    expert = torch.searchsorted(ends, torch.arange(blocks, device=device) * rows, right=True)  # [B]
    return Routing(
        pair_of_slot=pair_of_slot,
        expert_of_block=torch.where(expert < num_experts, expert, -1).to(torch.int32),
        num_pairs=pairs,
        block_rows=rows,
    )
