"""Cases in which ours and peers continue the same prompts, in turn, on the same weights."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import limits
import report
from bench import Bench
from shape import DEMO, MOE, Shape
from sides import SIDES, Crew
from worker import Worker
from workers.protocol import Generation

Figure = Literal["decode", "prefill", "first"]
UNITS: Final[Mapping[Figure, str]] = {"decode": "tokens/s", "prefill": "tokens/s", "first": "ms"}
SETTLE_SECONDS: Final = 0.3
"""Threads of OpenMP spin for a while after their last work, and would spin against the next side."""


@dataclass(frozen=True)
class GenerationCase:
    """What is asked of every side, and which figure is taken from it."""

    title: str
    ours: str
    peers: tuple[str, ...]
    figure: Figure
    batch: int = 1
    prompt: int = 16
    tokens: int = 64
    quick_tokens: int = 16
    kind: Shape = MOE
    layers: str = "int8"
    head: str = "int8"

    def run(self, bench: Bench, crew: Crew) -> list[report.Row]:
        """One row for each peer that is there, or one without a peer."""
        found = {key: crew.worker(key) for key in (self.ours, *self.peers)}
        workers = {key: worker for key, worker in found.items() if worker is not None}
        if self.ours not in workers:
            return []
        samples, bandwidth = self._measure(bench, crew.threads, workers)
        peers: list[str | None] = [key for key in self.peers if key in workers]
        return [
            bench.row(
                self.title,
                UNITS[self.figure],
                samples[self.ours],
                samples[peer] if peer else None,
                peer_name=SIDES[peer].name if peer else None,
                limit=self.limit(bandwidth, bench.int8_peak(crew.threads)),
                threads=crew.threads,
                bandwidth=bandwidth,
            )
            for peer in peers or [None]
        ]

    def limit(self, bandwidth: float, int8_peak: float | None) -> float | None:
        """The physical bound of our figure, where one is known."""
        match self.figure:
            case "decode":
                return limits.decode_rate(
                    self.kind, layers=self.layers, head=self.head, batch=self.batch, bandwidth=bandwidth
                )
            case "prefill" if int8_peak is not None and self.layers == "int8":
                return limits.prefill_rate(self.kind, peak=int8_peak)
            case _:
                return None

    def value(self, generation: Generation) -> float:
        """The figure of one generation."""
        match self.figure:
            case "decode":
                return generation.rest_tokens / generation.rest_seconds
            case "prefill":
                return self.batch * self.prompt / generation.first_seconds
            case "first":
                return generation.first_seconds * 1e3

    def prompts(self, seed: int) -> list[list[int]]:
        """Random ids, new ones for each repeat, so that no prefix cache helps anybody."""
        rng = random.Random(f"{self.title} {seed}")
        return [[rng.randrange(1000, self.kind.vocab) for _ in range(self.prompt)] for _ in range(self.batch)]

    def _measure(
        self, bench: Bench, threads: int, workers: Mapping[str, Worker]
    ) -> tuple[dict[str, list[float]], float]:
        """Samples of each side, and the median bandwidth right before and after ours."""
        tokens = 1 if self.figure != "decode" else self.quick_tokens if bench.quick else self.tokens
        samples: dict[str, list[float]] = {key: [] for key in workers}
        controls: list[float] = []
        for repeat in bench.track(range(-1, bench.repeats), f"{self.title}, {threads} thread(s)"):
            prompts = self.prompts(repeat)
            for key, worker in workers.items():
                time.sleep(SETTLE_SECONDS)
                before = bench.probe.read_bandwidth(threads)
                figure = self.value(worker.generate(prompts, tokens))
                if repeat < 0:  # the first round warms everybody
                    continue
                samples[key].append(figure)
                if key == self.ours:
                    controls += [before, bench.probe.read_bandwidth(threads)]
        return samples, statistics.median(controls)


def _scaling(batches: Sequence[int]) -> dict[str, GenerationCase]:
    return {
        f"decode-{batch}": GenerationCase(
            f"decode, batch {batch}, W8A8",
            "lite",
            ("llama-q8", "transformers", "vllm") if batch == 1 else ("llama-q8", "vllm"),
            "decode",
            batch=batch,
            tokens=64 if batch == 1 else 24,
            quick_tokens=16 if batch == 1 else 8,
        )
        for batch in batches
    }


_INT4: Final[tuple[tuple[str, str, Figure, int, int, int, int], ...]] = (
    ("decode-1", "decode, batch 1", "decode", 1, 16, 64, 16),
    ("decode-16", "decode, batch 16", "decode", 16, 16, 24, 8),
    ("prefill-512", "prefill 512", "prefill", 1, 512, 1, 1),
)
CASES: Final[Mapping[str, GenerationCase]] = {
    **_scaling((1, 2, 4, 8, 16)),
    "prefill-512": GenerationCase(
        "prefill 512, W8A8", "lite", ("llama-q8", "transformers", "vllm"), "prefill", prompt=512
    ),
    "first-16": GenerationCase("first token, 16-token prompt", "lite", ("llama-q8", "llama-q4", "vllm"), "first"),
    **{
        f"{name}{suffix}": GenerationCase(
            f"{title}, W4A8{note}",
            ours,
            (peer,),
            figure,
            batch=batch,
            prompt=prompt,
            tokens=tokens,
            quick_tokens=quick_tokens,
            layers="int4",
            head=head,
        )
        for suffix, note, ours, head, peer in (
            ("-int4", "", "nano-int4-head", "int4", "llama-q4"),
            ("-int4-int8", ", int8 head", "nano", "int8", "llama-q4-q8-head"),
        )
        for name, title, figure, batch, prompt, tokens, quick_tokens in _INT4
    },
    "decode-1-bf16": GenerationCase(
        "decode, batch 1, bf16", "cloud", ("transformers", "vllm"), "decode", layers="bf16", head="bf16"
    ),
    "prefill-512-bf16": GenerationCase(
        "prefill 512, bf16", "cloud", ("transformers", "vllm"), "prefill", prompt=512, layers="bf16", head="bf16"
    ),
    "server-16": GenerationCase(
        "through tritonserver, batch 16", "served", ("lite",), "decode", batch=16, tokens=128, quick_tokens=48
    ),
    "server-first-16": GenerationCase("first token through tritonserver", "served", ("lite",), "first"),
    "demo-decode-1": GenerationCase(
        "demo model: decode, batch 1, W8A8", "demo-lite", ("demo-llama-q8", "demo-llama-q4-1"), "decode", kind=DEMO
    ),
    "demo-decode-16": GenerationCase(
        "demo model: decode, batch 16, W8A8", "demo-lite", ("demo-llama-q8",), "decode", batch=16, tokens=24, kind=DEMO
    ),
    "demo-prefill-512": GenerationCase(
        "demo model: prefill 512, W8A8", "demo-lite", ("demo-llama-q8",), "prefill", prompt=512, kind=DEMO
    ),
    "demo-decode-1-int4": GenerationCase(
        "demo model: decode, batch 1, W4A8",
        "demo-nano-int4-head",
        ("demo-llama-q4", "demo-llama-q4-1"),
        "decode",
        kind=DEMO,
        layers="int4",
        head="int4",
    ),
}
ONE_THREAD: Final = frozenset(
    {"decode-1", "decode-16", "prefill-512", "first-16", "decode-1-int4", "decode-1-bf16", "demo-decode-1"}
)
"""Cases that run with one thread too."""
NOT_QUICK: Final = frozenset(
    {"isa", "decode-2", "decode-8", "prefill-512-bf16", "demo-decode-16", "demo-decode-1-int4", "server-first-16"}
    | {name for name in CASES if name.endswith("-int4-int8")}
    | {"decode-16-int4", "prefill-512-int4"}
)
"""Cases that a quick run leaves out unless they are asked for."""
