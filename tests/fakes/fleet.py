"""A fleet of engine pods on paper: requests arrive by a trace, wait for a place, hold it for a while and are gone.

Seeded and without a clock of its own: the same trace and the same law give the same figures on every machine. A pod
takes its time to start, works on a few requests at once and gets slower the more they are.
"""

import heapq
import math
import random
from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Protocol

from flash_operator.plan.autoscale_load import Histogram


@dataclass(frozen=True)
class Pods:
    """What one engine pod can do."""

    places: int = 8
    start_seconds: float = 45.0
    prefill_seconds: float = 0.15
    token_seconds: float = 0.02
    """Per token of a request that is alone."""
    crowding_seconds: float = 0.0025
    """Per token, for each further request beside it."""
    mean_tokens: float = 100.0

    @property
    def capacity(self) -> float:
        """Requests per second of a full pod."""
        return self.places / (self.mean_tokens * (self.token_seconds + self.crowding_seconds * (self.places - 1)))


@dataclass(frozen=True)
class Trace:
    """When requests arrive, in seconds from the start, and how many tokens each asks for."""

    name: str
    seconds: float
    arrivals: tuple[tuple[float, int], ...]


def a_trace(
    name: str, rate: Callable[[float], float], *, seconds: float, peak: float, seed: int, pods: Pods = Pods()
) -> Trace:
    """A Poisson stream whose rate, at most `peak` a second, follows `rate`."""
    draw = random.Random(seed)
    arrivals, at = [], 0.0
    while (at := at + draw.expovariate(peak)) < seconds:
        tokens = 1 + int(draw.expovariate(1 / pods.mean_tokens))
        if draw.random() * peak < rate(at):
            arrivals.append((at, tokens))
    return Trace(name, seconds, tuple(arrivals))


@dataclass
class Seen:
    """What a law may look at."""

    at: float
    wanted: int
    ready: int
    inflight: int
    finished: int
    ttft: Histogram
    tpot: Histogram


class Law(Protocol):
    """Decides how many pods are wanted."""

    def __call__(self, seen: Seen) -> int: ...


@dataclass
class Outcome:
    """What became of a trace."""

    ttfts: list[float] = field(default_factory=list)
    tpots: list[float] = field(default_factory=list)
    replica_seconds: float = 0.0
    """Of pods that exist, from their creation to the end of their last request."""
    wanted: list[tuple[float, int]] = field(default_factory=list)
    """From when on how many pods were wanted, changes only."""

    def attainment(self, target_seconds: float) -> float:
        """Share of the requests with a first token within the target."""
        return sum(ttft <= target_seconds for ttft in self.ttfts) / len(self.ttfts)

    def flaps(self, within_seconds: float = 900.0) -> int:
        """Changes of direction soon after one the other way: more, fewer, more."""
        steps = [(at, after - before) for (_, before), (at, after) in pairwise(self.wanted)]
        return sum(
            (now > 0) != (then > 0) and at - since <= within_seconds for (since, then), (at, now) in pairwise(steps)
        )

    @property
    def most(self) -> int:
        return max(number for _, number in self.wanted)


@dataclass(eq=False)
class _Pod:
    created: float
    ready_at: float
    running: int = 0
    leaving: bool = False


class _Recorder:
    """A histogram that grows."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*bounds, math.inf)
        self._counts = [0] * len(self._bounds)

    def observe(self, seconds: float) -> None:
        self._counts[bisect_left(self._bounds, seconds)] += 1

    def histogram(self) -> Histogram:
        total, counts = 0, []
        for count in self._counts:
            total += count
            counts.append(float(total))
        return Histogram(self._bounds, tuple(counts))


_ARRIVAL, _END, _TICK, _READY = 3, 0, 2, 1


def play(
    trace: Trace,
    law: Law,
    *,
    first: int,
    buckets: Sequence[float],
    token_buckets: Sequence[float],
    pods: Pods = Pods(),
    tick_seconds: float = 15.0,
) -> Outcome:
    """Run the trace to the end of its last request, with `first` ready pods at the start."""
    outcome = Outcome(wanted=[(0.0, first)])
    fleet = [_Pod(0.0, 0.0) for _ in range(first)]
    queue: deque[tuple[float, int]] = deque()
    ttft, tpot = _Recorder(buckets), _Recorder(token_buckets)
    events: list[tuple[float, int, int, _Pod | None, int]] = []
    number = finished = 0

    def push(at: float, kind: int, pod: _Pod | None = None, tokens: int = 0) -> None:
        nonlocal number
        number += 1
        heapq.heappush(events, (at, kind, number, pod, tokens))

    def serve(now: float) -> None:
        while queue:
            free = [p for p in fleet if p.ready_at <= now and not p.leaving and p.running < pods.places]
            if not free:
                return
            pod = min(free, key=lambda p: p.running)
            arrived, tokens = queue.popleft()
            pace = pods.token_seconds + pods.crowding_seconds * pod.running
            pod.running += 1
            waited = now - arrived + pods.prefill_seconds
            outcome.ttfts.append(waited)
            outcome.tpots.append(pace)
            ttft.observe(waited)
            tpot.observe(pace)
            push(now + pods.prefill_seconds + tokens * pace, _END, pod)

    def leave(pod: _Pod, now: float) -> None:
        fleet.remove(pod)
        outcome.replica_seconds += now - pod.created

    def steer(now: float) -> None:
        staying = [p for p in fleet if not p.leaving]
        ready = sum(p.ready_at <= now for p in staying)
        inflight = len(queue) + sum(p.running for p in fleet)
        seen = Seen(now, len(staying), ready, inflight, finished, ttft.histogram(), tpot.histogram())
        wanted = law(seen)
        if wanted == len(staying):
            return
        outcome.wanted.append((now, wanted))
        for _ in range(wanted - len(staying)):
            fleet.append(_Pod(now, now + pods.start_seconds))
            push(now + pods.start_seconds, _READY)
        # Those that are not ready yet go first, as a ReplicaSet has it, then those with the least to finish.
        going = sorted(staying, key=lambda p: (p.ready_at <= now, p.running))[: max(0, len(staying) - wanted)]
        for pod in going:
            pod.leaving = True
            if not pod.running:
                leave(pod, now)

    for at, tokens in trace.arrivals:
        push(at, _ARRIVAL, tokens=tokens)
    push(tick_seconds, _TICK)
    now = 0.0
    while events:
        now, kind, _, pod, tokens = heapq.heappop(events)
        if kind == _ARRIVAL:
            queue.append((now, tokens))
        elif kind == _END and pod is not None:
            pod.running -= 1
            finished += 1
            if pod.leaving and not pod.running:
                leave(pod, now)
        elif kind == _TICK:
            steer(now)
            if now + tick_seconds <= trace.seconds or queue:
                push(now + tick_seconds, _TICK)
        serve(now)
    for pod in list(fleet):
        leave(pod, now)
    return outcome
