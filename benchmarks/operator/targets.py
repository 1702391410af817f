"""What our operator has to reach, by case and in the case's unit: at most so much."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TARGETS: Final[Mapping[str, float]] = {
    "API writes per object": 12,
    "memory, peak": 350,
    "writes while idle": 0,
    "writes in them": 0,
    "change to child, p99": 1000,
    "restart until all are seen": 60,
    "writes after a restart": 0,
}
