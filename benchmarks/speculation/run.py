"""What proposals are worth: the demo model with them beside itself without, in turn, in the same run, on the same text.

Answers must be token-identical, or the run fails. The demo model is dense; of a sparse one, a step that verifies more
tokens also reads more experts.
"""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
import pairs
import plot
import pods
import report
from prompts import PROMPTS
from rich.progress import track
from sides import Decoded, Demo, SetAcceptance, same

from flash_runtime.engine.lookup import PromptLookup
from flash_runtime.engine.speculation import Speculation

QUICK = bool(os.environ.get("QUICK"))
REPEATS = 3 if QUICK else 5
ANSWER_TOKENS = 96 if QUICK else 160
ACCEPTANCES = (0.3, 0.5, 0.65, 0.8, 0.9)
BATCHES = (1, 4, 16)
CASES = ("kinds", *(f"curve-{batch}" for batch in BATCHES), *pairs.CASES, *pods.CASES)
LOOKAHEADS: dict[str, int | None] = {"automatic": None, "2 tokens": 2, "4 tokens": 4, "8 tokens": 8}
CURVE_TOKENS = 64
CURVE_REPEATS = 1 if QUICK else 3
OFF = "drafts off"
CURVE = re.compile(r"set acceptance (?P<acceptance>[0-9.]+), lookahead (?P<lookahead>.+), (?P<batch>batch \d+)")
PODS_CURVE = re.compile(r"Pods, set acceptance (?P<acceptance>[0-9.]+), (?P<batch>batch 1)")
PICTURE = Path(__file__).resolve().parents[2] / "docs" / "speculation.svg"


def kinds(demo: Demo) -> list[report.Row]:
    """Wall-clock per token at batch 1 on prompts of four kinds, greedy and sampled."""
    rows = []
    for temperature, how in ((0.0, "greedy"), (0.7, "temperature 0.7")):
        speculation = demo.speculation(PromptLookup())
        for kind, texts in PROMPTS.items():
            prompts = [demo.prompt(text) for text in texts]
            plain_ms: list[float] = []
            drafted_ms: list[float] = []
            for _ in track(range(REPEATS), f"{kind}, {how}", transient=True):
                plain = [demo.decode([one], None, max_tokens=ANSWER_TOKENS, temperature=temperature) for one in prompts]
                before = speculation.proposed_tokens, speculation.accepted_tokens
                drafted = [
                    demo.decode([one], speculation, max_tokens=ANSWER_TOKENS, temperature=temperature)
                    for one in prompts
                ]
                for one, other in zip(plain, drafted, strict=True):
                    same(one, other, kind)
                plain_ms.append(per_token(plain))
                drafted_ms.append(per_token(drafted))
            proposed, accepted = (
                speculation.proposed_tokens - before[0],
                speculation.accepted_tokens - before[1],
            )
            case = f"PromptLookup, {kind}, {how}, {proposed} proposed, {accepted} held"
            rows.append(row(case, plain_ms, drafted_ms, demo))
        print_costs(speculation)
    return rows


def curve(demo: Demo, batch: int) -> list[report.Row]:
    """Speed-up of a draft that costs nothing, by how often its tokens hold and how many it proposes."""
    rows = []
    texts = [text for some in zip(*PROMPTS.values(), strict=True) for text in some]
    prompts = [demo.prompt(text) for text in texts[:batch]]
    known: list[list[int]] = []
    trials = [(name, lookahead, at) for name, lookahead in LOOKAHEADS.items() for at in ACCEPTANCES]
    for name, lookahead, acceptance in track(trials, f"batch {batch}", transient=True):
        speculation: Speculation | None = None
        plain_ms, drafted_ms = [], []
        for _ in range(CURVE_REPEATS):
            plain = demo.decode(prompts, None, max_tokens=CURVE_TOKENS, ignore_eos=True)
            known = known or [ids + more for ids, more in zip(prompts, plain.answers, strict=True)]
            if speculation is None:
                speculation = demo.speculation(SetAcceptance(known, acceptance), lookahead)
                demo.decode(prompts, speculation, max_tokens=CURVE_TOKENS, ignore_eos=True)  # measures its costs
            drafted = demo.decode(prompts, speculation, max_tokens=CURVE_TOKENS, ignore_eos=True)
            same(plain, drafted, f"batch {batch}, acceptance {acceptance}")
            plain_ms.append(plain.milliseconds_per_token)
            drafted_ms.append(drafted.milliseconds_per_token)
        case = f"set acceptance {acceptance}, lookahead {name}, batch {batch}"
        rows.append(row(case, plain_ms, drafted_ms, demo))
    return rows


