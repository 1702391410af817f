"""The number of pods over time as an SVG picture: what the load needs as an area, what each law wanted as a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from fakes.fleet import Trace

WIDTH, HEIGHT, MARGIN, GAP = 860, 150, 46, 44
COLOURS = ("#c2410c", "#2563eb")
BINS = 120


@dataclass(frozen=True)
class Panel:
    """One trace."""

    trace: Trace
    capacity: float
    """Requests per second of one pod."""
    lines: Sequence[tuple[str, Sequence[tuple[float, int]]]]
    """By law: from when on how many pods were wanted."""


def svg(panels: Sequence[Panel]) -> str:
    """The picture."""
    height = len(panels) * (HEIGHT + GAP) + 30
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH + 2 * MARGIN} {height}" '
        'font-family="sans-serif" font-size="12" role="img">',
        "<title>Engine pods over time on four traces</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        _legend(panels[0]),
        *(_panel(panel, 40 + number * (HEIGHT + GAP)) for number, panel in enumerate(panels)),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _legend(panel: Panel) -> str:
    entries = [("what the load needs", "#d4d4d8"), *zip((name for name, _ in panel.lines), COLOURS, strict=False)]
    return "\n".join(
        f'<rect x="{MARGIN + 190 * i}" y="10" width="12" height="12" fill="{colour}"/>'
        f'<text x="{MARGIN + 190 * i + 18}" y="21">{escape(name)}</text>'
        for i, (name, colour) in enumerate(entries)
    )


def _panel(panel: Panel, top: float) -> str:
    needed = _needed(panel)
    most = max([*needed, *(number for _, line in panel.lines for _, number in line)])

    def point(at: float, pods: float) -> str:
        return f"{MARGIN + WIDTH * at / panel.trace.seconds:.1f},{top + HEIGHT * (1 - pods / most):.1f}"

    width = panel.trace.seconds / BINS
    area = [point(0, 0), *(point((i + 0.5) * width, pods) for i, pods in enumerate(needed))]
    area.append(point(panel.trace.seconds, 0))
    parts = [
        f'<text x="{MARGIN}" y="{top - 6}" font-weight="bold">{escape(panel.trace.name)}</text>',
        f'<polygon points="{" ".join(area)}" fill="#d4d4d8"/>',
    ]
    for pods in range(0, int(most) + 1, max(1, int(most) // 4)):
        at = top + HEIGHT * (1 - pods / most)
        parts.append(f'<line x1="{MARGIN}" x2="{MARGIN + WIDTH}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e4e4e7"/>')
        parts.append(f'<text x="{MARGIN - 8}" y="{at + 4:.1f}" text-anchor="end">{pods}</text>')
    minutes = int(panel.trace.seconds / 60)
    for minute in range(0, minutes + 1, minutes // 6):
        x = MARGIN + WIDTH * minute / minutes
        parts.append(f'<text x="{x:.1f}" y="{top + HEIGHT + 16}" text-anchor="middle">{minute} min</text>')
    for (_, line), colour in zip(panel.lines, COLOURS, strict=False):
        ends = [*(at for at, _ in line[1:]), panel.trace.seconds]
        steps = [
            point(min(at, panel.trace.seconds), pods)
            for (start, pods), end in zip(line, ends, strict=True)
            for at in (start, end)
        ]
        parts.append(f'<polyline points="{" ".join(steps)}" fill="none" stroke="{colour}" stroke-width="1.6"/>')
    return "\n".join(parts)


def _needed(panel: Panel) -> list[float]:
    counts = [0] * BINS
    for at, _ in panel.trace.arrivals:
        counts[min(BINS - 1, int(at / panel.trace.seconds * BINS))] += 1
    return [count / (panel.trace.seconds / BINS) / panel.capacity for count in counts]
