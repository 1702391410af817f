"""How the number of engine pods follows the load: targets, bounds and times of day. Knows nothing of the decision."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, StringConstraints

from flash_api.rules import Rule
from flash_api.v1alpha1.base import (
    LIST_AS_SET,
    LIST_BY_NAME,
    TIME_OF_DAY_PATTERN,
    ApiModel,
    LabelName,
    TimeZone,
    each_name_once,
    each_once,
)

REPLICAS_MAX = 1000


class ScalingProvider(StrEnum):
    """Who decides the number of engine pods."""

    BUILT_IN = "BuiltIn"
    HORIZONTAL_POD_AUTOSCALER = "HorizontalPodAutoscaler"
    KEDA = "KEDA"


class Weekday(StrEnum):
    """A day of the week."""

    MONDAY = "Monday"
    TUESDAY = "Tuesday"
    WEDNESDAY = "Wednesday"
    THURSDAY = "Thursday"
    FRIDAY = "Friday"
    SATURDAY = "Saturday"
    SUNDAY = "Sunday"


TimeOfDay = Annotated[str, StringConstraints(pattern=TIME_OF_DAY_PATTERN, min_length=5, max_length=5)]


class ScalingTargets(ApiModel):
    """What users should feel. More engine pods are started while any target is missed."""

    ttft_milliseconds: int | None = Field(
        default=None,
        ge=1,
        le=600_000,
        description="Time to the first token that nine of ten requests stay below, in milliseconds; unset = not a "
        "target. Example: 150.",
    )
    tpot_milliseconds: int | None = Field(
        default=None,
        ge=1,
        le=60_000,
        description="Time per further token that nine of ten requests stay below, in milliseconds; unset = not a "
        "target. Example: 40.",
    )
    queued_requests: int = Field(
        default=4,
        ge=1,
        le=100_000,
        description="Requests that may wait for each engine pod, as a count; holds where too few requests are "
        "measured for a percentile. Example: 4.",
    )


class ScalingSchedule(ApiModel):
    """Other bounds at certain times of the week."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="ScheduleBoundsAreOrdered",
            field="minReplicas",
            cel="!has(self.maxReplicas) || self.minReplicas <= self.maxReplicas",
            holds=lambda self: self.max_replicas is None or self.min_replicas <= self.max_replicas,
            rule="must not exceed maxReplicas ({self.maxReplicas}) of the same schedule",
            remedy="lower minReplicas or raise maxReplicas",
        ),
        Rule(
            name="ScheduleLasts",
            field="end",
            cel="self.start != self.end",
            holds=lambda self: self.start != self.end,
            rule="must differ from start ({self.start})",
            remedy="for a whole day write start 00:00 and end 23:59; an end before the start is on the next day",
        ),
    )

    name: LabelName = Field(description="Name of the schedule, for people and history. Example: office-hours.")
    days: Annotated[list[Weekday], Field(min_length=1, max_length=7), AfterValidator(each_once)] | None = Field(
        default=None,
        json_schema_extra=LIST_AS_SET,
        description="Days on which it starts; unset = every day. Example: [Monday, Friday].",
    )
    start: TimeOfDay = Field(description="Time of day at which it starts, hours and minutes. Example: 08:00.")
    end: TimeOfDay = Field(
        description="Time of day at which it ends, hours and minutes; before start = on the next day. Example: 18:30."
    )
    time_zone: TimeZone = Field(default="UTC", description="IANA time zone of start and end. Example: Europe/Berlin.")
    min_replicas: int = Field(
        ge=1, le=REPLICAS_MAX, description="Fewest engine pods while it lasts, as a count. Example: 4."
    )
    max_replicas: int | None = Field(
        default=None,
        ge=1,
        le=REPLICAS_MAX,
        description="Most engine pods while it lasts, as a count; unset = the maxReplicas around it. Example: 8.",
    )


class Autoscaling(ApiModel):
    """The number of engine pods follows the load, within bounds."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="ScalingBoundsAreOrdered",
            field="minReplicas",
            cel="self.minReplicas <= self.maxReplicas",
            holds=lambda self: self.min_replicas <= self.max_replicas,
            rule="must not exceed maxReplicas ({self.maxReplicas})",
            remedy="lower minReplicas or raise maxReplicas",
        ),
        Rule(
            name="SchedulesStayWithinBounds",
            field="schedules",
            cel="!has(self.schedules) || self.schedules.all(s, s.minReplicas <= self.maxReplicas && "
            "(!has(s.maxReplicas) || s.maxReplicas <= self.maxReplicas))",
            holds=lambda self: all(
                max(s.min_replicas, s.max_replicas or 0) <= self.max_replicas for s in self.schedules or ()
            ),
            rule="must stay within maxReplicas ({self.maxReplicas})",
            shows_value=False,
            remedy="raise autoscaling.maxReplicas, or lower the bounds of the schedule",
        ),
        Rule(
            name="OnlyTheBuiltInScalesToZero",
            field="scaleToZeroAfterSeconds",
            cel="!has(self.scaleToZeroAfterSeconds) || self.provider != 'HorizontalPodAutoscaler'",
            holds=lambda self: (
                self.scale_to_zero_after_seconds is None
                or self.provider is not ScalingProvider.HORIZONTAL_POD_AUTOSCALER
            ),
            rule="must be unset when provider is {self.provider}, which never goes below one pod",
            remedy="remove scaleToZeroAfterSeconds, or use the provider BuiltIn or KEDA",
        ),
        Rule(
            name="OnlyTheBuiltInKnowsSchedules",
            field="schedules",
            cel="!has(self.schedules) || self.provider == 'BuiltIn'",
            holds=lambda self: self.schedules is None or self.provider is ScalingProvider.BUILT_IN,
            rule="must be unset when provider is {self.provider}",
            shows_value=False,
            remedy="use the provider BuiltIn, or write the schedule in that system's own objects",
        ),
    )

    provider: ScalingProvider = Field(
        default=ScalingProvider.BUILT_IN,
        description="Who sets the number that was decided: BuiltIn = the operator, which needs nothing else; "
        "HorizontalPodAutoscaler and KEDA = an object of that kind, which is told the number as a metric. "
        "Example: BuiltIn.",
    )
    min_replicas: int = Field(
        default=1, ge=1, le=REPLICAS_MAX, description="Fewest engine pods, as a count. Example: 1."
    )
    max_replicas: int = Field(ge=1, le=REPLICAS_MAX, description="Most engine pods, as a count. Example: 8.")
    targets: ScalingTargets = Field(default=ScalingTargets(), description="What users should feel.")
    scale_down_stabilization_seconds: int = Field(
        default=300,
        ge=0,
        le=3600,
        description="Time for which the load must stay lower before an engine pod is stopped, in seconds. "
        "Example: 300.",
    )
    scale_to_zero_after_seconds: int | None = Field(
        default=None,
        ge=60,
        le=604_800,
        description="Time without a request after which no engine pod is left, in seconds; unset = never. "
        "Example: 900.",
    )
    schedules: Annotated[list[ScalingSchedule], Field(min_length=1, max_length=16), AfterValidator(each_name_once)] | (
        None
    ) = Field(
        default=None,
        json_schema_extra=LIST_BY_NAME,
        description="Other bounds at certain times of the week; where several hold, the largest minReplicas counts. "
        "Example: [{name: office, start: '08:00', end: '18:00', minReplicas: 4}].",
    )
