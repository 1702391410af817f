"""What every worker speaks: one JSON object a line on stdin, one answer a line on stdout. Needs Python alone.

A worker is a program that holds one engine: `WORKER.py '{"threads": 2, …}'`. Requests are {op, …}: `generate` runs
prompts of token ids together and greedily, `logits` writes the logits after each prompt to a file, `memory` says what
the process holds. An answer is the result, or {"error": …}.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable


@dataclass(frozen=True)
class Generation:
    """How one generation went. All clocks start before the engine hears of the prompts."""

    first_seconds: float
    """Until every sequence had its first token."""
    rest_seconds: float
    """From then until the last token of all."""
    rest_tokens: int
    """Tokens of all sequences in that time."""


class Engine(Protocol):
    """One loaded model."""

    def generate(self, prompts: list[list[int]], tokens: int) -> Generation:
        """Continue the prompts together by so many tokens each, never stopping early."""


@runtime_checkable
class ScoringEngine(Engine, Protocol):
    """One that also shows what it chooses from; servers do not."""

    def logits(self, prompts: list[list[int]]) -> Any:
        """Logits after each prompt, a float32 array [P, V]."""


def main(make: Callable[[dict[str, Any]], Engine]) -> None:
    """Run a worker until stdin ends."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what libraries print goes to the log
    try:
        engine = make(json.loads(sys.argv[1]))
        answers.write(json.dumps({"ready": True}) + "\n")
        for line in sys.stdin:
            answers.write(json.dumps(_answer(engine, json.loads(line))) + "\n")
    except Exception as error:  # the outermost loop of this program: the bench decides what a dead peer means
        traceback.print_exc()
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}) + "\n")
        sys.exit(1)


def _answer(engine: Engine, request: dict[str, Any]) -> dict[str, Any]:
    match request["op"]:
        case "generate":
            return asdict(engine.generate(request["prompts"], request["tokens"]))
        case "logits" if isinstance(engine, ScoringEngine):
            import numpy as np

            np.save(request["file"], np.asarray(engine.logits(request["prompts"]), dtype=np.float32))
            return {}
        case "memory":
            return {"rss_bytes": rss_bytes()}
        case other:
            return dict(getattr(engine, other)(**request.get("arguments", {})))


def rss_bytes() -> int:
    """What of this process lies in memory, mapped files included."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")
