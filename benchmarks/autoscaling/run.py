"""Autoscaling on replayed traces: the operator's law beside a static fleet and a HorizontalPodAutoscaler's arithmetic.

A simulation: seeded, without a clock, the same on every machine. The fleet and the traces are those of the tests. Also
writes the table and the plot of docs/autoscaling.md.
"""

from __future__ import annotations

import math
import os
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]

# ruff: noqa: E402  (the paths above come first)
import plot
import report
from fakes import traces
from fakes.fleet import Law, Outcome, Pods, Trace, play
from fakes.scaling_laws import Hpa, Ours, Static

from flash_api.v1alpha1.autoscaling import Autoscaling
from flash_runtime.gateway.metrics import TPOT_BUCKETS, TTFT_BUCKETS

QUICK = bool(os.environ.get("QUICK"))
SEEDS = range(1, 2) if QUICK else range(1, 6)
TARGET_SECONDS = 1.0
MAXIMUM = 20
PODS = Pods()
SCALING = Autoscaling.model_validate(
    {"maxReplicas": MAXIMUM, "targets": {"ttftMilliseconds": 1000, "tpotMilliseconds": 75}}
)
PAGE = ROOT / "docs" / "autoscaling.md"
PICTURE = ROOT / "docs" / "autoscaling.svg"
BEGIN, END = "<!-- table: written by make bench NAME=autoscaling -->", "<!-- end of table -->"


@dataclass(frozen=True)
class Run:
    """One law on one trace, drawn a few times."""

    name: str
    outcomes: list[Outcome]


def outcomes(trace: Trace) -> dict[str, Outcome]:
    """Ours first, then what it is compared with."""
    arrivals = sum(at < 300 for at, _ in trace.arrivals) / 300
    first = max(1, math.ceil(arrivals / PODS.capacity))

    def go(law: Law, pods: int = first) -> Outcome:
        return play(trace, law, first=pods, buckets=TTFT_BUCKETS, token_buckets=TPOT_BUCKETS)

    ours = go(Ours(SCALING))
    equal = math.ceil(ours.replica_seconds / trace.seconds)
    fleets = {size: go(Static(size), size) for size in range(1, 10)}
    enough = next(fleet for fleet in fleets.values() if fleet.attainment(TARGET_SECONDS) >= 0.9)
    return {
        "Flashplane": ours,
        "static, same cost": fleets[equal],
        "static, target met": enough,
        "HPA, requests a pod": go(Hpa(1, MAXIMUM, inflight_per_pod=0.8 * PODS.places)),
        "HPA, p90 TTFT": go(Hpa(1, MAXIMUM, ttft_seconds=TARGET_SECONDS)),
    }


def runs(drawn: list[Trace]) -> list[Run]:
    """Every law on every draw of a trace."""
    found = [outcomes(trace) for trace in drawn]
    return [Run(name, [each[name] for each in found]) for name in found[0]]


def figures(run: Run) -> list[tuple[str, str, list[float]]]:
    """Name, unit and values of what is compared."""
    return [
        ("within target", "%", [100 * each.attainment(TARGET_SECONDS) for each in run.outcomes]),
        ("replica-hours", "h", [each.replica_seconds / 3600 for each in run.outcomes]),
        ("most pods", "pods", [each.most for each in run.outcomes]),
        ("flaps", "count", [each.flaps() for each in run.outcomes]),
    ]


def rows(trace: str, all_runs: list[Run]) -> list[report.Row]:
    """Ours beside each of the others."""
    ours, *others = all_runs
    return [
        report.row(f"{trace}, {name}", unit, mine, theirs, peer_name=other.name, threads=1)
        for other in others
        for (name, unit, mine), (_, _, theirs) in zip(figures(ours), figures(other), strict=True)
    ]


def markdown(results: list[tuple[str, list[Run]]]) -> str:
    """The table of the page."""
    lines = ["| trace | law | TTFT within target | replica-hours | most pods | flaps |", "|---|---|---|---|---|---|"]
    for trace, all_runs in results:
        for run in all_runs:
            within, hours, most, flaps = (statistics.median(values) for _, _, values in figures(run))
            lines.append(f"| {trace} | {run.name} | {within:.1f} % | {hours:.2f} | {most:.0f} | {flaps:.0f} |")
    return "\n".join(lines)


def main() -> None:
    """Play every trace with every law, publish, and bring the page up to date unless only a part was played."""
    drawn = {make.__name__: [make(seed) for seed in SEEDS] for make in (traces.ALL[:2] if QUICK else traces.ALL)}
    results = [(name, runs(draws)) for name, draws in drawn.items()]
    report.publish("autoscaling", [row for name, all_runs in results for row in rows(name, all_runs)])
    if QUICK:
        return
    before, _, rest = PAGE.read_text().partition(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{markdown(results)}\n{END}{rest.partition(END)[2]}")
    panels = [
        plot.Panel(
            drawn[name][0], PODS.capacity, [(run.name, run.outcomes[0].wanted) for run in (all_runs[0], all_runs[3])]
        )
        for name, all_runs in results
    ]
    PICTURE.write_text(plot.svg(panels))


if __name__ == "__main__":
    main()
