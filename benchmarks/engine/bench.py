"""What the cases share: the control, how often to repeat, and how a figure becomes a row with its target."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import report
import targets
from probe import Probe
from rich.console import Console
from rich.progress import track

T = TypeVar("T")


@dataclass(frozen=True)
class Bench:
    """One run of the suite."""

    probe: Probe
    console: Console
    quick: bool
    repeats: int

    def track(self, steps: Iterable[T], what: str) -> Iterator[T]:
        """A progress bar around a loop."""
        yield from track(steps, what, console=self.console)

    @functools.cache  # noqa: B019 (one Bench lives as long as the program)
    def int8_peak(self, threads: int) -> float | None:
        """Operations per second; does not change with what neighbours do to memory."""
        return self.probe.int8_peak(threads)

    def row(
        self,
        case: str,
        unit: str,
        ours: Sequence[float],
        peer: Sequence[float] | None = None,
        *,
        peer_name: str | None = None,
        limit: float | None = None,
        threads: int,
        bandwidth: float | None = None,
    ) -> report.Row:
        """Medians as a row, with the target it has and whether it is reached."""
        row = report.row(case, unit, ours, peer, peer_name=peer_name, limit=limit, threads=threads)
        if bandwidth is not None:
            row = dataclasses.replace(row, read_bandwidth=round(bandwidth / 1e9, 1))
        target = targets.target_of(case, peer_name, threads)
        if target is None:
            return row
        figures: dict[targets.Figure, float | None] = {
            "ours": row.ours,
            "ratio": row.ratio,
            "share_of_limit": row.share_of_limit,
        }
        return dataclasses.replace(row, target=targets.describe(target, unit), verdict=targets.verdict(target, figures))
