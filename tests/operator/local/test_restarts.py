"""How long a failing container waits."""

from __future__ import annotations

from flash_operator.local.restarts import RestartPolicy


def test_the_pause_doubles_up_to_a_minute() -> None:
    pauses = [RestartPolicy().delay_seconds(failures) for failures in range(1, 9)]
    assert pauses == [1, 2, 4, 8, 16, 32, 60, 60]


def test_a_thousand_failures_still_wait_a_minute() -> None:
    assert RestartPolicy().delay_seconds(1000) == 60


def test_a_stable_run_is_forgiven() -> None:
    policy = RestartPolicy(stable_seconds=60)
    assert policy.failures(5, ran_seconds=60) == 1
    assert policy.failures(5, ran_seconds=59) == 6
