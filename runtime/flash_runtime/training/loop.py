"""One stage's steps: loss, gradient, AdamW, a checkpoint now and then. Needs torch.

A batch depends on the seed and the number of its step alone, and a checkpoint holds all that changes, so a stage that
was interrupted goes on as if it had not been. A checkpoint that is damaged or of another run is refused. Knows no
models and no data.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, Final

import torch
from torch import Tensor, nn

from flash_runtime.model.errors import CheckpointError, RequestError
from flash_runtime.training.schedule import rate

_CHECKPOINT: Final = "checkpoint.pt"
_LOG: Final = "log.jsonl"
_CLIP: Final = 1.0


@dataclass(frozen=True)
class Pace:
    """How long and how fast."""

    steps: int
    learning_rate: float
    checkpoint_seconds: float = 180.0
    weight_decay: float = 0.01


LossOf = Callable[[int], tuple[Tensor, dict[str, float], int]]
"""The loss of a step, figures to log, and how many tokens it saw."""
Tell = Callable[[Mapping[str, Any]], None]
MadeFor = Mapping[str, str]
"""What a run is about, by name: teacher, data, layout. One with other values does not go on from its checkpoint."""


def train(
    trained: nn.Module,
    loss_of: LossOf,
    pace: Pace,
    folder: Path,
    *,
    tell: Tell,
    clock: Callable[[], float] = time.monotonic,
    made_for: MadeFor | None = None,
    stop_at: int | None = None,
) -> int:
    """Take the steps that are left; returns how many tokens all steps saw. `stop_at` ends early, as if interrupted.

    Raises CheckpointError for a checkpoint in the folder that is damaged or belongs to another run, RequestError for a
    loss that is no number any more.
    """
    made_for = dict(made_for or {})
    folder.mkdir(parents=True, exist_ok=True)
    parameters = [parameter for parameter in trained.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=pace.learning_rate, betas=(0.9, 0.95), weight_decay=pace.weight_decay, fused=True
    )
    first, tokens = _resume(folder, trained, optimizer, made_for)
    saved = clock()
    for step in range(first, pace.steps):
        if step == stop_at:
            break
        started = clock()
        factor = rate(step, pace.steps)
        for group in optimizer.param_groups:
            group["lr"] = pace.learning_rate * factor
        loss, figures, seen = loss_of(step)
        if not torch.isfinite(loss):
            raise RequestError(f"step {step}: the loss is {loss.item()}; lower the learning rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(parameters, _CLIP)
        optimizer.step()
        tokens += seen
        seconds = clock() - started
        entry = {"step": step, "tokens": tokens, "loss": loss.item(), "norm": norm.item(), **figures}
        entry |= {"rate": factor, "tokens_per_second": round(seen / max(seconds, 1e-9), 1)}
        with (folder / _LOG).open("a") as log:
            log.write(json.dumps(entry) + "\n")
        tell(entry)
        if clock() - saved > pace.checkpoint_seconds:
            save(folder, trained, optimizer, step + 1, tokens, made_for)
            saved = clock()
    else:
        stop_at = pace.steps
    if stop_at is not None and first < stop_at:
        save(folder, trained, optimizer, stop_at, tokens, made_for)
    return tokens


def save(
    folder: Path, trained: nn.Module, optimizer: torch.optim.Optimizer, step: int, tokens: int, made_for: MadeFor
) -> None:
    """Write the checkpoint; the old one stays until the new one is whole."""
    temporary = folder / f".{_CHECKPOINT}"
    state = {"trained": trained.state_dict(), "optimizer": optimizer.state_dict(), "step": step, "tokens": tokens}
    torch.save({**state, "made_for": dict(made_for)}, temporary)
    temporary.replace(folder / _CHECKPOINT)


def _resume(folder: Path, trained: nn.Module, optimizer: torch.optim.Optimizer, made_for: MadeFor) -> tuple[int, int]:
    path = folder / _CHECKPOINT
    if not path.is_file():
        (folder / _LOG).unlink(missing_ok=True)
        return 0, 0
    again = f"delete {folder} to begin this stage anew"
    try:
        state = torch.load(path, weights_only=True)
        found = state["made_for"]
    except (OSError, RuntimeError, KeyError, TypeError, EOFError, UnpicklingError) as error:
        raise CheckpointError(f"{path}: not a readable checkpoint of this stage ({error!r:.120}); {again}") from error
    if changed := sorted(name for name in {*found, *made_for} if found.get(name) != made_for.get(name)):
        raise CheckpointError(
            f"{path}: belongs to another run: {changed[0]} was {found.get(changed[0], 'not set')}, "
            f"now it is {made_for.get(changed[0], 'not set')}; {again}, or name another output"
        )
    try:
        trained.load_state_dict(state["trained"])
        optimizer.load_state_dict(state["optimizer"])
        return int(state["step"]), int(state["tokens"])
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path}: holds other weights than this stage trains ({error!r:.200}); {again}"
        ) from error
