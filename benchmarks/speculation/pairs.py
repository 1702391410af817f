"""The real demo pairs: a target and the draft made for it, on prompts of four kinds, batch 1.

InProcess and PromptLookup have both cores. For Pods the target is pinned to one core and the draft's tritonserver to
the other, each with one thread.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pods
import report
from prompts import PROMPTS
from rich.progress import track
from separate import Costs, break_even, speed_up
from sides import Decoded, Demo, packed, same

from flash_api.names import PACKED_MODEL
from flash_runtime.engine.batch import Batch, Provider
from flash_runtime.engine.draft import InProcessDraft
from flash_runtime.engine.lookup import PromptLookup
from flash_runtime.engine.speculation import Speculation
from flash_runtime.kernels.provider import CpuProvider
from flash_runtime.packed import PackedFile
from flash_runtime.wire import vocabulary_of

QUICK = bool(os.environ.get("QUICK"))
REPEATS = 2 if QUICK else 3
TOKENS = 64 if QUICK else 96
PROMPTS_OF_A_KIND = 3
TARGETS = {"smollm2": "builtin://smollm2-135m-instruct", "flash-tiny": "builtin://flash-tiny"}
DRAFT = "builtin://flash-tiny-draft"
BATCHES = (1, 2, 4, 8, 16)
DEPTHS = (1, 2, 4)
WIDTHS = (1, 2, 3, 4, 5, 7, 9)
OFF = "drafts off"
_DRAFT_CACHE_BYTES = 256 * 1024**2
_STEPS = 25
_CONTEXT = 64


def shared(name: str) -> list[report.Row]:
    """InProcess and PromptLookup with both cores, how often the draft is right, and what its own cores would bring."""
    demo, draft = Demo(uri=TARGETS[name]), _draft(None)
    sides = {"InProcess": demo.speculation(InProcessDraft(draft)), "PromptLookup": demo.speculation(PromptLookup())}
    rows = _kinds(name, demo, sides)
    costs = Costs(
        {width: step_seconds(demo.provider, 1, width) for width in WIDTHS},
        draft=step_seconds(draft, 1, 1),
        round_trip=_round_trip(),
    )
    print(f"{name}: target ms by width {_ms(costs.target)}, draft {costs.draft * 1000:.2f} ms")
    for kind, texts in PROMPTS.items():
        prompts = [demo.prompt(text) for text in texts]
        answers = [demo.decode([one], None, max_tokens=TOKENS).answers[0] for one in prompts]
        held = [hit for one, answer in zip(prompts, answers, strict=True) for hit in _matches(draft, one, answer)]
        match = statistics.mean(held)
        rows.append(_figure(f"{name}, greedy match of its draft, {kind}", "% of tokens", 100 * match, demo))
        rows.append(
            _figure(
                f"{name}, Pods with cores of their own, {kind}, computed from measured costs",
                "x as fast",
                speed_up(match, costs),
                demo,
            )
        )
    return rows


def separate(name: str) -> list[report.Row]:
    """Pods, and Pods with prompt lookup beside them, each side on a core of its own."""
    cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {pods.TARGET_CORE})
    try:
        demo = Demo(threads=1, uri=TARGETS[name])
        tokenizer = vocabulary_of(PackedFile.open(demo.path).text_bytes("tokenizer.json"))
        with (
            _real_pod() as address,
            pods.stream_to(address, tokenizer) as one,
            pods.stream_to(address, tokenizer) as two,
        ):
            sides = {"Pods": demo.speculation(one), "automatic": demo.speculation(two, beside=PromptLookup())}
            return _kinds(name, demo, sides)
    finally:
        os.sched_setaffinity(0, cores)


def break_evens() -> list[report.Row]:
    """From which acceptance proposals pay, by batch size: of a draft that costs nothing, and of the pair's."""
    rows = []
    demo, draft = Demo(), _draft(None)
    round_trip = _round_trip()
    for batch in track(BATCHES, "batch", transient=True):
        plain = step_seconds(demo.provider, batch, 1)
        verifying = {depth: step_seconds(demo.provider, batch, 1 + depth) for depth in DEPTHS}
        guess = step_seconds(draft, batch, 1)
        waits = {"costs nothing": {}, "is the pair's, in a pod": {d: round_trip + d * guess for d in DEPTHS}}
        for name, asking in waits.items():
            found = break_even(plain, verifying, asking)
            case = f"smollm2, break-even acceptance of a draft that {name}, batch {batch}, computed from measured costs"
            # Above all that can be: nothing pays.
            rows.append(_figure(case, "% of tokens", 100.0 if found is None else 100 * found, demo))
    return rows


