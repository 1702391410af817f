"""Ways to choose the number of pods of the fleet on paper: the operator's own, and what it is compared with."""

import math
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from fakes.fleet import Pods, Seen

from flash_api.v1alpha1.autoscaling import Autoscaling
from flash_api.v1alpha1.status_details import ScalingStatus
from flash_operator.plan.autoscale import Decision, Fleet, Need, Past, decide
from flash_operator.plan.autoscale_load import GatewayReading, Look, blindness, load
from flash_operator.plan.autoscale_record import changed_at, raised_at, record

START = datetime(2026, 1, 5, tzinfo=UTC)


@dataclass
class Ours:
    """The operator's law with the memory that the operator keeps around it."""

    autoscaling: Autoscaling
    pods: Pods = field(default_factory=Pods)
    looks: list[Look] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)
    status: ScalingStatus | None = None
    decisions: list[Decision] = field(default_factory=list)

    def __call__(self, seen: Seen) -> int:
        now = START + timedelta(seconds=seen.at)
        reading = GatewayReading(seen.inflight, seen.finished, seen.ttft, seen.tpot)
        self.looks = [*self.looks[-8:], Look(now, {"gateway": reading}, 1, seen.ready)]
        fleet = Fleet(seen.wanted, seen.ready, self.pods.places)
        past = Past(self.needs, raised_at(self.status), changed_at(self.status))
        decision = decide(self.autoscaling, fleet, load(self.looks, now) or blindness(self.looks), past, now)
        self.status = record(self.status, decision, now)
        self.needs.append(Need(now, decision.need))
        self.decisions.append(decision)
        return decision.replicas


@dataclass
class Static:
    """Always as many."""

    replicas: int

    def __call__(self, seen: Seen) -> int:
        return self.replicas


@dataclass
class Hpa:
    """The arithmetic of a HorizontalPodAutoscaler with its defaults, on requests in flight per pod or on p90 TTFT.

    `ceil(current * metric / target)` every 15 s with 10 % tolerance, doubling or four more at most, and down only to
    the largest number wanted in 300 s.
    """

    minimum: int
    maximum: int
    inflight_per_pod: float | None = None
    ttft_seconds: float | None = None
    wishes: list[tuple[float, int]] = field(default_factory=list)
    looks: list[Seen] = field(default_factory=list)

    def __call__(self, seen: Seen) -> int:
        self.looks = [*self.looks[-4:], seen]
        wish = min(max(self._wish(seen), self.minimum), self.maximum, max(seen.wanted + 4, 2 * seen.wanted))
        self.wishes = [(at, number) for at, number in self.wishes if seen.at - at <= 300] + [(seen.at, wish)]
        return wish if wish >= seen.wanted else min(seen.wanted, max(number for _, number in self.wishes))

    def _wish(self, seen: Seen) -> int:
        if self.inflight_per_pod is not None:
            ratio = seen.inflight / (seen.wanted * self.inflight_per_pod)
        else:
            measured = seen.ttft.since(self.looks[0].ttft).quantile()
            if measured is None or self.ttft_seconds is None:
                return seen.wanted
            ratio = measured.estimate / self.ttft_seconds
        return seen.wanted if abs(ratio - 1) <= 0.1 else math.ceil(seen.wanted * ratio)
