"""The losses of one stage as a picture. Needs matplotlib, and does without the picture where it is not installed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Final

_OTHERS: Final = frozenset({"step", "tokens", "tokens_per_second", "rate", "norm"})


def draw_losses(log: Path, picture: Path) -> bool:
    """Draw every loss of the log over tokens; False where matplotlib is missing."""
    if importlib.util.find_spec("matplotlib") is None:
        return False
    from matplotlib.figure import Figure

    entries = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for name in sorted({name for entry in entries for name in entry} - _OTHERS):
        points = [(entry["tokens"], entry[name]) for entry in entries if name in entry]
        axes.plot(*zip(*points, strict=True), label=name, linewidth=1)
    axes.set_xlabel("tokens")
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(picture, dpi=120)
    return True
