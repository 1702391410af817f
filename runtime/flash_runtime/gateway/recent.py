"""What users felt lately: percentiles of the last minutes, for those who ask without a metrics system of their own."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Final

WINDOW_SECONDS: Final = 300.0
SAMPLES_MAX: Final = 1000
"""Of a busy gateway the newest ones, which are seconds of it."""
SHARE: Final = 0.9


class Recent:
    """One kind of duration, as it was measured within the window."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._samples: deque[tuple[float, float]] = deque(maxlen=SAMPLES_MAX)

    def observe(self, seconds: float) -> None:
        """One more."""
        self._samples.append((self._clock(), seconds))

    def percentile(self) -> float | None:
        """Seconds that nine of ten stayed at or below (nearest rank); None when there was none lately."""
        since = self._clock() - WINDOW_SECONDS
        while self._samples and self._samples[0][0] < since:
            self._samples.popleft()
        if not self._samples:
            return None
        ordered = sorted(seconds for _, seconds in self._samples)
        return ordered[math.ceil(SHARE * len(ordered)) - 1]


def server_timing(**percentiles: float | None) -> dict[str, str]:
    """A `Server-Timing` header (W3C) with those that are known, in milliseconds; none when none is."""
    known = [f"{name};dur={seconds * 1000:.2f}" for name, seconds in percentiles.items() if seconds is not None]
    return {"server-timing": ", ".join(known)} if known else {}
