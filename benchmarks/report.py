"""How every suite reports: rows of one form, written as JSON and printed as a table, in the terminal or as Markdown.

`report.py NAME` prints the stored results as Markdown; `report.py NAME --into FILE` puts them between the lines
`<!-- NAME results -->` and `<!-- end of NAME results -->` of that file.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import platform
import re
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).resolve().parent / "results"
_OPTIONAL: Final = ("read_bandwidth", "target", "verdict")
_LOG_WIDTH: Final = 180
"""Columns of a table that no terminal bounds."""
_LEFT: Final = ("case", "unit", "target")
_CORES: Final = re.compile(r", \d+ cores")


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
    read_bandwidth: float | None = None
    """GB/s that memory gave right before and after our samples, where it matters."""
    target: str | None = None
    verdict: str | None = None

    @property
    def host(self) -> str:
        """The machine, however many of its cores this row was given."""
        return _CORES.sub("", self.machine)

    @property
    def key(self) -> tuple[str, int, str | None, str]:
        """Rows with the same key are measurements of the same thing."""
        return self.case, self.threads, self.peer_name, self.host


def machine() -> str:
    """CPU model with its family, which clouds hide in the name; cores usable by this process; kernel."""
    told: dict[str, str] = {}
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        told.setdefault(name.strip(), value.strip())
    model = told.get("model name", platform.machine())
    if family := told.get("cpu family"):
        model += f" (family {family}, model {told.get('model')})"
    return f"{model}, {len(os.sched_getaffinity(0))} cores, {platform.system()} {platform.release()}"


def of_this_machine(rows: Sequence[Row]) -> list[Row]:
    """What was measured here."""
    here = _CORES.sub("", machine())
    return [row for row in rows if row.host == here]


def row(
    case: str,
    unit: str,
    ours: Sequence[float],
    peer: Sequence[float] | None = None,
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
        limit=None if limit is None else round(limit, 3),
        share_of_limit=None if not limit else round(mine / limit, 3),
        threads=threads,
        repeats=len(ours),
        machine=machine(),
    )


def merged(old: Sequence[Row], new: Sequence[Row], order: Sequence[str] = ()) -> list[Row]:
    """New rows in place of old ones with the same key; cases in the given order, unknown ones last. Rows of other
    machines come first and stay."""
    rows = {row.key: row for row in [*old, *new]}
    rank = {case: index for index, case in enumerate(order)}
    hosts = {row.host for row in new}
    return sorted(rows.values(), key=lambda row: (row.host in hosts, -row.threads, rank.get(row.case, len(rank))))


def load(name: str) -> list[Row]:
    """The stored rows of a suite; none if it never ran."""
    path = RESULTS / f"{name}.json"
    return [Row(**entry) for entry in json.loads(path.read_text())] if path.exists() else []


def save(name: str, rows: Sequence[Row]) -> Path:
    """Write `benchmarks/results/NAME.json`."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps([_entry(row) for row in rows], indent=2) + "\n")
    return path


def publish(name: str, rows: Sequence[Row]) -> None:
    """Save the rows and print those of this machine as a table."""
    path = save(name, rows)
    rows = of_this_machine(rows)
    console = Console()
    if not console.is_terminal:
        console = Console(width=_LOG_WIDTH)
    table = Table(title=f"{name} · {machine()}", title_justify="left")
    for heading in _headings(rows):
        table.add_column(heading, justify="left" if heading in _LEFT else "right", no_wrap=heading == "case")
    for row in rows:
        table.add_row(*_cells(row, _headings(rows)).values())
    console.print(table)
    console.print(f"medians, ours and the peer's in turn; written to {os.path.relpath(path)}")


def markdown(rows: Sequence[Row]) -> str:
    """A table in Markdown for each machine, with the machine under it: the one measured last comes first."""
    hosts = list(dict.fromkeys(row.host for row in reversed(rows)))
    return "\n".join(_table([row for row in rows if row.host == host]) for host in hosts)


def _table(rows: Sequence[Row]) -> str:
    headings = _headings(rows)
    lines = [
        f"| {' | '.join(headings)} |",
        "|" + "|".join("---" if heading in _LEFT else "--:" for heading in headings) + "|",
        *(f"| {' | '.join(_cells(row, headings).values())} |" for row in rows),
    ]
    machines = sorted({row.machine for row in rows})
    return "\n".join(lines) + f"\n\nMeasured on {'; '.join(machines)}.\n"


def insert(document: str, name: str, table: str) -> str:
    """The document with the table between its two markers. Raises ValueError where they are missing."""
    begin, end = f"<!-- {name} results -->", f"<!-- end of {name} results -->"
    before, found, rest = document.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise ValueError(f"the lines `{begin}` and `{end}` must stand in the document")
    return f"{before}{begin}\n{table}{end}{after}"


def _entry(row: Row) -> dict[str, Any]:
    return {k: v for k, v in dataclasses.asdict(row).items() if not (k in _OPTIONAL and v is None)}


def _headings(rows: Sequence[Row]) -> list[str]:
    headings = ["case", "unit", "ours", "peer", "ours / peer", "limit"]
    if len({row.threads for row in rows}) > 1:
        headings.insert(1, "threads")
    if any(row.read_bandwidth for row in rows):
        headings += ["of limit", "GB/s"]
    if any(row.target for row in rows):
        headings += ["target", "verdict"]
    return headings


def _cells(row: Row, headings: Sequence[str]) -> Mapping[str, str]:
    cells = {
        "case": row.case,
        "threads": str(row.threads),
        "unit": row.unit,
        "ours": _number(row.ours),
        "peer": " ".join(filter(None, (_number(row.peer), f"({row.peer_name})" if row.peer_name else ""))),
        "ours / peer": "" if row.ratio is None else f"{row.ratio:.2f}x",
        "limit": _number(row.limit),
        "of limit": "" if row.share_of_limit is None else f"{row.share_of_limit:.0%}",
        "GB/s": "" if row.read_bandwidth is None else f"{row.read_bandwidth:.0f}",
        "target": row.target or "",
        "verdict": row.verdict or "",
    }
    return {heading: cells[heading] for heading in headings}


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:,.1f}" if abs(value) >= 10 else f"{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description="Print a suite's stored results as Markdown.")
    parser.add_argument("name")
    parser.add_argument("--into", type=Path, metavar="FILE", help="put them between the markers of this file instead")
    options = parser.parse_args()
    rows = load(options.name)
    if not rows:
        parser.exit(2, f"no results of {options.name} yet; run `make bench NAME={options.name}`\n")
    if options.into:
        options.into.write_text(insert(options.into.read_text(), options.name, markdown(rows)))
    else:
        print(markdown(rows), end="")


if __name__ == "__main__":
    main()
