"""The one bit that says this gateway is going away."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Drain:
    """Set once, never unset: readiness goes red, connections are not kept alive, running answers finish."""

    started: bool = False
