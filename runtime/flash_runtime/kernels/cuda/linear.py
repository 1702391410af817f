"""Int8 linears on torch tensors: activations rounded as every provider rounds them, then the grouped kernel.

Knows no plan and no packed file.

Legend: T token rows, K input and N output features, G groups of K, E experts, P (token, expert) pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from flash_runtime.kernels.cuda.extra import torch
from flash_runtime.kernels.cuda.kernel import launch
from flash_runtime.kernels.cuda.routing import Routing, one_expert
from flash_runtime.kernels.layout import GROUP, MAX_INT8, SMALLEST_MAX, padded_columns


@dataclass(frozen=True)
class Linear:
    """One linear, or E of them stacked."""

    weight: Any  # int8 [E, N, Kpad]
    scale: Any  # f32 [E, N]
    bias: Any | None  # f32 [E, N]

    def __call__(self, x: Any) -> Any:
        """x [T, K] through the only expert -> f32 [T, N]."""
        return grouped(self, x, one_expert(len(x), x.device), pairs_per_row=1)

    def rows(self, indices: Any, width: int) -> Any:
        """Dequantised rows of the only expert's weight, without padding: f32 [T, width]."""
        return self.weight[0, indices, :width].to(torch.float32) * self.scale[0, indices, None]


def quantise(x: Any) -> tuple[Any, Any]:
    """Symmetric int8 per token and group of x [T, K]: values [T, Kpad] and scales [T, G], as `reference.quantise`."""
    tokens, features = x.shape
    columns = padded_columns(features)
    groups = torch.nn.functional.pad(x, (0, columns - features)).reshape(tokens, columns // GROUP, GROUP)
    largest = groups.abs().amax(dim=2)  # [T, G]
    empty = largest < SMALLEST_MAX
    inverse = torch.where(empty, 0.0, MAX_INT8 / torch.where(empty, 1.0, largest))
    values = (groups * inverse[:, :, None]).round().clamp(-MAX_INT8, MAX_INT8).to(torch.int8)
    return values.reshape(tokens, columns), torch.where(empty, 0.0, largest / MAX_INT8)


def grouped(linear: Linear, x: Any, routing: Routing, *, pairs_per_row: int) -> Any:
    """Each pair's row of x [P / pairs_per_row, K] through its expert -> f32 [P, N]."""
    values, scale = quantise(x)
    out = torch.empty((routing.num_pairs, linear.weight.shape[1]), dtype=torch.float32, device=x.device)
    launch(
        values,
        scale,
        linear.weight,
        linear.scale,
        linear.bias,
        out,
        routing.pair_of_slot,
        routing.expert_of_block,
        num_pairs=routing.num_pairs,
        pairs_per_row=pairs_per_row,
        block_rows=routing.block_rows,
    )
    return out
