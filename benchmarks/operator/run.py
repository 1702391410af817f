"""Our operator with hundreds to thousands of FlashDeployments on a real API server, beside a peer with as many objects.

OBJECTS=200,1000 chooses the sizes, PEER=none leaves the peer out, PHASES=create,steady,hour chooses what is measured.
PLANE=FOLDER measures SIDE=ours or SIDE=peer on the control plane that plane.py holds there, with what it has already.
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

import figures as stored  # noqa: E402
import report  # noqa: E402
import targets  # noqa: E402
from figures import Figures  # noqa: E402
from measure import PHASES, Wanted, measure  # noqa: E402
from plane import kept, started  # noqa: E402
from rich.console import Console  # noqa: E402
from sides import OURS, PEER_NAME, install_peer, peer  # noqa: E402

QUICK: Final = bool(os.environ.get("QUICK"))
PEER_OBJECTS_MAX: Final = 1000
"""More would take the peer longer than anybody waits for a benchmark."""
FACTOR: Final = 100.0
THREADS: Final = len(os.sched_getaffinity(0))


def wanted_of(objects: int) -> Wanted:
    """What is measured with so many objects."""
    return Wanted(
        objects, idle_seconds=20.0 if QUICK else 40.0, changes=min(objects, 40 if QUICK else 100), factor=FACTOR
    )


def phases() -> tuple[str, ...]:
    """From the environment. Raises SystemExit for others than there are."""
    asked = tuple(os.environ.get("PHASES", "").replace(",", " ").split()) or PHASES
    if unknown := set(asked) - set(PHASES):
        raise SystemExit(f"PHASES ({', '.join(sorted(unknown))}) must be of {', '.join(PHASES)}")
    return asked


def sizes() -> list[int]:
    """How many objects, from the environment."""
    asked = os.environ.get("OBJECTS", "").replace(",", " ").split()
    return [int(word) for word in asked] or ([200] if QUICK else [1000, 5000])


def rows(ours: Figures, theirs: Figures | None) -> Iterator[report.Row]:
    """One side beside the other; and what only we promise. What was not measured is left out."""
    with_n = f"{ours.objects:,} objects"

    def row(case: str, unit: str, figure: Callable[[Figures], float | None]) -> Iterator[report.Row]:
        mine, other = figure(ours), figure(theirs) if theirs is not None else None
        if mine is None:
            return
        made = report.row(
            f"{with_n}: {case}",
            unit,
            [mine],
            None if other is None else [other],
            peer_name=None if other is None else PEER_NAME,
            threads=THREADS,
        )
        bound = targets.TARGETS.get(case)
        if bound is not None:
            verdict = "reached" if made.ours <= bound else "not reached"
            made = dataclasses.replace(made, target=f"≤ {bound:g} {unit}", verdict=verdict)
        yield made

    yield from row("create them", "s", lambda of: of.create_seconds)
    yield from row("all reconciled", "s", lambda of: of.reconciled_seconds)
    yield from row("CPU until then", "s", lambda of: of.reconcile_cpu_seconds)
    yield from row("API writes per object", "writes", lambda of: of.writes_per_object)
    yield from row("memory, peak", "MB", lambda of: of.rss_peak_bytes / 1e6 or None)
    yield from row("restart until all are seen", "s", lambda of: of.restart_seconds)
    yield from row("CPU of a restart", "s", lambda of: of.restart_cpu_seconds)
    yield from row("writes after a restart", "writes", lambda of: of.restart_writes)
    yield from row("CPU while idle", "% of a core", lambda of: _times(of.idle_cpu_share, 100))
    yield from row("writes while idle", "writes", lambda of: of.idle_writes)
    yield from row("reads while idle", "1/s", _idle_reads)
    yield from row("passes of an hour", "passes", lambda of: of.hour_passes)
    yield from row("writes in them", "writes", lambda of: of.hour_writes)
    yield from row("change to child, median", "ms", lambda of: _times(of.change_quantile(0.5), 1e3))
    yield from row("change to child, p99", "ms", lambda of: _times(of.change_quantile(0.99), 1e3))


def _times(figure: float | None, factor: float) -> float | None:
    return None if figure is None else figure * factor


def _idle_reads(of: Figures) -> float | None:
    return (of.idle_lists + of.idle_passes) / of.idle_seconds if of.idle_seconds else None


def main() -> int:
    # However a run is ended, no control plane stays behind.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    console = Console()
    begin = time.monotonic()
    asked, name = phases(), "operator-quick" if QUICK else "operator"
    with_peer = os.environ.get("PEER") != "none"
    if with_peer:
        console.print("installing the peer into an environment of its own (a minute, once)")
        install_peer()
    if folder := os.environ.get("PLANE"):
        return _on_a_kept_plane(Path(folder), asked, name)
    measured: dict[int, Figures] = {}
    with started(OURS) as plane:
        for objects in sizes():
            console.print(f"ours with {objects:,} objects")
            measured[objects] = asyncio.run(measure(OURS, wanted_of(objects), plane, asked))
            _keep(name, measured[objects], None)  # an interrupted run keeps what it has
    if with_peer:
        other = peer()
        with started(other) as plane:
            for objects in (each for each in sizes() if each <= PEER_OBJECTS_MAX):
                console.print(f"the peer with {objects:,} objects")
                theirs = asyncio.run(measure(other, wanted_of(objects), plane, asked))
                _keep(name, measured[objects], theirs)
    report.publish(name, report.load(name))
    console.print(f"{time.monotonic() - begin:.0f} s")
    return 0


def _on_a_kept_plane(folder: Path, asked: tuple[str, ...], name: str) -> int:
    side = peer() if os.environ.get("SIDE") == "peer" else OURS
    for objects in sizes():
        found = asyncio.run(measure(side, wanted_of(objects), kept(folder), asked))
        if side is OURS:
            others = os.environ.get("PEER_PLANE")
            _keep(name, found, stored.load(Path(others), objects) if others else None)
            report.publish(name, report.load(name))
        else:
            print(found)
    return 0


def _keep(name: str, ours: Figures, theirs: Figures | None) -> None:
    with_n = f"{ours.objects:,} objects: "
    before = [row for row in report.load(name) if not row.case.startswith(with_n)]
    report.save(name, report.merged(before, list(rows(ours, theirs))))


if __name__ == "__main__":
    sys.exit(main())
