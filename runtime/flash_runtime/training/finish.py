"""The last lessons, in the engine's number formats: the student learns to bear the rounding. Needs torch.

One set of weights practises every format in turn, so that one small file serves all variants.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from flash_runtime.kernels.layout import LinearFormat
from flash_runtime.training.batches import Shares, batch_of, most_frequent
from flash_runtime.training.distil import Weights, losses
from flash_runtime.training.loop import MadeFor, Pace, Tell, train
from flash_runtime.training.network import Decoder
from flash_runtime.training.rounded import RoundedDecoder


def finish(
    student: Decoder,
    lessons: Shares,
    pace: Pace,
    folder: Path,
    *,
    formats: Sequence[LinearFormat],
    batch: int,
    seed: int,
    tell: Tell,
    weights: Weights | None = None,
    made_for: MadeFor | None = None,
    stop_at: int | None = None,
) -> int:
    """Teach the student by lessons while it computes in each of the formats in turn; returns how many tokens it saw.

    It computes in float32 but for what the formats round: in bfloat16 the rounding would drown.
    """
    weights = weights or Weights()
    always = torch.from_numpy(most_frequent(lessons)).long()
    rounded = RoundedDecoder(student)

    def loss_of(step: int) -> tuple[Tensor, dict[str, float], int]:
        chosen = batch_of(lessons, batch, np.random.default_rng([seed, step]))
        format = formats[step % len(formats)]
        loss, figures = losses(rounded.at(format), None, chosen, always, weights)
        named = {f"{name} {format.value}" if name == "logits" else name: value for name, value in figures.items()}
        return loss, named, int(chosen.lengths.sum())

    return train(student, loss_of, pace, folder, tell=tell, made_for=made_for, stop_at=stop_at)
