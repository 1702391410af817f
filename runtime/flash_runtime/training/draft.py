"""The draft: a few layers of the teacher's shape, taught to foresee its likeliest next token. Needs torch.

It starts as some of the teacher's own layers and shares its embedding, which is also its head.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flash_runtime.training.batches import Shares, batch_of, counted, most_frequent
from flash_runtime.training.loop import MadeFor, Pace, Tell, train
from flash_runtime.training.losses import kept_tokens_loss
from flash_runtime.training.network import Decoder
from flash_runtime.training.teacher import Lessons


def train_draft(
    draft: Decoder,
    lessons: Shares,
    pace: Pace,
    folder: Path,
    *,
    batch: int,
    seed: int,
    tell: Tell,
    made_for: MadeFor | None = None,
    stop_at: int | None = None,
) -> int:
    """Teach the draft by lessons and their shares of each batch; returns how many tokens it saw."""
    always = torch.from_numpy(most_frequent(lessons)).long()

    def loss_of(step: int) -> tuple[Tensor, dict[str, float], int]:
        chosen = batch_of(lessons, batch, np.random.default_rng([seed, step]))
        with torch.autocast("cpu", torch.bfloat16):
            loss, match, seen = _loss(draft, chosen, always)
        return loss, {"match": match}, seen

    return train(draft, loss_of, pace, folder, tell=tell, made_for=made_for, stop_at=stop_at)


def greedy_match(draft: Decoder, lessons: Lessons) -> float:
    """How often the draft's best token is the teacher's, over all positions that count."""
    hits = total = 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for row in range(0, len(lessons.token_ids), 8):
            part = lessons.chosen(slice(row, row + 8))
            states = draft(torch.from_numpy(part.token_ids).long()).final
            held = torch.from_numpy(counted(part))
            best = (states[held] @ draft.embedding.T).argmax(dim=-1)
            expected = torch.from_numpy(part.top_ids[:, :, 0]).long()[held]
            hits += int((best == expected).sum())
            total += len(best)
    return hits / max(1, total)


def _loss(draft: Decoder, lessons: Lessons, always: Tensor) -> tuple[Tensor, float, int]:
    states = draft(torch.from_numpy(lessons.token_ids).long()).final
    held = torch.from_numpy(counted(lessons))
    top_ids = torch.from_numpy(lessons.top_ids).long()[held]
    top_logprobs = torch.from_numpy(lessons.top_logprobs)[held]
    found = states[held]
    loss = kept_tokens_loss(found, draft.embedding, top_ids, top_logprobs, always)
    with torch.no_grad():
        # Among the candidates of its own position: cheap, and shows whether it learns.
        scores = (found[:, None] * draft.embedding[top_ids]).sum(dim=-1)
        match = (scores.argmax(dim=-1) == 0).float().mean().item()
    return loss, match, int(held.sum())
