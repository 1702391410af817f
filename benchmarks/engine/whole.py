"""Cases about the engine as a whole: is it the same model, how near to memory, how much Python, start, memory."""

from __future__ import annotations

import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import instruction_sets
import limits
import numpy as np
import overhead
import report
from bench import Bench
from numpy.typing import NDArray
from prepare import DEMO_URI, packed_bytes
from shape import DEMO, EXPERTS, MOE, Shape
from sides import KV_CACHE_BYTES, SIDES, Crew

from flash_api.names import PACKED_MODEL

Case = Callable[[Bench, Crew], list[report.Row]]
EXPERT_FFN: Final = "expert FFN, one token"
PYTHON_STEP: Final = "Python time per step, batch 16"
START: Final = "process start to first token, demo model"
MEMORY: Final = "memory of a full engine"
MEMORY_DEMO: Final = "memory of a full engine, demo model"
TITLES: Final = (EXPERT_FFN, PYTHON_STEP, START, MEMORY, MEMORY_DEMO, *instruction_sets.TITLES)
_SAME_MODEL: Final = 0.8
"""Correlation of logits below which two engines do not run the same weights; int4 against int8 has about 0.93."""
_ROOM_BYTES: Final = 150 * 1024**2
_PAIRS: Final = (
    ("lite", "transformers"),
    ("lite", "llama-q8"),
    ("nano", "transformers"),
    ("nano-int4-head", "llama-q4"),
    ("cloud", "transformers"),
    ("llama-q8", "transformers"),
)


class NotTheSameModel(Exception):
    """Two sides answer differently: nothing that is measured between them would mean anything."""


def agreement(bench: Bench, crew: Crew) -> list[report.Row]:
    """Correlation of the logits of ours and of peers after the same random prompts."""
    rng = random.Random(0)
    prompts = [[rng.randrange(1000, MOE.vocab) for _ in range(24)] for _ in range(4 if bench.quick else 16)]
    with tempfile.TemporaryDirectory() as folder:
        logits: dict[str, NDArray[np.float32]] = {}
        for key in dict.fromkeys(key for pair in _PAIRS for key in pair):
            if worker := crew.worker(key):
                path = Path(folder) / f"{key}.npy"
                worker.ask("logits", prompts=prompts, file=str(path))
                logits[key] = np.load(path)  # [P, V]
    rows = []
    for one, other in _PAIRS:
        if one not in logits or other not in logits:
            continue
        pairs = zip(logits[one], logits[other], strict=True)
        correlations = [float(np.corrcoef(a, b)[0, 1]) for a, b in pairs]
        if statistics.median(correlations) < _SAME_MODEL:
            raise NotTheSameModel(f"logits of {one} and {other} correlate by {statistics.median(correlations):.3f}")
        name = "Lite" if one == "lite" else SIDES[one].name
        rows.append(
            bench.row(
                f"same weights: logits of {name} against {SIDES[other].name}",
                "correlation",
                correlations,
                threads=crew.threads,
            )
        )
    return rows


def expert_ffn(bench: Bench, crew: Crew) -> list[report.Row]:
    """A model of hardly anything but experts, one token a step: bytes of the chosen ones by time of the whole step."""
    worker = crew.worker("experts")
    if worker is None:
        return []
    nbytes = EXPERTS.expert_weights * EXPERTS.top_k * limits.BYTES_PER_WEIGHT["int8"]
    rates, controls = [], []
    for repeat in bench.track(range(-1, bench.repeats), f"expert FFN, {crew.threads} thread(s)"):
        before = bench.probe.read_bandwidth(crew.threads)
        answer = worker.ask("steps", arguments={"count": 200, "seed": repeat + 1})
        if repeat >= 0:
            rates.append(nbytes / answer["seconds"] / 1e9)
            controls += [before, bench.probe.read_bandwidth(crew.threads)]
    bandwidth = statistics.median(controls)
    return [
        bench.row(
            EXPERT_FFN,
            "GB/s",
            rates,
            limit=bandwidth / 1e9,
            threads=crew.threads,
            bandwidth=bandwidth,
        )
    ]


def python_step(bench: Bench, crew: Crew) -> list[report.Row]:
    """Everything of a step that is not the provider."""
    values = [overhead.measure() * 1e3 for _ in bench.track(range(bench.repeats), "Python time per step")]
    return [bench.row(PYTHON_STEP, "ms", values, threads=crew.threads)]


def start(bench: Bench, crew: Crew) -> list[report.Row]:
    """A fresh process to its first token; the packed file is in the page cache after the first round."""
    folder = crew.artefacts.packed(DEMO_URI, "Lite")
    program = Path(__file__).resolve().parent / "workers" / "first_token.py"
    command = [sys.executable, str(program), str(folder), str(crew.threads)]
    seconds = []
    for repeat in bench.track(range(-1, bench.repeats), "process start to first token"):
        begin = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            line = process.stdout.readline()
            elapsed = time.perf_counter() - begin
        if not line:
            raise RuntimeError(f"{program.name} ended without a token")
        if repeat >= 0:
            seconds.append(elapsed)
    return [bench.row(START, "s", seconds, threads=crew.threads)]


def memory(bench: Bench, crew: Crew) -> list[report.Row]:
    """Resident memory after requests that filled the whole KV cache, against file + cache + 150 MB."""
    rows: list[report.Row] = []
    for key, kind, title in (
        ("lite", MOE, MEMORY),
        ("demo-lite", DEMO, MEMORY_DEMO),
    ):
        crew.dismiss(key)  # a fresh process: what others did to this one must not count
        worker = crew.worker(key)
        if worker is None:
            continue
        rng = random.Random(1)
        rounds = -(-KV_CACHE_BYTES // _kv_bytes(kind, tokens=16 * 500)) + 1
        for _ in bench.track(range(rounds), f"filling the KV cache ({key})"):
            worker.generate([[rng.randrange(1000, kind.vocab) for _ in range(500)] for _ in range(16)], 2)
        bound = packed_bytes(_packed(crew, key)) + KV_CACHE_BYTES + _ROOM_BYTES
        held = worker.ask("memory")["rss_bytes"]
        rows.append(bench.row(title, "MB", [held / 1e6], limit=bound / 1e6, threads=crew.threads))
    return rows


def isa(bench: Bench, crew: Crew) -> list[report.Row]:
    """Every instruction set beside the fastest one."""
    file = _packed(crew, "lite") / PACKED_MODEL
    rounds = bench.track(range(min(bench.repeats, 5)), f"instruction sets, {crew.threads} thread(s)")
    samples = instruction_sets.measure(file, threads=crew.threads, repeats=rounds)
    fastest = next(iter(samples))[1]
    return [
        bench.row(
            instruction_sets.title(step, isa),
            "tokens/s",
            rates,
            None if isa == fastest else samples[step, fastest],
            peer_name=None if isa == fastest else fastest,
            threads=crew.threads,
        )
        for (step, isa), rates in samples.items()
    ]


def _kv_bytes(kind: Shape, tokens: int) -> int:
    return tokens * kind.layers * kind.kv_heads * kind.head_dim * 2 * 2  # key and value, two bytes each


def _packed(crew: Crew, key: str) -> Path:
    options: Mapping[str, Any] = SIDES[key].command(crew.artefacts)[2]
    return Path(options["model_dir"])


CASES: Final[Mapping[str, Case]] = {
    "agreement": agreement,
    "expert-ffn": expert_ffn,
    "python-step": python_step,
    "start": start,
    "memory": memory,
    "isa": isa,
}
ONE_THREAD: Final = frozenset({"expert-ffn"})
