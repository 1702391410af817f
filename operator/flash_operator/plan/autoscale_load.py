"""What a series of looks at the gateways' metrics says about the load. Pure: pages in, figures out; knows no targets.

Latencies come from histograms that only ever grow, so a window is the difference of two looks. A counter that fell
belongs to a process that started anew, and counts from zero.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Final

WINDOW_SECONDS: Final = 60.0
"""How far back latencies count: four looks, and at one request a second enough for a percentile."""
STALE_SECONDS: Final = 45.0
"""A look that is older says nothing about now: three were missed."""
SAMPLES_MIN: Final = 20
"""With fewer requests nine of ten is a matter of one or two of them."""
SAMPLES_ENOUGH: Final = 50
"""With so many new ones, older requests are not asked: those who waited in a queue that is gone say nothing of now."""
SETTLE_SECONDS: Final = 30.0
"""After engines became ready, those who had queued for them get their first tokens, late, and say nothing of now."""
FLOW_SECONDS: Final = 15.0
"""A rate needs a while; the loop may look more often."""
FINISHED_MIN: Final = 10
"""With fewer ended requests a rate is a guess."""
SHARE: Final = 0.9
"""Targets are what nine of ten requests stay below."""


@dataclass(frozen=True)
class Histogram:
    """A Prometheus histogram without its labels."""

    bounds: tuple[float, ...] = ()
    """Upper bounds, ascending; the last one is infinite."""
    counts: tuple[float, ...] = ()
    """Observations up to each bound."""

    @property
    def total(self) -> float:
        return self.counts[-1] if self.counts else 0.0

    def since(self, former: Histogram) -> Histogram:
        """What was observed after `former`, a look at the same process or at the one before it."""
        restarted = self.bounds != former.bounds or any(
            now < then for now, then in zip(self.counts, former.counts, strict=True)
        )
        if restarted:
            return self
        return Histogram(self.bounds, tuple(now - then for now, then in zip(self.counts, former.counts, strict=True)))

    def plus(self, other: Histogram) -> Histogram:
        """Both together, at the bounds that both have: two releases of the gateway may differ in them."""
        if not self.counts or not other.counts:
            return self if self.counts else other
        mine, theirs = (
            dict(zip(self.bounds, self.counts, strict=True)),
            dict(zip(other.bounds, other.counts, strict=True)),
        )
        common = tuple(bound for bound in self.bounds if bound in theirs)
        return Histogram(common, tuple(mine[bound] + theirs[bound] for bound in common))

    def quantile(self, share: float = SHARE) -> Quantile | None:
        """The bucket in which the share is reached; None with too few observations to speak of."""
        if self.total < SAMPLES_MIN:
            return None
        rank, lower, below = share * self.total, 0.0, 0.0
        for bound, count in zip(self.bounds, self.counts, strict=True):
            if count >= rank and count > below:
                inside = (rank - below) / (count - below)
                estimate = lower if math.isinf(bound) else lower + (bound - lower) * inside
                return Quantile(lower, estimate)
            lower, below = bound, count
        return None


@dataclass(frozen=True)
class Quantile:
    """A percentile as far as buckets tell it, in seconds."""

    at_least: float
    """The lower bound of its bucket: this much is certain."""
    estimate: float

    def against(self, target_seconds: float) -> float:
        """The estimate as a share of the target; above 1 only where the target is missed for certain.

        A wide bucket around the target would otherwise report a miss where there is none, for ever.
        """
        ratio = self.estimate / target_seconds
        return ratio if self.at_least >= target_seconds else min(ratio, 1.0)


@dataclass(frozen=True)
class TrackReading:
    """What became of the requests that one side of a rollout was given: counters that only grow."""

    answered: float = 0.0
    failed: float = 0.0
    """Broken off, not begun, or refused."""
    ttft: Histogram = Histogram()
    tpot: Histogram = Histogram()

    def since(self, former: TrackReading) -> TrackReading:
        """What came after `former`, a look at the same process or at the one before it."""
        if self.answered < former.answered or self.failed < former.failed:
            return self
        return TrackReading(
            self.answered - former.answered,
            self.failed - former.failed,
            self.ttft.since(former.ttft),
            self.tpot.since(former.tpot),
        )

    def plus(self, other: TrackReading) -> TrackReading:
        """Both together."""
        return TrackReading(
            self.answered + other.answered,
            self.failed + other.failed,
            self.ttft.plus(other.ttft),
            self.tpot.plus(other.tpot),
        )


@dataclass(frozen=True)
class GatewayReading:
    """One gateway's metrics at one moment."""

    inflight: float = 0.0
    finished: float = 0.0
    """Requests for tokens that have ended, a counter."""
    ttft: Histogram = Histogram()
    tpot: Histogram = Histogram()
    stable: TrackReading = TrackReading()
    canary: TrackReading = TrackReading()


