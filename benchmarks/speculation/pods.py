"""Proposals over a real gRPC stream: a draft in a tritonserver of its own.

The target is pinned to one core and the draft to another.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import report
from prompts import PROMPTS
from rich.progress import track
from sides import Decoded, Demo, same

from flash_api.config.draft import DraftConfig
from flash_runtime.backend.draft_link import DraftLink
from flash_runtime.draft_wire import PROTOCOL, Hello
from flash_runtime.engine.lookup import PromptLookup
from flash_runtime.engine.proposals import Ask, ProposerError
from flash_runtime.engine.remote import RemoteDraft
from flash_runtime.engine.speculation import Speculation

QUICK = bool(os.environ.get("QUICK"))
REPEATS = 2 if QUICK else 3
TOKENS = 64 if QUICK else 96
ACCEPTANCES = (0.3, 0.45, 0.65, 0.8, 0.9)
BATCHES = (1, 2, 4, 8, 16)
DRAFT_SHARE = 0.1
"""Of the target's step for one token, what a step of the synthetic draft takes: that of a model a tenth as big."""
ROUND_TRIPS = 300 if QUICK else 1000
TARGET_CORE, DRAFT_CORE = 0, 1
OFF = "drafts off"
_START_SECONDS = 60.0

_MODEL = """
import sys
from pathlib import Path

sys.path.append({here!r})
from synthetic import Synthetic
from flash_runtime.backend import draft_model
from flash_runtime.backend.load import Loaded


class TritonPythonModel(draft_model.TritonPythonModel):
    def load(self, config):
        return Loaded(Synthetic(Path({orders!r}), {vocab_size}), (), vocabulary="demo")
"""
_LAUNCHER = """
import sys
from pathlib import Path
from flash_api.config.draft import DraftConfig
from flash_runtime.backend import serve
from flash_runtime.backend.command import Listen
from flash_runtime.backend.repository import FILE_DRAFT, draft_repository
from flash_runtime.tritonserver import fetch

config = DraftConfig.model_validate_json(Path(sys.argv[1]).read_text())
repository = draft_repository(config)
if model := Path(sys.argv[2]).read_text():
    repository = repository | {FILE_DRAFT: model}
sys.exit(serve.serve(config, Listen("127.0.0.1", *map(int, sys.argv[3:])), repository, fetch()).status)
"""


class Pod:
    """A running synthetic draft."""

    def __init__(self, orders: Path, address: str) -> None:
        self._orders = orders
        self.address = address

    def order(self, sequences: Sequence[list[int]], acceptance: float, seconds: float) -> None:
        """From the next sequence on: these answers, right so often, a step in so long."""
        content = {"sequences": list(sequences), "acceptance": acceptance, "seconds": seconds}
        new = self._orders.with_suffix(".new")
        new.write_text(json.dumps(content))
        new.rename(self._orders)

    def proposer(self) -> contextlib.AbstractContextManager[RemoteDraft]:
        """A stream to it."""
        return stream_to(self.address, "demo")


@contextlib.contextmanager
def stream_to(address: str, tokenizer: str) -> Iterator[RemoteDraft]:
    """The draft at this address as the proposer."""
    link = DraftLink(
        [address],
        Hello(protocol=PROTOCOL, tokenizer=tokenizer, revision="1"),
        clock=time.monotonic,
        draw=random.Random(0),
        resolve=lambda endpoint: [endpoint],
    )
    link.start()
    deadline = time.monotonic() + _START_SECONDS
    while not link.epoch:
        if time.monotonic() > deadline:
            raise TimeoutError(f"no draft answered at {address}")
        time.sleep(0.01)
    try:
        yield RemoteDraft(link, clock=time.perf_counter)
    finally:
        link.close()


