"""Our operator with hundreds to thousands of FlashDeployments on a real API server, beside a peer with as many objects.

OBJECTS=200,1000 chooses the sizes, PEER=none leaves the peer out.
"""

from __future__ import annotations

import asyncio
import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
for folder in (HERE.parent, ROOT / "kind/hermetic", ROOT / "tests/integration"):
    sys.path.insert(0, str(folder))

import report  # noqa: E402
import targets  # noqa: E402
from measure import Figures, Plan, measure  # noqa: E402
from rich.console import Console  # noqa: E402
from sides import OURS, PEER_NAME, install_peer, peer  # noqa: E402

QUICK: Final = bool(os.environ.get("QUICK"))
PEER_OBJECTS_MAX: Final = 1000
"""More would take the peer longer than anybody waits for a benchmark."""
FACTOR: Final = 5.0
THREADS: Final = len(os.sched_getaffinity(0))


def plan_of(objects: int) -> Plan:
    """What is measured with so many objects."""
    return Plan(
        objects, idle_seconds=20.0 if QUICK else 60.0, changes=min(objects, 40 if QUICK else 100), factor=FACTOR
    )


def sizes() -> list[int]:
    """How many objects, from the environment."""
    asked = os.environ.get("OBJECTS", "").replace(",", " ").split()
    return [int(word) for word in asked] or ([200] if QUICK else [1000, 5000])


def rows(ours: Figures, theirs: Figures | None) -> Iterator[report.Row]:
    """One side beside the other; and what only we promise."""
    with_n = f"{ours.objects:,} objects"

    def row(case: str, unit: str, mine: float, other: float | None = None) -> report.Row:
        made = report.row(
            f"{with_n}: {case}",
            unit,
            [mine],
            None if other is None else [other],
            peer_name=None if other is None else PEER_NAME,
            threads=THREADS,
        )
        bound = targets.TARGETS.get(case)
        if bound is None:
            return made
        return dataclasses.replace(
            made, target=f"≤ {bound:g} {unit}", verdict="reached" if made.ours <= bound else "not reached"
        )

    def beside(case: str, unit: str, figure: Callable[[Figures], float]) -> report.Row:
        return row(case, unit, figure(ours), figure(theirs) if theirs is not None else None)

    yield beside("create them", "s", lambda of: of.create_seconds)
    yield beside("all reconciled", "s", lambda of: of.reconciled_seconds)
    yield beside("CPU until then", "s", lambda of: of.reconcile_cpu_seconds)
    yield beside("API writes per object", "writes", lambda of: of.writes_per_object)
    yield beside("memory, peak", "MB", lambda of: of.rss_peak_bytes / 1e6)
    yield beside("writes while idle", "writes", lambda of: of.idle_writes)
    yield beside("CPU while idle", "% of a core", lambda of: of.idle_cpu_share * 100)
    yield row("passes while idle", "1/s", ours.idle_passes / ours.idle_seconds)
    yield row("lists while idle", "1/s", ours.idle_lists / ours.idle_seconds)
    yield row("change to child, median", "ms", ours.change_quantile(0.5) * 1e3)
    yield row("change to child, p99", "ms", ours.change_quantile(0.99) * 1e3)
    yield row("restart until all are seen", "s", ours.restart_seconds)
    yield row("writes after a restart", "writes", ours.restart_writes)


def main() -> int:
    # However a run is ended, no control plane stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    with_peer = os.environ.get("PEER") != "none"
    if with_peer:
        console.print("installing the peer into an environment of its own (a minute, once)")
        install_peer()
    name = "operator-quick" if QUICK else "operator"
    begin = time.monotonic()
    found = report.load(name)
    for objects in sizes():
        console.print(f"ours with {objects:,} objects")
        ours = asyncio.run(measure(OURS, plan_of(objects)))
        theirs = None
        if with_peer and objects <= PEER_OBJECTS_MAX:
            console.print(f"the peer with {objects:,} objects")
            theirs = asyncio.run(measure(peer(), plan_of(objects)))
        found = report.merged(found, list(rows(ours, theirs)))
        report.save(name, found)  # an interrupted run keeps what it has
    report.publish(name, found)
    console.print(f"looks at steady objects {FACTOR:g} times as frequent as usual; {time.monotonic() - begin:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
