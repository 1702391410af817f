"""What was measured of one side at one number of objects, and where that is kept between phases."""

from __future__ import annotations

import json
import statistics
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass
class Figures:
    """Of one side at one number of objects. None = not measured."""

    objects: int
    create_seconds: float | None = None
    reconciled_seconds: float | None = None
    """From the first object's creation to the last one's end."""
    reconcile_cpu_seconds: float | None = None
    writes_per_object: float | None = None
    rss_peak_bytes: int = 0
    restart_seconds: float | None = None
    restart_cpu_seconds: float | None = None
    restart_writes: int | None = None
    idle_seconds: float = 0.0
    idle_writes: int | None = None
    idle_passes: int = 0
    idle_lists: int = 0
    idle_cpu_share: float | None = None
    change_seconds: list[float] = field(default_factory=list)
    hour_passes: int | None = None
    """As many as an hour has, made in less …"""
    hour_writes: int | None = None
    """… and what was written meanwhile."""

    def change_quantile(self, share: float) -> float | None:
        """Seconds, None = no change was measured."""
        if not self.change_seconds:
            return None
        return statistics.quantiles(self.change_seconds, n=100, method="inclusive")[round(share * 100) - 1]


def load(folder: Path, objects: int) -> Figures:
    """Those of earlier phases, or none yet."""
    path = _path(folder, objects)
    return Figures(**json.loads(path.read_text())) if path.exists() else Figures(objects)


def save(folder: Path, figures: Figures) -> None:
    """For the phases after this one."""
    _path(folder, figures.objects).write_text(json.dumps(asdict(figures)))


def _path(folder: Path, objects: int) -> Path:
    return folder / f"figures-{objects}.json"