@contextlib.contextmanager
def pod(vocab_size: int) -> Iterator[Pod]:
    """Start a synthetic draft on its core, and end it."""
    with tempfile.TemporaryDirectory(prefix="flash-bench-") as name:
        folder = Path(name)
        orders = folder / "orders.json"
        started = Pod(orders, "")
        started.order([], 0.0, 0.0)
        here = str(Path(__file__).parent)
        model = _MODEL.format(here=here, orders=str(orders), vocab_size=vocab_size)
        with serving(folder, source="synthetic", model=model) as address:
            started.address = address
            yield started


@contextlib.contextmanager
def serving(folder: Path, *, source: str, model: str = "", threads: int | None = None) -> Iterator[str]:
    """A draft's tritonserver on the draft's core: its address. `model`: instead of the packed one in the folder."""
    config = DraftConfig(
        served_model_name="demo", source=source, model_dir=str(folder), rollout_revision="1", threads=threads
    )
    (folder / "draft.json").write_text(config.model_dump_json())
    (folder / "model.py").write_text(model)
    ports = _free_ports(3)
    files = [str(folder / "draft.json"), str(folder / "model.py")]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", _LAUNCHER, *files, *map(str, ports)],
            stdout=log,
            stderr=log,
            start_new_session=True,
            preexec_fn=lambda: os.sched_setaffinity(0, {DRAFT_CORE}),  # noqa: PLW1509
        )
    try:
        _wait(process, f"http://127.0.0.1:{ports[0]}/v2/models/draft/ready", folder / "log")
        yield f"127.0.0.1:{ports[1]}"
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def measure(wanted: Collection[str]) -> Iterator[list[report.Row]]:
    """Rows of these cases, case by case; keeps this process on the target's core. Answers must be token-identical."""
    os.sched_setaffinity(0, {TARGET_CORE})
    demo = Demo(threads=1)
    with pod(demo.provider.vocab_size) as draft:
        step = plain_step(demo)
        print(f"a step of one token takes the target {step * 1000:.2f} ms, the draft {step * 100:.2f} ms by order")
        for name, case in CASES.items():
            if name in wanted:
                yield case(demo, draft, step)


def plain_step(demo: Demo) -> float:
    """Seconds of a decode step at batch 1."""
    prompt = demo.prompt(PROMPTS["chat"][0])
    runs = [demo.decode([prompt], None, max_tokens=48, ignore_eos=True) for _ in range(3)]
    return statistics.median(run.milliseconds_per_token for run in runs) / 1000


def round_trips(demo: Demo, draft: Pod) -> list[report.Row]:
    """From asking to having one token of a draft whose step costs nothing: the way there and back, and both Pythons."""
    sequence = demo.prompt(PROMPTS["chat"][0])
    draft.order([], 0.0, 0.0)
    taken = []
    with draft.proposer() as proposer:
        while len(taken) < ROUND_TRIPS:
            began = time.perf_counter()
            try:
                # Never what the draft guessed, so that nothing it guessed ahead is of use.
                sequence.append(1 + len(taken) % 7)
                proposer.propose([Ask(0, sequence, 1)], 1.0)
            except ProposerError:
                continue
            taken.append((time.perf_counter() - began) * 1000)
    taken.sort()
    return [
        report.row(f"Pods, round trip of a proposal, {name}", "ms", [taken[int(share * len(taken))]], threads=1)
        for name, share in (("p50", 0.5), ("p99", 0.99))
    ]


def curve(demo: Demo, draft: Pod, step: float) -> list[report.Row]:
    """Batch 1, by how often the draft's tokens hold."""
    prompt = demo.prompt(PROMPTS["chat"][1])
    return round_trips(demo, draft) + [
        _row(demo, draft, [prompt], acceptance, step, f"Pods, set acceptance {acceptance}, batch 1")
        for acceptance in track(ACCEPTANCES, "acceptance", transient=True)
    ]


def batches(demo: Demo, draft: Pod, step: float) -> list[report.Row]:
    """Acceptance 0.65, by how many sequences share the steps."""
    texts = [text for some in zip(*PROMPTS.values(), strict=True) for text in some]
    prompts = [demo.prompt(text) for text in texts]
    return [
        _row(demo, draft, prompts[:batch], 0.65, step, f"Pods, set acceptance 0.65, batch {batch}")
        for batch in track(BATCHES[1:], "batch", transient=True)
    ]


