"""What a student is told when it differs from its teacher. Needs torch.

Legend: T positions, H hidden, K kept likeliest tokens, C candidate tokens, V vocabulary, E experts.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from flash_runtime.training.network import Routing


def candidates(top_ids: Tensor, *, always: Tensor) -> tuple[Tensor, Tensor]:
    """The tokens [C] that compete for a batch's positions, and where each kept one [T, K] is among them.

    The product with the whole vocabulary costs more than a small student; tokens that no position of the batch expects
    add little to the loss, so only a fixed part of them, `always`, competes.
    """
    competing = torch.unique(torch.cat([top_ids.flatten(), always]))
    return competing, torch.searchsorted(competing, top_ids)


def kept_tokens_loss(
    states: Tensor, embedding: Tensor, top_ids: Tensor, top_logprobs: Tensor, always: Tensor
) -> Tensor:
    """KL from the teacher's kept tokens to the student's distribution over the candidates. states [T, H]."""
    competing, where = candidates(top_ids, always=always)
    logprobs = F.log_softmax((states @ embedding[competing].T).float(), dim=-1)  # [T, C]
    expected = top_logprobs.float().softmax(dim=-1)  # [T, K]
    found = logprobs.gather(1, where)
    return (expected * (expected.clamp_min(1e-9).log() - found)).sum(dim=-1).mean()


def relative_loss(found: list[Tensor], expected: list[Tensor]) -> Tensor:
    """How far the two are apart, relative to the teacher's size, averaged over layers."""
    parts = [
        (one.float() - other.float()).square().sum() / (other.float().square().sum() + 1e-6)
        for one, other in zip(found, expected, strict=True)
    ]
    return torch.stack(parts).mean()


def balance_loss(routings: list[Routing]) -> Tensor:
    """1 where all experts are used alike, more otherwise (Fedus et al. 2021, Switch Transformer, arXiv 2101.03961)."""
    parts = []
    for routing in routings:
        share = routing.chosen.mean(dim=0)
        share = share / share.sum()
        parts.append(routing.probabilities.shape[1] * (share * routing.probabilities.mean(dim=0)).sum())
    return torch.stack(parts).mean()
