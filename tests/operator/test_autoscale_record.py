"""What status.scaling keeps of decisions."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from flash_api.conditions import Reason
from flash_api.v1alpha1.status_details import HISTORY_MAX, ScalingStatus
from flash_operator.plan.autoscale import Decision
from flash_operator.plan.autoscale_record import changed_at, raised_at, record, recorded

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


def decided(replicas: int, reason: Reason = Reason.WITHIN_TARGETS, message: str = "fine.") -> Decision:
    return Decision(replicas, reason, message)


def test_the_first_number_is_no_change() -> None:
    first = record(None, decided(3), NOON)
    assert (first.desired_replicas, first.last_scale_time, first.history) == (3, None, [])


def test_the_same_decision_with_other_figures_changes_nothing() -> None:
    first = record(None, decided(3, message="p90 TTFT 90 ms."), NOON)
    assert record(first, decided(3, message="p90 TTFT 91 ms."), NOON + timedelta(seconds=15)) is first


def test_another_reason_is_told_without_an_event() -> None:
    first = record(None, decided(3), NOON)
    told = record(first, decided(3, Reason.AT_MAXIMUM, "p90 TTFT 300 ms."), NOON)
    assert (told.reason, told.message, told.history, told.last_scale_time) == (
        "AtMaximum",
        "p90 TTFT 300 ms.",
        [],
        None,
    )


def test_changes_are_kept_newest_first_and_not_for_ever() -> None:
    status: ScalingStatus | None = None
    for number in range(1, HISTORY_MAX + 5):
        reason = Reason.TTFT_ABOVE_TARGET
        status = record(status, decided(number, reason, f"step {number}."), NOON + timedelta(minutes=number))
    assert status is not None
    assert len(status.history) == HISTORY_MAX
    newest = status.history[0]
    assert (newest.from_replicas, newest.to_replicas, newest.time) == (13, 14, "2026-01-05T12:14:00Z")
    assert status.last_scale_time == newest.time
    assert ScalingStatus.model_validate(status.model_dump(by_alias=True)) == status


def test_times_of_changes_and_of_raises_are_read_back() -> None:
    status = record(record(None, decided(2), NOON), decided(4), NOON)
    lowered = record(status, decided(3), NOON + timedelta(minutes=5))
    assert (raised_at(lowered), changed_at(lowered)) == (NOON, NOON + timedelta(minutes=5))
    assert (raised_at(None), changed_at(None)) == (None, None)


@pytest.mark.parametrize(
    "status",
    [
        {},
        {"scaling": {}},
        {"scaling": {"desiredReplicas": -1}},
        {"scaling": {"reason": "FromTheFuture"}},
        {"scaling": 3},
    ],
)
def test_a_record_that_is_not_ours_is_no_record(status: dict[str, Any]) -> None:
    assert recorded(status) is None


def test_a_broken_time_is_no_time() -> None:
    status = ScalingStatus(desired_replicas=2, last_scale_time="yesterday")
    assert changed_at(status) is None
