"""How fast a stage learns at each step: a short rise, a long level, a straight line down at the end. Plain numbers.

The level has no end of its own, so training can be carried on from a checkpoint with more steps than were planned.
"""

from __future__ import annotations

from typing import Final

_RISE_STEPS: Final = 30
_SHARE_OF_FALL: Final = 0.25
_LOWEST: Final = 0.05


def rate(step: int, steps: int) -> float:
    """Factor on the learning rate at a step of so many, counted from 0."""
    rise = min(1.0, (step + 1) / min(_RISE_STEPS, max(1, steps // 10)))
    fall = (steps - step) / max(1.0, steps * _SHARE_OF_FALL)
    return min(rise, max(_LOWEST, min(1.0, fall)))
