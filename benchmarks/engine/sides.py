"""Who can be measured: our engine in its variants and forms, and the peers, each on the weights that compare."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import shape
import targets
from prepare import DEMO_URI, Artefacts, Unavailable
from rich.console import Console
from worker import Worker, WorkerFailed

KV_CACHE_BYTES: Final = 256 * 1024**2
MAX_RUNNING: Final = 16
_HERE: Final = Path(sys.executable)
Command = tuple[Path, str, dict[str, Any]]
"""Python, program, options."""


@dataclass(frozen=True)
class Side:
    """One engine on one form of the weights."""

    name: str
    command: Callable[[Artefacts], Command]
    """Makes what it needs, if need be. Raises Unavailable."""
    family: str = "ours"
    """What `PEERS=` selects: ours, llama, transformers or vllm."""


def _ours(
    variant: str, kind: shape.Shape | None = shape.MOE, *, head: str | None = None, program: str = "ours.py"
) -> Callable[[Artefacts], Command]:
    def command(artefacts: Artefacts) -> Command:
        folder = artefacts.packed_moe(kind, variant, head) if kind else artefacts.packed(DEMO_URI, variant, head)
        return _HERE, program, {**_limits(), "model_dir": str(folder)}

    return command


def _limits() -> dict[str, int]:
    return {"kv_cache_bytes": KV_CACHE_BYTES, "max_running": MAX_RUNNING}


def _llama(weights: Callable[[Artefacts], Path]) -> Callable[[Artefacts], Command]:
    return lambda artefacts: (_HERE, "llamacpp.py", {"model": str(weights(artefacts))})


def _transformers(artefacts: Artefacts) -> Command:
    return artefacts.torch_python, "hf.py", {"model": str(artefacts.checkpoint(shape.MOE))}


def _vllm(artefacts: Artefacts) -> Command:
    return artefacts.vllm_python, "vllm_cpu.py", {"model": str(artefacts.checkpoint(shape.MOE))}


SIDES: Final[Mapping[str, Side]] = {
    "lite": Side(targets.ENGINE_ALONE, _ours("Lite")),
    "nano": Side("Nano", _ours("Nano")),
    "nano-int4-head": Side("Nano, int4 head", _ours("Nano", head="int4")),
    "cloud": Side("Cloud", _ours("Cloud")),
    "served": Side("through tritonserver", _ours("Lite", program="served.py")),
    "experts": Side("experts alone", _ours("Lite", shape.EXPERTS)),
    "demo-lite": Side("Lite", _ours("Lite", None)),
    "demo-nano": Side("Nano", _ours("Nano", None)),
    "demo-nano-int4-head": Side("Nano, int4 head", _ours("Nano", None, head="int4")),
    "llama-q8": Side(targets.LLAMA_Q8, _llama(lambda a: a.gguf(shape.MOE, "Q8_0")), "llama"),
    "llama-q4": Side(targets.LLAMA_Q4, _llama(lambda a: a.gguf(shape.MOE, "Q4_0")), "llama"),
    "llama-q4-q8-head": Side(
        "llama.cpp Q4_0, Q8_0 head", _llama(lambda a: a.gguf(shape.MOE, "Q4_0", head="Q8_0")), "llama"
    ),
    "demo-llama-q8": Side(targets.LLAMA_Q8, _llama(lambda a: a.demo_requantised("Q8_0")), "llama"),
    "demo-llama-q4": Side(targets.LLAMA_Q4, _llama(lambda a: a.demo_requantised("Q4_0")), "llama"),
    "demo-llama-q4-1": Side("llama.cpp Q4_1", _llama(lambda a: a.demo_gguf), "llama"),
    "transformers": Side(targets.TRANSFORMERS, _transformers, "transformers"),
    "vllm": Side("vLLM bf16", _vllm, "vllm"),
}
FAMILIES: Final = tuple(dict.fromkeys(side.family for side in SIDES.values() if side.family != "ours"))


class Crew:
    """The workers of one thread count, started when first asked for."""

    def __init__(
        self, artefacts: Artefacts, threads: int, families: frozenset[str], console: Console, logs: Path
    ) -> None:
        self.artefacts = artefacts
        self.threads = threads
        self._families = families
        self._console = console
        self._logs = logs
        self._workers: dict[str, Worker | None] = {}

    def worker(self, key: str) -> Worker | None:
        """The running worker; None where it is not asked for or cannot run here, which is said once."""
        if key not in self._workers:
            self._workers[key] = self._start(key)
        return self._workers[key]

    def dismiss(self, key: str) -> None:
        """End one worker; the next question starts a fresh one."""
        worker = self._workers.pop(key, None)
        if worker is not None:
            worker.close()

    def close(self) -> None:
        """End all of them."""
        for key in tuple(self._workers):
            self.dismiss(key)

    def _start(self, key: str) -> Worker | None:
        side = SIDES[key]
        if side.family != "ours" and side.family not in self._families:
            return None
        try:
            python, program, options = side.command(self.artefacts)
            self._console.print(f"starting {key} with {self.threads} thread(s)", style="dim")
            log = self._logs / f"{key}-{self.threads}.log"
            return Worker(python, program, {**options, "threads": self.threads}, log=log)
        except (Unavailable, WorkerFailed) as reason:
            self._console.print(f"left out: {key}: {reason}", style="yellow", markup=False)
            return None
