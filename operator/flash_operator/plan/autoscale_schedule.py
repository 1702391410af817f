"""Which bounds hold at a moment: those of the spec, or of a schedule that lasts just then. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

from flash_api.v1alpha1.autoscaling import Autoscaling, ScalingSchedule, Weekday

_WEEK = tuple(Weekday)


@dataclass(frozen=True)
class Bounds:
    """Fewest and most engine pods."""

    minimum: int
    maximum: int
    schedule: str = ""
    """The schedule that they come from; empty = none holds."""

    def clamp(self, replicas: int) -> int:
        return min(max(replicas, self.minimum), self.maximum)


def bounds(autoscaling: Autoscaling, now: datetime) -> Bounds:
    """Those of the schedule that holds now; of several, of the one with the largest minReplicas.

    `now` has a time zone.
    """
    holding = [schedule for schedule in autoscaling.schedules or () if holds(schedule, now)]
    if not holding:
        return Bounds(autoscaling.min_replicas, autoscaling.max_replicas)
    most = max(holding, key=lambda s: (s.min_replicas, s.max_replicas or autoscaling.max_replicas, s.name))
    return Bounds(most.min_replicas, most.max_replicas or autoscaling.max_replicas, most.name)


def holds(schedule: ScalingSchedule, now: datetime) -> bool:
    """Whether it lasts now: from its start on, by the clocks of its zone, and no longer at its end."""
    local = now.astimezone(ZoneInfo(schedule.time_zone))
    start, end, clock = time.fromisoformat(schedule.start), time.fromisoformat(schedule.end), local.time()
    if start < end:
        return start <= clock < end and _is_due(schedule, local)
    # It ends on the day after the one that it belongs to.
    return (clock >= start and _is_due(schedule, local)) or (
        clock < end and _is_due(schedule, local - timedelta(days=1))
    )


def _is_due(schedule: ScalingSchedule, day: datetime) -> bool:
    return schedule.days is None or _WEEK[day.weekday()] in schedule.days
