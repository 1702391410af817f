"""The student taught by its teacher, side by side on the same text. Needs torch.

Only the FFNs' outputs and the routers are trained, or the FFNs whole; attention, norms and embedding stay the
teacher's, so what ships is small.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from flash_runtime.training.batches import Shares, batch_of, counted, most_frequent
from flash_runtime.training.carve import CarvedLayer
from flash_runtime.training.loop import MadeFor, Pace, Tell, train
from flash_runtime.training.losses import balance_loss, kept_tokens_loss, relative_loss
from flash_runtime.training.network import Decoder, Trace
from flash_runtime.training.teacher import Lessons

_TRAINED = ("mlp.down_proj", "mlp.router")
_TRAINED_TOO = ("mlp.gate_proj", "mlp.up_proj")


@dataclass(frozen=True)
class Weights:
    """How much each loss counts."""

    logits: float = 1.0
    hidden: float = 1.0
    attention: float = 0.5
    balance: float = 0.01


def place(student: Decoder, carved: Mapping[int, CarvedLayer], *, whole: bool = False) -> None:
    """Put the carved layers into a decoder that holds the teacher's, and leave only their `down` and router to train.

    With `whole`, gate and up are trained too: better in the end, three times as much to store.
    """
    trained = _TRAINED + (_TRAINED_TOO if whole else ())
    names = {f"layers.{index}.{part}.weight" for index in carved for part in trained}
    with torch.no_grad():
        for index, layer in carved.items():
            mlp = student.layers[index].mlp
            order = torch.from_numpy(layer.order.astype(np.int64))
            for part, own in ((mlp.gate_proj, layer.gate), (mlp.up_proj, layer.up)):
                part.weight.copy_(part.weight[order].clone() if own is None else torch.from_numpy(own))
            mlp.down_proj.weight.copy_(torch.from_numpy(layer.down))
            mlp.router.weight.copy_(torch.from_numpy(layer.router))
            mlp.shared_gate.weight.zero_()
    for name, parameter in student.named_parameters():
        parameter.requires_grad = name in names


def distil(
    student: Decoder,
    teacher: Decoder | None,
    lessons: Shares,
    pace: Pace,
    folder: Path,
    *,
    batch: int,
    seed: int,
    tell: Tell,
    weights: Weights | None = None,
    made_for: MadeFor | None = None,
    stop_at: int | None = None,
) -> int:
    """Teach the student by lessons; returns how many tokens it saw.

    The teacher itself is asked only for the losses on hidden states and attention; None = without them.
    """
    weights = weights or Weights()
    always = torch.from_numpy(most_frequent(lessons)).long()
    for decoder in (student, teacher):
        if decoder is not None:
            _lighten(decoder, kept={name for name, one in student.named_parameters() if one.requires_grad})

    def loss_of(step: int) -> tuple[Tensor, dict[str, float], int]:
        chosen = batch_of(lessons, batch, np.random.default_rng([seed, step]))
        with torch.autocast("cpu", torch.bfloat16):
            loss, figures = losses(student, teacher, chosen, always, weights)
        return loss, figures, int(chosen.lengths.sum())

    return train(student, loss_of, pace, folder, tell=tell, made_for=made_for, stop_at=stop_at)


class Student(Protocol):
    """A decoder, or one that is seen through the engine's number formats."""

    embedding: Tensor

    def __call__(self, token_ids: Tensor) -> Trace: ...


def losses(
    student: Student, teacher: Decoder | None, lessons: Lessons, always: Tensor, weights: Weights
) -> tuple[Tensor, dict[str, float]]:
    """The weighted sum of the three losses and the balance of experts, and each of them by name."""
    token_ids = torch.from_numpy(lessons.token_ids).long()
    held = torch.from_numpy(counted(lessons))
    top_ids = torch.from_numpy(lessons.top_ids).long()[held]
    top_logprobs = torch.from_numpy(lessons.top_logprobs)[held]
    found = student(token_ids)
    parts = {"logits": kept_tokens_loss(found.final[held], student.embedding, top_ids, top_logprobs, always)}
    if teacher is not None:
        with torch.no_grad():
            expected = teacher(token_ids)
        parts["hidden"] = relative_loss(found.states, expected.states)
        parts["attention"] = relative_loss(found.attentions, expected.attentions)
    if found.routings:
        parts["balance"] = balance_loss(found.routings)
    total = torch.stack([getattr(weights, name) * part for name, part in parts.items()]).sum()
    return total, {name: part.item() for name, part in parts.items()}


def _lighten(decoder: Decoder, *, kept: set[str]) -> None:
    """Matrices that are not trained in bfloat16, which they are multiplied in anyway."""
    for name, parameter in decoder.named_parameters():
        if parameter.ndim == 2 and name not in kept:
            parameter.requires_grad = False
            parameter.data = parameter.data.bfloat16()