def draw(rows: list[report.Row]) -> None:
    """The curves of all rows as a picture for the page on benchmarks."""
    panels: dict[str, dict[str, dict[float, float]]] = {}
    for found in rows:
        if (match := CURVE.fullmatch(found.case)) and found.ratio:
            points = panels.setdefault(match["batch"], {}).setdefault(match["lookahead"], {})
            points[float(match["acceptance"])] = found.ratio
        if (match := PODS_CURVE.fullmatch(found.case)) and found.ratio:
            points = panels.setdefault(f"draft pod, {match['batch']}", {}).setdefault("automatic", {})
            points[float(match["acceptance"])] = found.ratio
    if panels:
        PICTURE.write_text(
            plot.svg(
                "Speed-up against acceptance, demo model: a draft that costs nothing, and one over a gRPC stream",
                panels,
            )
        )


def per_token(some: list[Decoded]) -> float:
    """Milliseconds per token over several answers one after the other."""
    return sum(one.seconds for one in some) * 1000 / sum(one.num_tokens for one in some)


def row(case: str, plain_ms: list[float], drafted_ms: list[float], demo: Demo) -> report.Row:
    """Tokens per second of one request, with proposals beside without."""
    return report.row(
        case,
        "tokens/s",
        [1000 / value for value in drafted_ms],
        [1000 / value for value in plain_ms],
        peer_name=OFF,
        threads=demo.provider.info.threads,
    )


def print_costs(speculation: Speculation) -> None:
    """What a step of each width took, as the engine saw it."""
    costs = speculation.costs.table()
    print("ms per step by width:", ", ".join(f"{width}: {seconds * 1000:.2f}" for width, seconds in costs.items()))


def main() -> None:
    wanted = os.environ.get("CASES", ",".join(CASES)).split(",")
    if unknown := set(wanted) - set(CASES):
        sys.exit(f"CASES ({', '.join(sorted(unknown))}): known are {', '.join(CASES)}")
    if not set(wanted) <= {*pairs.CASES, *pods.CASES}:
        demo = Demo()
        if "kinds" in wanted:
            keep(kinds(demo))
        for batch in BATCHES:
            if f"curve-{batch}" in wanted:
                keep(curve(demo, batch))
    for name, case in pairs.CASES.items():
        if name in wanted:
            keep(case())
    if set(wanted) & set(pods.CASES):
        for rows in pods.measure(wanted):  # last: it keeps this process on one core
            keep(rows)
    stored = report.load("speculation")
    draw(report.of_this_machine(stored))
    report.publish("speculation", stored)


def keep(rows: list[report.Row]) -> None:
    """Store rows in place of those of the same cases."""
    stored = [old for old in report.load("speculation") if not any(_replaces(new, old) for new in rows)]
    report.save("speculation", report.merged(stored, rows))


def _replaces(new: report.Row, old: report.Row) -> bool:
    """Counts of tokens stand in a case's name and differ from run to run."""
    cases = (re.sub(r"\d+ (proposed|held)", "", row.case) for row in (new, old))
    return new.host == old.host and len(set(cases)) == 1


if __name__ == "__main__":
    main()
