"""A dense FFN cut into a shared expert and routed experts, in closed form: no gradient, one pass over some text.

The neurons that contribute most become the shared expert; the rest is grouped by which of them are active together.
The router is the linear map that best foretells how much each group contributes, and `down` is refitted by least
squares so that what the chosen experts give is as near to the dense output as it can be. No torch.

Legend: T tokens, H hidden, F inner features of the dense FFN, E routed experts, W features of each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import FloatArray
from flash_runtime.training.layout import ExpertLayout

_CLUSTER_TOKENS: Final = 4096
_CLUSTER_ROUNDS: Final = 8
_ROUTER_RIDGE: Final = 1e-2
_DOWN_RIDGE: Final = 0.5
SHARPNESS: Final = 0.05
"""Size of the router's logits: so small that chosen experts weigh nearly alike, which is how the dense FFN has them."""


@dataclass(frozen=True)
class CarvedLayer:
    """One sparse layer, its neurons in the order shared expert, expert 0, expert 1, …"""

    order: NDArray[np.uint16]  # [F] the dense FFN's neuron at each place
    router: FloatArray  # [E, H]
    down: FloatArray  # [H, F] in that order, refitted
    gate: FloatArray | None = None  # [F, H] in that order, where training changed it
    up: FloatArray | None = None  # [F, H]


def carve(
    x: FloatArray, inner: FloatArray, down: FloatArray, layout: ExpertLayout, random: np.random.Generator
) -> CarvedLayer:
    """From the FFN's inputs x [T, H], inner features [T, F] and down [H, F].

    With all experts active nothing is lost: then the router is zero and `down` is the teacher's own.
    """
    layout.check(down.shape[1])
    size = np.linalg.norm(down, axis=0)  # [F]
    contribution = np.abs(inner) * size  # [T, F]
    by_size = np.argsort(-np.square(contribution).mean(axis=0), kind="stable")
    shared, rest = by_size[: layout.shared_width], by_size[layout.shared_width :]
    some = contribution[:: max(1, len(contribution) // _CLUSTER_TOKENS), rest]
    groups = _balanced_groups(some.T, layout.experts, layout.expert_width, random)
    order = np.concatenate([np.sort(shared), *(np.sort(rest[group]) for group in groups)]).astype(np.uint16)
    own = down[:, order]
    if layout.top_k == layout.experts:
        return CarvedLayer(order, np.zeros((layout.experts, x.shape[1]), np.float32), own)
    placed = inner[:, order]
    importance = _importance(placed, own, layout)
    router = _router(x, importance)
    kept = placed * gates(x @ router.T, layout)
    return CarvedLayer(order, router, _refitted(kept, placed @ own.T, own))


def gates(logits: FloatArray, layout: ExpertLayout) -> FloatArray:
    """What multiplies each inner feature [T, F] when the router says this [T, E]."""
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    weights = layout.experts * exponents / exponents.sum(axis=1, keepdims=True)
    chosen = np.argsort(-logits, axis=1, kind="stable")[:, : layout.top_k]
    kept = np.zeros_like(weights)
    np.put_along_axis(kept, chosen, np.take_along_axis(weights, chosen, axis=1), axis=1)
    shared = np.ones((len(logits), layout.shared_width), np.float32)
    return np.concatenate([shared, kept.repeat(layout.expert_width, axis=1)], axis=1)


def _importance(placed: FloatArray, down: FloatArray, layout: ExpertLayout) -> FloatArray:
    """Length of what each routed expert adds to the output, [T, E]."""
    parts = []
    for expert in range(layout.experts):
        start = layout.shared_width + expert * layout.expert_width
        part = slice(start, start + layout.expert_width)
        gram = down[:, part].T @ down[:, part]  # [W, W]
        parts.append(np.einsum("tw,tw->t", placed[:, part] @ gram, placed[:, part]))
    lengths: FloatArray = np.sqrt(np.maximum(np.stack(parts, axis=1), 0))
    return lengths


def _router(x: FloatArray, importance: FloatArray) -> FloatArray:
    """The linear map [E, H] nearest to the importance of experts relative to each other."""
    target = importance - importance.mean(axis=1, keepdims=True)
    gram = x.T @ x
    gram[np.diag_indices_from(gram)] += np.float32(_ROUTER_RIDGE) * np.trace(gram) / len(gram)
    router = np.linalg.solve(gram, x.T @ target).T
    router *= np.float32(SHARPNESS) / max(float((x @ router.T).std()), 1e-12)
    return np.ascontiguousarray(router, dtype=np.float32)


def _refitted(kept: FloatArray, expected: FloatArray, down: FloatArray) -> FloatArray:
    """down [H, F] moved so that kept @ down.T comes as near as it can to expected, but not far without reason."""
    gram = kept.T @ kept  # [F, F]
    gram[np.diag_indices_from(gram)] += np.float32(_DOWN_RIDGE) * np.trace(gram) / len(gram)
    missing = expected - kept @ down.T  # [T, H]
    change = np.linalg.solve(gram, kept.T @ missing).T
    return (down + change).astype(np.float32)


def _balanced_groups(
    features: FloatArray, count: int, size: int, random: np.random.Generator
) -> list[NDArray[np.intp]]:
    """Rows of the features in groups of equal size, each of rows that rise and fall together (balanced k-means)."""
    rows = features - features.mean(axis=1, keepdims=True)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True) + 1e-12
    centres = rows[random.choice(len(rows), size=count, replace=False)]
    groups: list[NDArray[np.intp]] = []
    for _ in range(_CLUSTER_ROUNDS):
        groups = _assigned(rows @ centres.T, size)
        centres = np.stack([rows[group].sum(axis=0) for group in groups])
        centres /= np.linalg.norm(centres, axis=1, keepdims=True) + 1e-12
    return groups


def _assigned(likeness: FloatArray, size: int) -> list[NDArray[np.intp]]:
    """Rows [N, groups] to groups of `size`: the surest first, each to the best group that still has room."""
    ranked = np.sort(likeness, axis=1)
    surest = np.argsort(-(ranked[:, -1] - ranked[:, -2]) if ranked.shape[1] > 1 else -ranked[:, -1], kind="stable")
    room = np.full(likeness.shape[1], size)
    members: list[list[int]] = [[] for _ in room]
    for row in surest:
        best = int(np.argmax(np.where(room > 0, likeness[row], -np.inf)))
        members[best].append(int(row))
        room[best] -= 1
    return [np.array(group, dtype=np.intp) for group in members]
