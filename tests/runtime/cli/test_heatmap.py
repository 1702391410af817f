"""The picture of expert load: one row a layer, even load looks even, dead experts are named."""

from __future__ import annotations

import io

from rich.console import Console

from flash_runtime.cli.heatmap import expert_heatmap
from flash_runtime.model.expert_load import LayerLoad


def drawn(*loads: LayerLoad, width: int = 80, colour: bool = False) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=colour, color_system="256" if colour else None)
    console.print(expert_heatmap(loads, width=width, colour=colour))
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_an_even_layer_is_drawn_evenly_and_has_skew_one() -> None:
    row = drawn(LayerLoad(3, (10,) * 8)).splitlines()[1].split()
    assert row[0] == "3"
    assert len(set(row[1])) == 1
    assert row[2] == "1.00"


def test_busier_experts_are_darker_and_dead_ones_crossed_and_named() -> None:
    picture = drawn(LayerLoad(0, (0, 10, 90, 40, 0, 30, 30, 40)))
    cells = picture.splitlines()[1].split()[1]
    assert cells[:2] == "xx"
    assert cells[4] != cells[2]
    assert "layer 0: no token chose expert 0, 4" in picture


def test_many_dead_experts_are_counted() -> None:
    assert "no token chose expert 1, 2, 3, 4, 5, 6, 7, 8 and 7 more" in drawn(LayerLoad(0, (10,) + (0,) * 15))


def test_more_experts_than_columns_share_cells() -> None:
    picture = drawn(LayerLoad(0, tuple(range(1, 257))), width=80)
    assert "experts 0 to 255, 6 to a cell" in picture
    assert max(map(len, picture.splitlines())) <= 80


def test_colours_stand_for_load_where_the_terminal_has_them() -> None:
    picture = drawn(LayerLoad(0, (1, 99)), colour=True)
    assert "\x1b[37;48;5;17m" in picture
    assert "\x1b[37;48;5;178m" in picture or "\x1b[37;48;5;208m" in picture
