"""How long an engine may take to start before its startup probe gives it up: a rule of the model's size. Pure.

A probe that kills a slow load starts the same load again, so it must never be the one that is too short: a load that
cannot end is told by the rollout's deadline.
"""

from __future__ import annotations

from typing import Final

START_PERIOD_SECONDS: Final = 5
START_LEAST_SECONDS: Final = 30 * 60
"""Enough for models of up to about 37 GiB, and for those whose size nobody knows."""
START_MOST_SECONDS: Final = 4 * 60 * 60
_WARM_UP_SECONDS: Final = 10 * 60
_BYTES_PER_SECOND: Final = 32 * 1024**2
"""A slow network disk, read once."""
_STEP_SECONDS: Final = 5 * 60
"""A model that is packed anew is hardly ever of quite the same size, and another budget is another revision of pods."""


def start_seconds(size_bytes: int | None) -> int:
    """Ten minutes and the time to read the model at 32 MiB/s, between half an hour and four hours."""
    if size_bytes is None:
        return START_LEAST_SECONDS
    wanted = _WARM_UP_SECONDS + size_bytes // _BYTES_PER_SECOND
    stepped = -(-wanted // _STEP_SECONDS) * _STEP_SECONDS
    return min(START_MOST_SECONDS, max(START_LEAST_SECONDS, stepped))


def start_failures(size_bytes: int | None) -> int:
    """The failureThreshold of the startup probe."""
    return start_seconds(size_bytes) // START_PERIOD_SECONDS
