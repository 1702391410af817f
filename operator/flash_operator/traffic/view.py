"""The table of windows for people. Knows no clock and no driver."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from flash_operator.traffic.tally import Verdict, Window, percentile, total


def table(windows: Sequence[Window], now: float) -> Table:
    """A row for each window, and one for all."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    shown.add_column("window")
    counts, times = (
        ("seconds", "streams", "failed", "truncated", "changed"),
        ("TTFT p50", "p90", "p99", "TPOT p50", "p90"),
    )
    for heading in (*counts, *times, "pause max"):
        shown.add_column(heading, justify="right")
    for window in windows:
        shown.add_row(*_row(window, now))
    if len(windows) > 1:
        shown.add_row(*_row(total(windows), now), style="bold")
    return shown


def causes(windows: Sequence[Window]) -> list[str]:
    """Why streams did not come through, a line for each cause."""
    return [f"{window.name}: {count} x {cause}" for window in windows for cause, count in window.causes.most_common()]


def _row(window: Window, now: float) -> tuple[str | Text, ...]:
    ended = window.ended if window.ended is not None else now
    flaws = (_flaw(window.verdicts[verdict]) for verdict in (Verdict.FAILED, Verdict.TRUNCATED, Verdict.CHANGED))
    return (
        window.name,
        f"{ended - window.began:.1f}",
        str(window.num_streams),
        *flaws,
        *(_milliseconds(percentile(window.first_token_seconds, percent)) for percent in (50, 90, 99)),
        *(_milliseconds(percentile(window.per_token_seconds, percent)) for percent in (50, 90)),
        _milliseconds(window.longest_pause_seconds),
    )


def _flaw(count: int) -> Text:
    return Text(str(count), style="red" if count else "green")


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.0f} ms"
