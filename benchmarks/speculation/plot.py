"""Speed-up against acceptance as an SVG picture: one panel for each batch size, one line for each lookahead."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

Points = Mapping[float, float]
"""Acceptance → speed-up."""

_WIDTH, _HEIGHT, _MARGIN, _GAP = 250, 200, 46, 50
_COLOURS = ("#c2410c", "#2563eb", "#15803d", "#7e22ce")
_LOW, _HIGH = 0.3, 0.9


def svg(title: str, panels: Mapping[str, Mapping[str, Points]]) -> str:
    """The picture: panel → line → points."""
    lines = list(dict.fromkeys(line for panel in panels.values() for line in panel))
    top = max(value for panel in panels.values() for points in panel.values() for value in points.values())
    width = len(panels) * (_WIDTH + _GAP) + _MARGIN
    legend = "\n".join(
        f'<rect x="{_MARGIN + 130 * i}" y="10" width="12" height="12" fill="{colour}"/>'
        f'<text x="{_MARGIN + 130 * i + 18}" y="21">{escape(line)}</text>'
        for i, (line, colour) in enumerate(zip(lines, _COLOURS, strict=False))
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {_HEIGHT + 110}" font-family="sans-serif" '
        'font-size="12" role="img">',
        f"<title>{escape(title)}</title>",
        '<rect width="100%" height="100%" fill="white"/>',
        legend,
    ]
    for number, (name, panel) in enumerate(panels.items()):
        parts.append(_panel(name, panel, lines, _MARGIN + number * (_WIDTH + _GAP), 60, max(top, 1.0)))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _panel(name: str, panel: Mapping[str, Points], lines: list[str], left: float, top: float, most: float) -> str:
    def x(acceptance: float) -> float:
        return left + _WIDTH * (acceptance - _LOW) / (_HIGH - _LOW)

    def y(speed_up: float) -> float:
        return top + _HEIGHT * (1 - speed_up / most)

    parts = [f'<text x="{left}" y="{top - 8}" font-weight="bold">{escape(name)}</text>']
    for step in range(int(most * 2) + 1):
        value = step / 2
        colour = "#71717a" if value == 1 else "#e4e4e7"
        parts.append(
            f'<line x1="{left}" x2="{left + _WIDTH}" y1="{y(value):.1f}" y2="{y(value):.1f}" stroke="{colour}"/>'
            f'<text x="{left - 6}" y="{y(value) + 4:.1f}" text-anchor="end">{value:g}x</text>'
        )
    for tenth in range(3, 10, 2):
        parts.append(
            f'<text x="{x(tenth / 10):.1f}" y="{top + _HEIGHT + 16}" text-anchor="middle">{tenth / 10:g}</text>'
        )
    parts.append(
        f'<text x="{left + _WIDTH / 2}" y="{top + _HEIGHT + 34}" text-anchor="middle">acceptance of a token</text>'
    )
    for line, colour in zip(lines, _COLOURS, strict=False):
        if points := panel.get(line):
            path = " ".join(f"{x(at):.1f},{y(value):.1f}" for at, value in sorted(points.items()))
            parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
    return "\n".join(parts)
