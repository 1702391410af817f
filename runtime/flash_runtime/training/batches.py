"""Which sequences a step learns from, and which of their positions count. No torch.

Legend: N sequences, L tokens of the longest.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import IntArray
from flash_runtime.training.teacher import Lessons

Shares = Sequence[tuple[Lessons, float]]
"""Kinds of lessons and their shares of each batch."""


def batch_of(lessons: Shares, size: int, random: np.random.Generator) -> Lessons:
    """So many sequences in the given shares, padded to the length of the longest kind among them."""
    shares = np.array([share for _, share in lessons])
    counts = random.multinomial(size, shares / shares.sum())
    parts = [
        part.chosen(random.integers(len(part.token_ids), size=count))
        for (part, _), count in zip(lessons, counts, strict=True)
        if count
    ]
    length = max(part.token_ids.shape[1] for part in parts)
    return Lessons.joined([_of_length(part, length) for part in parts])


def counted(lessons: Lessons) -> NDArray[np.bool_]:
    """Positions [N, L] whose next token is to be foreseen: from the prompt's last token to the end."""
    positions = np.arange(lessons.token_ids.shape[1])
    found: NDArray[np.bool_] = (positions >= lessons.prompts[:, None] - 1) & (positions < lessons.lengths[:, None])
    return found


def most_frequent(lessons: Shares, count: int = 2048) -> IntArray:
    """The tokens that are most often likeliest, in order of their ids."""
    ids = np.concatenate([part.top_ids[:, :, 0].ravel() for part, _ in lessons])
    found, counts = np.unique(ids, return_counts=True)
    return np.sort(found[np.argsort(-counts, kind="stable")[:count]]).astype(np.int32)


def _of_length(lessons: Lessons, length: int) -> Lessons:
    """Padded at the end."""
    missing = length - lessons.token_ids.shape[1]
    fields: Mapping[str, Any] = vars(lessons)
    return Lessons(
        **{
            name: np.pad(array, [(0, 0), (0, missing), *[(0, 0)] * (array.ndim - 2)]) if array.ndim > 1 else array
            for name, array in fields.items()
        }
    )
