"""The grouped W8A8 linear in triton-lang: all rows and their experts in one launch, an expert's rows side by side.

Knows pointers and sizes; knows no torch and no model. The order of operations is that of `kernels.reference`: an exact
int32 dot per group of input features, the groups added in float32 one after the other, then the weight's scale and the
bias. What a row gets depends on neither the tile it lies in nor the rows beside it.

Legend: T token rows, P = T * pairs_per_row (row, expert) pairs, N output and K padded input features, G groups of K,
E experts, M rows of a block, B blocks.
"""

from __future__ import annotations

from typing import Any, Final

from flash_runtime.kernels.cuda.extra import tl, triton
from flash_runtime.kernels.layout import GROUP

BLOCK_N: Final = 64
GROUP_M: Final = 8
"""Blocks of rows that walk over the output features together: they share a stretch of weights in the L2 cache."""
FEW_ROWS, MANY_ROWS = 16, 64
"""Rows of a block: the least a tensor-core dot takes, and what fills a Hopper warp group."""
OPTIONS: Final = {"num_warps": 4, "num_stages": 3, "enable_fp_fusion": False}
"""A fused multiply-add would round once where the reference rounds twice."""


def grouped_linear(  # type: ignore[no-untyped-def]  # an annotation would be a value that triton-lang compiles
    x,  # int8 [T, K]
    x_scale,  # f32 [T, G]
    weight,  # int8 [E, N, K]
    weight_scale,  # f32 [E, N]
    bias,  # f32 [E, N], read with HAS_BIAS alone
    out,  # f32 [P, N]
    pair_of_slot,  # int32 [B * M], P or more where a block is padded
    expert_of_block,  # int32 [B], -1 where a block is empty
    num_pairs,
    num_blocks,
    features,
    groups,
    pairs_per_row,
    HAS_BIAS: tl.constexpr,  # noqa: N803  a compile-time value, as triton-lang writes them
    BLOCK_M: tl.constexpr,  # noqa: N803
    BLOCK_N: tl.constexpr,  # noqa: N803
    GROUP_M: tl.constexpr,  # noqa: N803
    GROUP_K: tl.constexpr,  # noqa: N803
):
    """One block of rows against BLOCK_N features of the block's expert."""
    program = tl.program_id(0)
    wide = GROUP_M * tl.cdiv(features, BLOCK_N)
    first_block = program // wide * GROUP_M
    tall = tl.minimum(num_blocks - first_block, GROUP_M)
    block = first_block + program % wide % tall
    expert = tl.load(expert_of_block + block).to(tl.int64)
    if expert < 0:
        return
    pair = tl.load(pair_of_slot + block * BLOCK_M + tl.arange(0, BLOCK_M))  # [M]
    real = pair < num_pairs
    row = pair // pairs_per_row
    feature = program % wide // tall * BLOCK_N + tl.arange(0, BLOCK_N)  # [BLOCK_N]
    inside = feature < features
    k = tl.arange(0, GROUP_K)
    columns = groups * GROUP_K
    x_at = x + row[:, None].to(tl.int64) * columns + k[None, :]  # [M, GROUP_K]
    weight_at = weight + (expert * features + feature[None, :]) * columns + k[:, None]  # [GROUP_K, BLOCK_N]
    total = tl.zeros((BLOCK_M, BLOCK_N), dtype=tl.float32)
    for group in range(groups):
        left = tl.load(x_at, mask=real[:, None], other=0)
        right = tl.load(weight_at, mask=inside[None, :], other=0)
        scale = tl.load(x_scale + row * groups + group, mask=real, other=0.0)
        total += tl.dot(left, right, out_dtype=tl.int32).to(tl.float32) * scale[:, None]
        x_at += GROUP_K
        weight_at += GROUP_K
    total *= tl.load(weight_scale + expert * features + feature, mask=inside, other=0.0)[None, :]
    if HAS_BIAS:
        total += tl.load(bias + expert * features + feature, mask=inside, other=0.0)[None, :]
    out_at = out + pair[:, None].to(tl.int64) * features + feature[None, :]
    tl.store(out_at, total, mask=real[:, None] & inside[None, :])


KERNEL: Final = triton.jit(grouped_linear)


def launch(
    x: Any,
    x_scale: Any,
    weight: Any,
    weight_scale: Any,
    bias: Any | None,
    out: Any,
    pair_of_slot: Any,
    expert_of_block: Any,
    *,
    num_pairs: int,
    pairs_per_row: int,
    block_rows: int,
) -> None:
    """Run the kernel over every block and feature; arrays as its signature says, contiguous, on one device."""
    features, num_blocks, groups = weight.shape[1], expert_of_block.shape[0], x_scale.shape[1]
    if not num_blocks:
        return
    KERNEL[(num_blocks * -(-features // BLOCK_N),)](
        x,
        x_scale,
        weight,
        weight_scale,
        weight_scale if bias is None else bias,
        out,
        pair_of_slot,
        expert_of_block,
        num_pairs,
        num_blocks,
        features,
        groups,
        pairs_per_row,
        HAS_BIAS=bias is not None,
        BLOCK_M=block_rows,
        BLOCK_N=BLOCK_N,
        GROUP_M=GROUP_M,
        GROUP_K=GROUP,
        **OPTIONS,
    )
