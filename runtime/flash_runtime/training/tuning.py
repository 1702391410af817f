"""A model tuned on chats by adapters, and how well it foresees held-out answers before and after. Needs torch."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - torch's own habit
from torch import Tensor

from flash_runtime.model.checkpoint import Checkpoint
from flash_runtime.training.adapter_file import Adapter, AdapterFacts, checkpoint_digest
from flash_runtime.training.adapters import Adapters
from flash_runtime.training.chat_tokens import Example, padded
from flash_runtime.training.loop import Pace, Tell, train
from flash_runtime.training.weights import model_of

_AT_ONCE = 4


@dataclass(frozen=True)
class Tuning:
    """What to train and how."""

    targets: tuple[str, ...] = ("attention", "experts")
    rank: int = 8
    alpha: float = 16.0
    epochs: float = 2.0
    batch: int = 8
    learning_rate: float = 2e-4
    held_out: float = 0.1
    """Share of the chats that only measures."""
    seed: int = 5


@dataclass(frozen=True)
class Answers:
    """How well a model foresees the answers of chats."""

    loss: float
    """Mean negative log-likelihood of a token, in nats."""
    same_top: float
    """Share of the tokens that were its likeliest."""
    tokens: int

    @property
    def perplexity(self) -> float:
        return math.exp(min(self.loss, 700.0))


@dataclass(frozen=True)
class Tuned:
    """What came of it."""

    adapter: Adapter
    before: Answers
    after: Answers
    trained_chats: int
    held_out_chats: int


def split(count: int, share: float, seed: int) -> tuple[list[int], list[int]]:
    """Which of so many chats train and which only measure, at least one of each; raises ValueError below two."""
    if count < 2:
        raise ValueError("two chats are needed at least: one to train on and one to measure with")
    order = np.random.default_rng(seed).permutation(count).tolist()
    held = min(max(1, round(count * share)), count - 1)
    return sorted(order[held:]), sorted(order[:held])


def batch_rows(step: int, batch: int, count: int, seed: int) -> list[int]:
    """The chats of a step: all of them in a new order, then again."""
    rows = []
    for position in range(step * batch, (step + 1) * batch):
        epoch, index = divmod(position, count)
        rows.append(int(np.random.default_rng([seed, epoch]).permutation(count)[index]))
    return rows


def tune(
    checkpoint: Checkpoint,
    examples: Sequence[Example],
    tuning: Tuning,
    folder: Path,
    *,
    provenance: dict[str, str],
    tell: Tell,
    threads: int | None = None,
    stop_at: int | None = None,
) -> Tuned:
    """Train adapters; the run's checkpoints and log lie in the folder, and a second call goes on from there.

    Raises UnsupportedModel for a model that cannot be tuned here, CheckpointError for another run's checkpoint.
    """
    if threads is not None:
        torch.set_num_threads(threads)
    generator = torch.Generator().manual_seed(tuning.seed)
    decoder = model_of(checkpoint)
    model = Adapters(decoder, targets=tuning.targets, rank=tuning.rank, alpha=tuning.alpha, generator=generator)
    trained, held = split(len(examples), tuning.held_out, tuning.seed)
    measured, digest = [examples[row] for row in held], checkpoint_digest(checkpoint)
    before = answers(model, measured)
    tell({"held_out_loss": before.loss})

    def loss_of(step: int) -> tuple[Tensor, dict[str, float], int]:
        rows = batch_rows(step, tuning.batch, len(trained), tuning.seed)
        with torch.autocast("cpu", torch.bfloat16):
            loss, hits, count = _loss(model, [examples[trained[row]] for row in rows])
        return loss / count, {"same_top": hits / count}, count

    steps = max(1, math.ceil(tuning.epochs * len(trained) / tuning.batch))
    made_for = {name: str(value) for name, value in asdict(tuning).items() if name != "epochs"}
    tokens = train(
        model,
        loss_of,
        Pace(steps, tuning.learning_rate, weight_decay=0.0),
        folder,
        tell=tell,
        made_for={"model": digest, **made_for, **_texts(provenance)},
        stop_at=stop_at,
    )
    after = answers(model, measured)
    tell({"held_out_loss": after.loss})
    facts = AdapterFacts(
        format=1, base=checkpoint.about.name, base_digest=digest, trained_tokens=tokens, provenance=provenance
    )
    return Tuned(model.written(facts), before, after, len(trained), len(held))


def answers(model: Adapters, examples: Collection[Example]) -> Answers:
    """Over the tokens of these chats that are to be learned."""
    ordered = sorted(examples, key=lambda example: len(example.token_ids))  # alike in length, so little is padded
    total, hits, count = 0.0, 0, 0
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        for start in range(0, len(ordered), _AT_ONCE):
            loss, right, tokens = _loss(model, ordered[start : start + _AT_ONCE])
            total, hits, count = total + loss.item(), hits + right, count + tokens
    return Answers(total / count, hits / count, count)


def _loss(model: Adapters, examples: Sequence[Example]) -> tuple[Tensor, int, int]:
    """The summed loss over the learned tokens, how many were the likeliest, and how many there are."""
    ids, learned = padded(examples)
    token_ids = torch.from_numpy(ids).long()
    wanted = torch.from_numpy(learned[:, 1:])  # each is foreseen by the token before it
    states = model(token_ids).final[:, :-1][wanted]  # [T, H]
    scores = (states @ model.embedding.T).float()  # [T, V]
    expected = token_ids[:, 1:][wanted]
    hits = int((scores.argmax(dim=-1) == expected).sum())
    return F.cross_entropy(scores, expected, reduction="sum"), hits, len(expected)


def _texts(provenance: dict[str, str]) -> dict[str, str]:
    """What the run learns from; versions of packages may change in between."""
    return {name: value for name, value in provenance.items() if name.startswith(("text ", "max_tokens"))}
