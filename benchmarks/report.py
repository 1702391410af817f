"""One benchmark result as a row; rows as a table on the terminal and as JSON in benchmarks/results."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
import statistics
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True)
class Row:
    """One case: our median beside the peer's, measured in turn in the same run. `ratio` = ours / peer."""

    case: str
    unit: str
    ours: float
    peer: float | None
    peer_name: str | None
    ratio: float | None
    limit: float | None
    """The physical or promised bound in the same unit, where one is known."""
    share_of_limit: float | None
    threads: int
    repeats: int
    machine: str


def machine() -> str:
    """CPU model, cores usable by this process, kernel."""
    model = platform.machine()
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}"


def row(
    case: str,
    unit: str,
    ours: list[float],
    peer: list[float] | None = None,
    *,
    peer_name: str | None = None,
    limit: float | None = None,
    threads: int,
) -> Row:
    """Medians of the repeats as one row."""
    mine = statistics.median(ours)
    theirs = statistics.median(peer) if peer else None
    return Row(
        case=case,
        unit=unit,
        ours=round(mine, 3),
        peer=None if theirs is None else round(theirs, 3),
        peer_name=peer_name,
        ratio=None if not theirs else round(mine / theirs, 3),
        limit=limit,
        share_of_limit=None if not limit else round(mine / limit, 3),
        threads=threads,
        repeats=len(ours),
        machine=machine(),
    )


def publish(name: str, rows: list[Row]) -> None:
    """Print the table and write `benchmarks/results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps([dataclasses.asdict(r) for r in rows], indent=2) + "\n")
    table = Table(title=f"{name} · {machine()}", title_justify="left")
    for heading in ("case", "unit", "ours", "peer", "ours / peer", "limit"):
        table.add_column(heading, justify="left" if heading in ("case", "unit") else "right")
    for r in rows:
        peer = "" if r.peer is None else f"{r.peer:,.1f}  ({r.peer_name})"
        ratio = "" if r.ratio is None else f"{r.ratio:.2f}x"
        table.add_row(r.case, r.unit, f"{r.ours:,.1f}", peer, ratio, "" if r.limit is None else f"{r.limit:,.0f}")
    Console().print(table)
    Console().print(f"medians, ours and the peer's in turn; written to {path.relative_to(Path.cwd())}")
