"""Tokens per second against batch size, as bars in the terminal: how much sharing a step is worth."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import report
from rich.console import Console
from rich.text import Text

_DECODE: Final = re.compile(r"decode, batch (\d+), W8A8")
_WIDTH: Final = 60
_STYLES: Final = ("green", "yellow", "cyan", "magenta")


def series(rows: Sequence[report.Row], threads: int) -> dict[str, dict[int, float]]:
    """Side → batch → tokens per second. Pure."""
    found: dict[str, dict[int, float]] = {}
    for row in rows:
        match = _DECODE.fullmatch(row.case)
        if match is None or row.threads != threads:
            continue
        batch = int(match[1])
        found.setdefault("Flashplane Lite", {})[batch] = row.ours
        if row.peer is not None and row.peer_name:
            found.setdefault(row.peer_name, {})[batch] = row.peer
    return found


def chart(rows: Sequence[report.Row], console: Console, *, threads: int = 2) -> None:
    """Draw the series that have more than one batch size."""
    sides = {name: points for name, points in series(rows, threads).items() if len(points) > 1}
    if not sides:
        return
    top = max(value for points in sides.values() for value in points.values())
    console.print(f"\ndecode, tokens/s of all sequences by batch size, {threads} threads", style="bold")
    for batch in sorted({batch for points in sides.values() for batch in points}):
        for (name, points), style in zip(sides.items(), _STYLES, strict=False):
            if batch in points:
                bar = "█" * max(1, round(points[batch] / top * _WIDTH))
                console.print(
                    Text.assemble(f"{batch:>5}  {name:<18} ", (bar, style), f" {points[batch]:,.0f}"), soft_wrap=True
                )