@dataclass(frozen=True)
class Look:
    """All gateways at one moment."""

    at: datetime
    readings: Mapping[str, GatewayReading]
    """By gateway, those that answered."""
    num_gateways: int
    """How many should have answered."""
    ready_engines: int
    trouble: str = ""
    """Why gateways could not even be asked, as a sentence."""


@dataclass(frozen=True)
class Flow:
    """What went in and out lately, under the same number of ready engines."""

    seconds: float
    finished: float
    growth: float
    """Requests in flight that came on top; negative = fewer."""


@dataclass(frozen=True)
class Load:
    """What the fleet has to do, and how users feel about it."""

    inflight: int
    """Requests that gateways hold now, running and waiting."""
    ttft: Quantile | None = None
    """None = too few requests in the window."""
    tpot: Quantile | None = None
    flow: Flow | None = None
    """None = too little ended to tell a rate."""
    is_new: bool = False
    """Whether engines became ready, or went, just now: what is seen is still of former times."""
    num_silent: int = 0
    """Gateways that did not answer: their requests come on top."""


@dataclass(frozen=True)
class Blind:
    """The load cannot be seen."""

    message: str


def load(looks: Sequence[Look], now: datetime) -> Load | None:
    """The load as of the newest look, in the order of time; None when there is none that still counts.

    The window begins where the number of ready engines last changed: what was felt before says nothing about now.
    `looks` may reach back further; without the one before the change, nobody knows of it.
    """
    if not looks or not looks[-1].readings or not 0 <= _seconds(looks[-1].at, now) <= STALE_SECONDS:
        return None
    newest = looks[-1]
    window = [newest]
    for look in reversed(looks[:-1]):
        if not 0 <= _seconds(look.at, now) <= WINDOW_SECONDS or look.ready_engines != newest.ready_engines:
            break
        window.insert(0, look)
    pairs = list(pairwise(window))[::-1]
    changed = len(window) < len(looks) and looks[-len(window) - 1].ready_engines != newest.ready_engines
    settled = [pair for pair in pairs if not changed or _seconds(window[0].at, pair[0].at) >= SETTLE_SECONDS]
    return Load(
        inflight=max(0, round(sum(reading.inflight for reading in newest.readings.values()))),
        ttft=_newest(settled, lambda reading: reading.ttft).quantile(),
        tpot=_newest(settled, lambda reading: reading.tpot).quantile(),
        flow=_flow(window),
        is_new=changed and _seconds(window[0].at, newest.at) < FLOW_SECONDS,
        num_silent=max(0, newest.num_gateways - len(newest.readings)),
    )


def blindness(looks: Sequence[Look]) -> Blind:
    """Why there is no load, from the newest look."""
    newest = looks[-1] if looks else None
    if newest is None:
        return Blind("No gateway was asked yet.")
    if newest.num_gateways:
        return Blind(f"None of {newest.num_gateways} gateways answered with its metrics.")
    return Blind(newest.trouble or "No gateway takes requests.")


def _newest(pairs: Sequence[tuple[Look, Look]], pick: Callable[[GatewayReading], Histogram]) -> Histogram:
    """What was observed lately; `pairs` has the newest first."""
    found = Histogram()
    for before, after in pairs:
        for gateway in sorted(before.readings.keys() & after.readings.keys()):
            found = found.plus(pick(after.readings[gateway]).since(pick(before.readings[gateway])))
        if found.total >= SAMPLES_ENOUGH:
            break
    return found


def _flow(window: Sequence[Look]) -> Flow | None:
    """Between the newest look and the one that is far enough back for a rate."""
    newest = window[-1]
    for before in reversed(window[:-1]):
        seconds = _seconds(before.at, newest.at)
        if before.readings.keys() != newest.readings.keys():
            break
        was, now = before.readings, newest.readings
        # A process that started anew counts from zero.
        ended = [(was[name].finished, now[name].finished) for name in now]
        finished = sum(new - old if new >= old else new for old, new in ended)
        if seconds >= FLOW_SECONDS and finished >= FINISHED_MIN:
            return Flow(seconds, finished, sum(now[name].inflight - was[name].inflight for name in now))
    return None


def _seconds(then: datetime, now: datetime) -> float:
    return (now - then).total_seconds()
