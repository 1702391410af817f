"""The four shapes of load that autoscaling is compared on."""

import math
import random

from fakes.fleet import Trace, a_trace


def burst(seed: int = 1) -> Trace:
    """An hour at 2 requests a second, with ten minutes at 12."""
    return a_trace("burst", lambda at: 12 if 900 <= at < 1500 else 2, seconds=3600, peak=12, seed=seed)


def ramp(seed: int = 2) -> Trace:
    """From 1 to 14 requests a second in forty minutes, then twenty minutes there."""
    return a_trace("ramp", lambda at: min(14, 1 + 13 * at / 2400), seconds=3600, peak=14, seed=seed)


def day(seed: int = 3) -> Trace:
    """A day in four hours: from 1 to 13 requests a second and back, and again at half the height."""

    def rate(at: float) -> float:
        hour = 24 * at / 14400
        morning, evening = math.exp(-(((hour - 10) / 3) ** 2)), math.exp(-(((hour - 19) / 2) ** 2))
        return 1 + 12 * morning + 6 * evening

    return a_trace("day", rate, seconds=14400, peak=14, seed=seed)


def noise(seed: int = 4) -> Trace:
    """An hour and a half at 6 requests a second on average, anew between 4 and 8 every ten seconds."""
    draw = random.Random(seed)
    rates = [draw.uniform(4, 8) for _ in range(541)]
    return a_trace("noise", lambda at: rates[int(at / 10)], seconds=5400, peak=8, seed=seed)


ALL = (burst, ramp, day, noise)