def kinds(demo: Demo, draft: Pod, step: float) -> list[report.Row]:
    """Four kinds of prompts: a draft that is right in 0.45 of cases, alone and with prompt lookup beside it."""
    rows = []
    for kind, texts in track(PROMPTS.items(), "kinds", transient=True):
        prompts = [demo.prompt(text) for text in (texts[:3] if QUICK else texts)]
        plain = [demo.decode([one], None, max_tokens=TOKENS) for one in prompts]
        known = [ids + run.answers[0] for ids, run in zip(prompts, plain, strict=True)]
        draft.order(known, 0.45, step * DRAFT_SHARE)
        with draft.proposer() as proposer:
            for name, beside in (("Pods", None), ("automatic (Pods and PromptLookup)", PromptLookup())):
                speculation = demo.speculation(proposer, beside=beside)
                plain_ms, drafted_ms = [], []
                for _ in range(REPEATS):
                    before = [demo.decode([one], None, max_tokens=TOKENS) for one in prompts]
                    after = [demo.decode([one], speculation, max_tokens=TOKENS) for one in prompts]
                    for one, other in zip(before, after, strict=True):
                        same(one, other, kind)
                    plain_ms.append(_per_token(before))
                    drafted_ms.append(_per_token(after))
                case = f"{name}, {kind}, greedy, set acceptance 0.45"
                rows.append(_compared(case, plain_ms, drafted_ms, demo))
    return rows


CASES = {"pods-curve": curve, "pods-batches": batches, "pods-kinds": kinds}


def _row(demo: Demo, draft: Pod, prompts: list[list[int]], acceptance: float, step: float, case: str) -> report.Row:
    plain = demo.decode(prompts, None, max_tokens=TOKENS, ignore_eos=True)
    known = [ids + answer for ids, answer in zip(prompts, plain.answers, strict=True)]
    draft.order(known, acceptance, step * DRAFT_SHARE)
    plain_ms, drafted_ms = [], []
    with draft.proposer() as proposer:
        speculation = demo.speculation(proposer)
        demo.decode(prompts, speculation, max_tokens=TOKENS, ignore_eos=True)  # measures its costs
        for _ in range(REPEATS):
            plain = demo.decode(prompts, None, max_tokens=TOKENS, ignore_eos=True)
            drafted = demo.decode(prompts, speculation, max_tokens=TOKENS, ignore_eos=True)
            same(plain, drafted, case)
            plain_ms.append(plain.milliseconds_per_token)
            drafted_ms.append(drafted.milliseconds_per_token)
    _print_notes(case, speculation)
    return _compared(case, plain_ms, drafted_ms, demo)


def _print_notes(case: str, speculation: Speculation) -> None:
    proposed, accepted = speculation.proposed_tokens, speculation.accepted_tokens
    stats = speculation.stats()
    reasons = ", ".join(f"{count} {reason}" for reason, count in speculation.fallbacks.most_common(3))
    print(f"{case}: {accepted}/{proposed} held, by measured costs {stats.speed_up}x; without: {reasons or 'none'}")


def _compared(case: str, plain_ms: Sequence[float], drafted_ms: Sequence[float], demo: Demo) -> report.Row:
    ours, peer = [1000 / value for value in drafted_ms], [1000 / value for value in plain_ms]
    return report.row(case, "tokens/s", ours, peer, peer_name=OFF, threads=demo.provider.info.threads)


def _per_token(some: Sequence[Decoded]) -> float:
    return sum(one.seconds for one in some) * 1000 / sum(one.num_tokens for one in some)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


def _wait(process: subprocess.Popen[bytes], url: str, log: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while True:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"the draft did not start:\n{log.read_text()}")
        with contextlib.suppress(OSError), urllib.request.urlopen(url, timeout=5):
            return
        time.sleep(0.1)