def _kinds(name: str, demo: Demo, sides: Mapping[str, Speculation]) -> list[report.Row]:
    rows = []
    for kind, texts in track(PROMPTS.items(), name, transient=True):
        prompts = [demo.prompt(text) for text in texts[:PROMPTS_OF_A_KIND]]
        plain_ms: list[float] = []
        drafted_ms: dict[str, list[float]] = {side: [] for side in sides}
        before = {side: (one.proposed_tokens, one.accepted_tokens) for side, one in sides.items()}
        for _ in range(REPEATS):
            plain = [demo.decode([one], None, max_tokens=TOKENS) for one in prompts]
            plain_ms.append(_per_token(plain))
            for side, speculation in sides.items():
                drafted = [demo.decode([one], speculation, max_tokens=TOKENS) for one in prompts]
                for one, other in zip(plain, drafted, strict=True):
                    same(one, other, f"{name}, {side}, {kind}")
                drafted_ms[side].append(_per_token(drafted))
        for side, speculation in sides.items():
            proposed = speculation.proposed_tokens - before[side][0]
            held = speculation.accepted_tokens - before[side][1]
            case = f"{name}, {side}, {kind}, greedy, {proposed} proposed, {held} held"
            ours, peer = [1000 / ms for ms in drafted_ms[side]], [1000 / ms for ms in plain_ms]
            rows.append(report.row(case, "tokens/s", ours, peer, peer_name=OFF, threads=demo.provider.info.threads))
            print(f"{case}: {rows[-1].ratio}x, without: {dict(speculation.fallbacks.most_common(3))}", flush=True)
    return rows


def _draft(threads: int | None) -> CpuProvider:
    return CpuProvider(PackedFile.open(packed(DRAFT)), kv_cache_bytes=_DRAFT_CACHE_BYTES, threads=threads)


@contextlib.contextmanager
def _real_pod() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="flash-bench-") as name:
        (Path(name) / PACKED_MODEL).symlink_to(packed(DRAFT))
        with pods.serving(Path(name), source=DRAFT, threads=1) as address:
            yield address


def step_seconds(provider: Provider, sequences: int, width: int) -> float:
    """The median step of so many sequences with so many new tokens each, after a short context."""
    batch = _batch(provider, sequences, _CONTEXT, 0)
    provider.step(batch)
    taken = []
    for _ in range(_STEPS):
        batch = _batch(provider, sequences, width, _CONTEXT)
        began = time.perf_counter()
        provider.step(batch)
        taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _batch(provider: Provider, sequences: int, width: int, start: int) -> Batch:
    blocks = -(-(start + width) // provider.block_size)
    total = sequences * width
    return Batch(
        token_ids=np.arange(total, dtype=np.int32) % 1000 + 100,  # [T]
        positions=np.tile(np.arange(start, start + width, dtype=np.int32), sequences),  # [T]
        query_starts=np.arange(0, total + 1, width, dtype=np.int32),  # [S + 1]
        # Each sequence keeps the same blocks however much it has.
        block_tables=(np.arange(sequences, dtype=np.int32)[:, None] * 64 + np.arange(blocks, dtype=np.int32)),  # [S, B]
        logit_rows=np.empty(0, dtype=np.int32),
        best_rows=np.arange(total, dtype=np.int32) if start else np.empty(0, dtype=np.int32),
    )


def _matches(draft: Provider, prompt: Sequence[int], answer: Sequence[int]) -> list[bool]:
    """For each token of the answer whether it is the draft's best one after all before it."""
    ids = [*prompt, *answer]
    blocks = -(-len(ids) // draft.block_size)
    best = draft.step(
        Batch(
            token_ids=np.array(ids, dtype=np.int32),  # [T]
            positions=np.arange(len(ids), dtype=np.int32),  # [T]
            query_starts=np.array([0, len(ids)], dtype=np.int32),  # [2]
            block_tables=np.arange(blocks, dtype=np.int32)[None],  # [1, B]
            logit_rows=np.empty(0, dtype=np.int32),
            best_rows=np.arange(len(prompt) - 1, len(ids) - 1, dtype=np.int32),
        )
    ).best.tolist()
    return [guess == token for guess, token in zip(best, answer, strict=True)]


def _round_trip() -> float:
    """As the suite measured it, in seconds. Raises LookupError where it did not yet."""
    for row in report.load("speculation"):
        if row.case == "Pods, round trip of a proposal, p50":
            return row.ours / 1000
    raise LookupError("the round trip is not measured yet: run CASES=pods-curve first")


def _figure(case: str, unit: str, value: float, demo: Demo) -> report.Row:
    return report.row(case, unit, [value], threads=demo.provider.info.threads)


def _per_token(some: Sequence[Decoded]) -> float:
    return sum(one.seconds for one in some) * 1000 / sum(one.num_tokens for one in some)


def _ms(costs: Mapping[int, float]) -> str:
    return ", ".join(f"{width}: {seconds * 1000:.2f}" for width, seconds in costs.items())


CASES: dict[str, Callable[[], list[report.Row]]] = {
    **{f"pair-{name}": lambda name=name: shared(name) for name in TARGETS},  # type: ignore[misc]
    **{f"pair-{name}-pods": lambda name=name: separate(name) for name in TARGETS},  # type: ignore[misc]
    "break-even": break_evens,
}
