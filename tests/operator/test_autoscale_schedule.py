"""Bounds by the clock of a place."""

from datetime import UTC, datetime
from typing import Any

import pytest

from flash_api.v1alpha1.autoscaling import Autoscaling
from flash_operator.plan.autoscale_schedule import Bounds, bounds


def scaling(*schedules: dict[str, Any]) -> Autoscaling:
    return Autoscaling.model_validate({"minReplicas": 2, "maxReplicas": 9, "schedules": list(schedules) or None})


OFFICE = {
    "name": "office",
    "days": ["Monday", "Friday"],
    "start": "08:00",
    "end": "18:00",
    "timeZone": "Europe/Berlin",
    "minReplicas": 4,
    "maxReplicas": 6,
}
NIGHT = {"name": "night", "days": ["Friday"], "start": "22:00", "end": "06:00", "minReplicas": 1}
AROUND = Bounds(2, 9)


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "holds"),
    [
        ("2026-01-05T06:59:59", False),  # Monday; Berlin is one hour ahead in winter
        ("2026-01-05T07:00:00", True),
        ("2026-01-05T16:59:59", True),
        ("2026-01-05T17:00:00", False),
        ("2026-01-06T12:00:00", False),  # Tuesday
        ("2026-07-06T06:00:00", True),  # two hours ahead in summer
        ("2026-07-06T16:00:00", False),
    ],
)
def test_a_schedule_follows_the_clocks_of_its_zone(now: str, holds: bool) -> None:
    assert bounds(scaling(OFFICE), utc(now)) == (Bounds(4, 6, "office") if holds else AROUND)


@pytest.mark.parametrize(
    ("now", "holds"),
    [
        ("2026-01-09T21:59:00", False),  # Friday
        ("2026-01-09T22:00:00", True),
        ("2026-01-10T05:59:00", True),  # belongs to Friday
        ("2026-01-10T06:00:00", False),
        ("2026-01-10T22:00:00", False),  # Saturday
        ("2026-01-09T05:00:00", False),  # would belong to Thursday
    ],
)
def test_a_schedule_that_ends_before_it_starts_ends_on_the_next_day(now: str, holds: bool) -> None:
    assert bounds(scaling(NIGHT), utc(now)) == (Bounds(1, 9, "night") if holds else AROUND)


@pytest.mark.parametrize(
    "now", ["2026-03-29T00:59:00", "2026-03-29T01:01:00", "2026-10-25T00:30:00", "2026-10-25T01:30:00"]
)
def test_a_night_schedule_holds_through_the_change_of_the_clocks(now: str) -> None:
    night = {"name": "night", "start": "22:00", "end": "06:00", "timeZone": "Europe/Berlin", "minReplicas": 1}
    assert bounds(scaling(night), utc(now)).schedule == "night"


def test_of_several_the_largest_minimum_counts_with_its_own_maximum() -> None:
    always = {"name": "always", "start": "00:00", "end": "23:59", "minReplicas": 3, "maxReplicas": 9}
    found = bounds(scaling(always, OFFICE, {**always, "name": "less", "minReplicas": 1}), utc("2026-01-05T12:00:00"))
    assert found == Bounds(4, 6, "office")


def test_without_schedules_the_bounds_are_those_of_the_spec() -> None:
    assert bounds(scaling(), utc("2026-01-05T12:00:00")) == AROUND
