"""Expert load as a picture in the terminal: a row for each layer, a cell for each expert."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from rich.console import Group, RenderableType
from rich.style import Style
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from flash_runtime.model.expert_load import LayerLoad

_STEPS: Final = (0.25, 0.5, 0.75, 1.25, 1.5, 2.0, 3.0)
"""Multiples of the mean load at which the colour changes."""
_COLOURS: Final = (17, 19, 25, 31, 71, 178, 208, 196)
"""Blue = idle, green = near the mean, red = overloaded (numbers of the 256-colour palette)."""
_SHADES: Final = "·░▒▓█"
"""The same without colour, one for each two steps."""
_DEAD_SHOWN: Final = 8


def expert_heatmap(loads: Sequence[LayerLoad], *, width: int, colour: bool) -> RenderableType:
    """The map, its legend and the dead experts by name; neighbours share a cell where the terminal is narrow."""
    num_experts = max(len(load.tokens) for load in loads)
    per_cell = -(-num_experts // max(width - 30, 8))
    cell_width = 2 if 2 * num_experts <= width - 30 else 1
    table = Table(box=None, padding=(0, 1), show_edge=False)
    table.add_column("layer", justify="right")
    table.add_column(
        f"experts 0 to {num_experts - 1}" + (f", {per_cell} to a cell" if per_cell > 1 else ""), no_wrap=True
    )
    table.add_column("skew", justify="right")
    table.add_column("dead", justify="right")
    for load in loads:
        cells = Text()
        for start in range(0, num_experts, per_cell):
            part = load.shares[start : start + per_cell]
            cells.append(*_cell(max(part, default=0.0), cell_width, colour=colour))
        table.add_row(str(load.layer), cells, f"{load.skew:.2f}", str(len(load.dead) or ""))
    return Group(table, _legend(colour=colour), *_dead_lines(loads))


def _cell(share: float, width: int, *, colour: bool) -> tuple[str, Style]:
    level = sum(share >= step for step in _STEPS)
    if colour:
        return ("x" if share == 0 else " ") * width, Style(bgcolor=f"color({_COLOURS[level]})", color="white")
    return ("x" if share == 0 else _SHADES[(level + 1) // 2]) * width, Style()


def _legend(*, colour: bool) -> Text:
    legend = Text("load over the layer's mean: x none", style="dim")
    for low in (0.01, *_STEPS):
        legend.append("  ")
        legend.append(*_cell(low, 2, colour=colour))
        legend.append(" <0.25" if low < _STEPS[0] else f" {low:g}+")
    return legend


def _dead_lines(loads: Sequence[LayerLoad]) -> list[Text]:
    lines = []
    for load in loads:
        if dead := load.dead:
            more = f" and {len(dead) - _DEAD_SHOWN} more" if len(dead) > _DEAD_SHOWN else ""
            lines.append(
                Text(f"layer {load.layer}: no token chose expert {', '.join(map(str, dead[:_DEAD_SHOWN]))}{more}")
            )
    return lines
