"""How many engine pods, and why. Pure: load, targets, pods, memory and the time in, a number and its reason out.

The law is `s = max(p90 TTFT / target, p90 TPOT / target, queue)`, where `queue` is the requests in flight over those
that the pods may hold: as many as run at once plus `queuedRequests` waiting, each. Above 1, pods are added.

Up is fast and bounded: pods that were asked for but are not ready are credited, so latency, which lags, adds none
until they have had their chance, and only a queue too long for all of them does. A queue that has piled up while pods
start is no demand: where enough requests end to tell a rate, it asks for what keeps up and clears it in time.

Down is slow: every moment of the stabilization must have got by with fewer, and then a fifth of the pods goes at most.
What was not seen was needed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from flash_api.conditions import Reason
from flash_api.v1alpha1.autoscaling import Autoscaling
from flash_operator.plan.autoscale_load import Blind, Load, Quantile
from flash_operator.plan.autoscale_schedule import Bounds, bounds

QUEUE_FACTOR: Final = 2.0
"""Most growth of one decision for a queue, which says how many pods are missing."""
QUEUE_STEP: Final = 4
"""Growth that is always allowed for a queue: twice a small number is still small."""
LATENCY_FACTOR: Final = 1.5
"""Most growth of one decision for latency, which tells that pods are missing but not how many: it leaps."""
CLEARING_SECONDS: Final = 20.0
"""Time in which a queue that has piled up should be gone."""
RAISE_PAUSE_SECONDS: Final = 15.0
"""From one raise to the next: the interval at which a HorizontalPodAutoscaler looks too."""
SPARE: Final = 0.8
"""Share of its places that a pod may have filled after others have gone."""
CALM: Final = 0.9
"""Share of a target that may be expected after pods have gone."""
LOWER_STEP: Final = 0.2
"""Share of the pods that goes at once, one at least."""
LOWER_PAUSE_SECONDS: Final = 60.0
"""From one change to the next step down: the time in which its effect can be seen."""
GAP_SECONDS: Final = 60.0
"""A longer silence between two remembered needs is time that nobody saw."""


@dataclass(frozen=True)
class Fleet:
    """Engine pods."""

    wanted: int
    """As decided before, ready or not."""
    ready: int
    places: int
    """Requests that one pod works on at once."""

    @property
    def starting(self) -> int:
        return max(0, self.wanted - self.ready)


@dataclass(frozen=True)
class Need:
    """How many pods were needed at one moment."""

    at: datetime
    pods: int


@dataclass(frozen=True)
class Past:
    """What earlier decisions left behind."""

    needs: Sequence[Need] = ()
    """In the order of time; may reach back further than it matters."""
    raised_at: datetime | None = None
    changed_at: datetime | None = None


@dataclass(frozen=True)
class Decision:
    """How many pods from now on."""

    replicas: int
    reason: Reason
    message: str
    schedule: str = ""
    need: int = 0
    """How many would do at this moment, for the memory: as many as there are where it could not be seen."""


def decide(autoscaling: Autoscaling, fleet: Fleet, load: Load | Blind, past: Past, now: datetime) -> Decision:
    """The number of engine pods. Always within the bounds that hold now, whatever else is known."""
    limits = bounds(autoscaling, now)
    verdict = _Verdict(autoscaling, fleet, limits, past, now)
    if limits.clamp(fleet.wanted) != fleet.wanted:
        return verdict.into_bounds()
    if isinstance(load, Blind):
        return verdict.keep(Reason.METRICS_MISSING, load.message, fleet.wanted)
    return verdict.of(load)


@dataclass(frozen=True)
class _Verdict:
    """The steps of one decision, with what they have in common."""

    autoscaling: Autoscaling
    fleet: Fleet
    limits: Bounds
    past: Past
    now: datetime

    def into_bounds(self) -> Decision:
        """The bounds are an order, not a wish: they need no load and no patience."""
        replicas = self.limits.clamp(self.fleet.wanted)
        low = replicas > self.fleet.wanted
        reason = Reason.AT_MINIMUM if low else Reason.AT_MAXIMUM
        message = f"{'minReplicas' if low else 'maxReplicas'} is {replicas}."
        if self.limits.schedule:
            reason, message = Reason.SCHEDULE_HOLDS, f"{message[:-1]} while the schedule {self.limits.schedule} holds."
        return Decision(replicas, reason, message, self.limits.schedule, need=replicas)

    def of(self, load: Load) -> Decision:
        """By the load, within the bounds."""
        wanted, reason, sentence = self._raise(load)
        if wanted > self.fleet.wanted:
            return self._up(load, wanted, reason, sentence)
        return self._down(load)

    def keep(self, reason: Reason, message: str, need: int) -> Decision:
        return Decision(self.fleet.wanted, reason, message, self.limits.schedule, need)

    def _raise(self, load: Load) -> tuple[int, Reason, str]:
        """What the law asks for before it is damped, and by which of its terms."""
        targets = self.autoscaling.targets
        found = [(self._for_the_queue(load), Reason.QUEUE_ABOVE_TARGET, self._queue(load))]
        for name, measured, target, reason in (
            ("TTFT", load.ttft, targets.ttft_milliseconds, Reason.TTFT_ABOVE_TARGET),
            ("TPOT", load.tpot, targets.tpot_milliseconds, Reason.TPOT_ABOVE_TARGET),
        ):
            if measured is not None and target is not None and (ratio := measured.against(target / 1000)) > 1:
                pods = math.ceil(self.fleet.wanted * min(ratio, LATENCY_FACTOR))
                found.append((pods, reason, f"p90 {name} {_milliseconds(measured)} ms, target {target} ms"))
        return max(found, key=lambda item: item[0])

    def _for_the_queue(self, load: Load) -> int:
        fleet, flow = self.fleet, load.flow
        to_hold = math.ceil(load.inflight / (fleet.places + self.autoscaling.targets.queued_requests))
        if flow is None or not fleet.ready:
            return to_hold
        each = flow.finished / flow.seconds / fleet.ready  # requests per second of one pod
        waiting = max(0, load.inflight - fleet.ready * fleet.places)
        arriving = max(0.0, flow.finished + flow.growth) / flow.seconds
        return min(to_hold, math.ceil((arriving + waiting / CLEARING_SECONDS) / each))

    def _queue(self, load: Load) -> str:
        waiting = max(0, load.inflight - self.fleet.ready * self.fleet.places)
        pods = "1 ready pod" if self.fleet.ready == 1 else f"{self.fleet.ready} ready pods"
        return f"{waiting} requests wait for {pods}, target {self.autoscaling.targets.queued_requests} each"

    def _up(self, load: Load, wanted: int, reason: Reason, sentence: str) -> Decision:
        fleet = self.fleet
        if fleet.wanted >= self.limits.maximum:
            why = Reason.SCHEDULE_HOLDS if self._bound_by_schedule(self.limits.maximum) else Reason.AT_MAXIMUM
            return self.keep(why, f"{sentence}; maxReplicas is {self.limits.maximum}.", wanted)
        grown = self._for_the_queue(load) > fleet.wanted
        if (fleet.starting and not grown) or load.is_new or _within(RAISE_PAUSE_SECONDS, self.past.raised_at, self.now):
            pods = "1 pod is" if fleet.starting == 1 else f"{fleet.starting or 'new'} pods are"
            return self.keep(Reason.PODS_ARE_STARTING, f"{sentence}; {pods} starting.", wanted)
        if not grown and self._clears(load):
            return self.keep(Reason.PODS_ARE_STARTING, f"{sentence}; the queue gets shorter by itself.", wanted)
        most = max(fleet.wanted + QUEUE_STEP, math.floor(fleet.wanted * QUEUE_FACTOR)) if grown else wanted
        replicas = self.limits.clamp(min(wanted, most))
        return Decision(replicas, reason, f"{sentence}.", self.limits.schedule, need=wanted)

    def _clears(self, load: Load) -> bool:
        """Whether the queue will be gone in time: those who leave it have waited long, and those who come will not."""
        waiting = load.inflight - self.fleet.ready * self.fleet.places
        if load.flow is None or waiting <= 0:
            return False
        return waiting <= CLEARING_SECONDS * -load.flow.growth / load.flow.seconds

    def _down(self, load: Load) -> Decision:
        fleet, now = self.fleet, self.now
        if load.num_silent:
            silent = "1 gateway does" if load.num_silent == 1 else f"{load.num_silent} gateways do"
            return self.keep(Reason.METRICS_MISSING, f"{silent} not answer.", fleet.wanted)
        need = min(fleet.wanted, self._would_do(load))
        seconds = self.autoscaling.scale_down_stabilization_seconds
        needs = (*self.past.needs, Need(now, need))
        lately = _most(needs, min(seconds, LOWER_PAUSE_SECONDS), now)
        if lately is None or lately >= fleet.wanted:
            return self.keep(Reason.WITHIN_TARGETS, self._state(load), need)
        if fleet.wanted <= self.limits.minimum:
            why = Reason.SCHEDULE_HOLDS if self._bound_by_schedule(self.limits.minimum) else Reason.AT_MINIMUM
            return self.keep(why, f"{_pods(lately)} would do; minReplicas is {self.limits.minimum}.", need)
        throughout = _most(needs, seconds, now)
        pause = min(LOWER_PAUSE_SECONDS, seconds)
        if throughout is None or throughout >= fleet.wanted or _within(pause, self.past.changed_at, now):
            return self.keep(Reason.STABILIZING, f"{_pods(lately)} would do; stable for {seconds} s first.", need)
        step = max(1, math.floor(fleet.wanted * LOWER_STEP))
        replicas = self.limits.clamp(max(throughout, fleet.wanted - step))
        message = f"{_pods(throughout)} would have done for {seconds} s."
        return Decision(replicas, Reason.LOAD_BELOW_TARGETS, message, self.limits.schedule, need)

    def _would_do(self, load: Load) -> int:
        """The fewest pods that would keep places spare and latencies calm.

        A latency is taken to grow with the requests that share a pod, and with nothing below one of them.
        """
        enough = max(1, math.ceil(load.inflight / (self.fleet.places * SPARE)))
        targets = self.autoscaling.targets
        for measured, target in ((load.ttft, targets.ttft_milliseconds), (load.tpot, targets.tpot_milliseconds)):
            if measured is None or target is None or not load.inflight:
                continue
            room = max(1.0, CALM / max(measured.against(target / 1000), 1e-9))
            shared = max(1.0, load.inflight / max(1, self.fleet.ready))
            enough = max(enough, math.ceil(load.inflight / (room * shared)))
        return enough

    def _state(self, load: Load) -> str:
        figures = [
            f"p90 {name} {_milliseconds(measured)} ms, target {target} ms"
            for name, measured, target in (
                ("TTFT", load.ttft, self.autoscaling.targets.ttft_milliseconds),
                ("TPOT", load.tpot, self.autoscaling.targets.tpot_milliseconds),
            )
            if measured is not None and target is not None
        ]
        return "; ".join([*figures, self._queue(load)]) + "."

    def _bound_by_schedule(self, bound: int) -> bool:
        spec = self.autoscaling
        return bool(self.limits.schedule) and bound not in (spec.min_replicas, spec.max_replicas)


def _most(needs: Sequence[Need], seconds: float, now: datetime) -> int | None:
    """The largest need of the last seconds; None when not all of them were seen."""
    most, seen_from = 0, now
    for need in reversed(needs):
        age = (now - need.at).total_seconds()
        if age < 0 or (seen_from - need.at).total_seconds() > GAP_SECONDS:
            return None
        most, seen_from = max(most, need.pods), need.at
        if age >= seconds:
            return most
    return None


def _within(seconds: float, then: datetime | None, now: datetime) -> bool:
    return then is not None and 0 <= (now - then).total_seconds() < seconds


def _milliseconds(measured: Quantile) -> int:
    return round(measured.estimate * 1000)


def _pods(number: int) -> str:
    return "1 pod" if number == 1 else f"{number} pods"
