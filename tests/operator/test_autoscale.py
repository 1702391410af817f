"""The decision: tables for its rules, random walks for what must always hold."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flash_api.conditions import REASONS, ConditionType, Reason
from flash_api.v1alpha1.autoscaling import Autoscaling
from flash_operator.plan.autoscale import Decision, Fleet, Need, Past, decide
from flash_operator.plan.autoscale_load import Blind, Flow, Load, Quantile

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
PLACES = 16
BLIND = Blind("No gateway takes requests.")


def scaling(**fields: Any) -> Autoscaling:
    return Autoscaling.model_validate(
        {
            "minReplicas": 1,
            "maxReplicas": 10,
            "targets": {"ttftMilliseconds": 200, "tpotMilliseconds": 50, "queuedRequests": 4},
            **fields,
        }
    )


def seconds(milliseconds: float | None) -> Quantile | None:
    return None if milliseconds is None else Quantile(milliseconds / 1000, milliseconds / 1000)


def a_load(inflight: int = 8, *, ttft: float | None = 100, tpot: float | None = 20, silent: int = 0) -> Load:
    return Load(inflight, seconds(ttft), seconds(tpot), num_silent=silent)


def calm(pods: int, *, for_seconds: float = 600, until: datetime = NOON) -> list[Need]:
    """Looks every 15 s that all found so many pods enough."""
    return [Need(until - timedelta(seconds=s), pods) for s in range(int(for_seconds), 0, -15)]


def decision(
    load: Load | Blind,
    *,
    wanted: int = 2,
    ready: int | None = None,
    needs: Sequence[Need] = (),
    raised: float | None = None,
    changed: float | None = None,
    **fields: Any,
) -> Decision:
    past = Past(
        needs,
        None if raised is None else NOON - timedelta(seconds=raised),
        None if changed is None else NOON - timedelta(seconds=changed),
    )
    fleet = Fleet(wanted, wanted if ready is None else ready, PLACES)
    return decide(scaling(**fields), fleet, load, past, NOON)


@pytest.mark.parametrize(
    ("load", "wanted", "replicas", "reason"),
    [
        (a_load(), 2, 2, Reason.WITHIN_TARGETS),
        (a_load(40), 2, 2, Reason.WITHIN_TARGETS),
        (a_load(41), 2, 3, Reason.QUEUE_ABOVE_TARGET),
        (a_load(200), 1, 5, Reason.QUEUE_ABOVE_TARGET),
        (a_load(200), 3, 7, Reason.QUEUE_ABOVE_TARGET),
        (a_load(200), 6, 10, Reason.QUEUE_ABOVE_TARGET),
        (a_load(ttft=200), 2, 2, Reason.WITHIN_TARGETS),
        (a_load(ttft=220), 2, 3, Reason.TTFT_ABOVE_TARGET),
        (a_load(ttft=9000), 4, 6, Reason.TTFT_ABOVE_TARGET),
        (a_load(tpot=60), 5, 6, Reason.TPOT_ABOVE_TARGET),
        (a_load(ttft=220, tpot=75), 4, 6, Reason.TPOT_ABOVE_TARGET),
        (a_load(ttft=None, tpot=None), 2, 2, Reason.WITHIN_TARGETS),
        (a_load(300, ttft=9000), 10, 10, Reason.AT_MAXIMUM),
    ],
)
def test_the_law(load: Load, wanted: int, replicas: int, reason: Reason) -> None:
    found = decision(load, wanted=wanted)
    assert (found.replicas, found.reason) == (replicas, reason)


def test_the_sentence_has_the_figures() -> None:
    assert decision(a_load(ttft=240)).message == "p90 TTFT 240 ms, target 200 ms."
    assert decision(a_load(50)).message == "18 requests wait for 2 ready pods, target 4 each."


def test_pods_that_start_get_their_chance_before_latency_adds_more() -> None:
    found = decision(a_load(40, ttft=3000), wanted=4, ready=2)
    assert (found.replicas, found.reason) == (4, Reason.PODS_ARE_STARTING)
    assert found.message == "p90 TTFT 3000 ms, target 200 ms; 2 pods are starting."


def test_pods_that_start_do_not_hide_a_queue_too_long_for_all_of_them() -> None:
    found = decision(a_load(81), wanted=4, ready=2)
    assert (found.replicas, found.reason) == (5, Reason.QUEUE_ABOVE_TARGET)


def flowing(inflight: int, *, finished: float, growth: float, ttft: float | None = None) -> Load:
    return Load(inflight, seconds(ttft), None, Flow(15, finished, growth))


@pytest.mark.parametrize(
    ("load", "replicas"),
    [
        (flowing(80, finished=60, growth=60), 4),
        (flowing(70, finished=60, growth=0), 3),
        (flowing(80, finished=60, growth=-60), 2),
        (flowing(200, finished=60, growth=200), 6),
        (flowing(41, finished=60, growth=600), 3),
    ],
    ids=["twice as many arrive", "only the queue", "it clears", "damped", "never more than the queue fills"],
)
def test_a_queue_asks_for_what_keeps_up_and_clears_it(load: Load, replicas: int) -> None:
    assert decision(load).replicas == replicas


def test_latency_of_a_queue_that_clears_adds_nothing() -> None:
    found = decision(flowing(40, finished=90, growth=-20, ttft=9000))
    assert (found.replicas, found.reason) == (2, Reason.PODS_ARE_STARTING)
    assert found.message == "p90 TTFT 9000 ms, target 200 ms; the queue gets shorter by itself."
    slowly = decision(flowing(40, finished=90, growth=-1, ttft=9000))
    assert slowly.reason is Reason.TTFT_ABOVE_TARGET


def test_engines_that_have_just_become_ready_get_a_look_of_their_own() -> None:
    found = decision(Load(200, None, None, is_new=True))
    assert (found.replicas, found.reason) == (2, Reason.PODS_ARE_STARTING)


@pytest.mark.parametrize(("ago", "replicas"), [(5, 2), (14.9, 2), (15, 6)])
def test_raises_keep_a_distance(ago: float, replicas: int) -> None:
    assert decision(a_load(150), raised=ago, changed=ago).replicas == replicas


def test_a_raise_right_after_a_step_down_does_not_wait() -> None:
    assert decision(a_load(150), raised=900, changed=1).replicas == 6


@pytest.mark.parametrize(
    ("needs", "replicas", "reason"),
    [
        (calm(1), 4, Reason.LOAD_BELOW_TARGETS),
        (calm(1, for_seconds=285), 5, Reason.STABILIZING),
        (calm(4), 4, Reason.LOAD_BELOW_TARGETS),
        (calm(5, for_seconds=600)[:-15] + calm(1, for_seconds=225), 5, Reason.STABILIZING),
        ([Need(NOON - timedelta(seconds=400), 1), *calm(1, for_seconds=200)], 5, Reason.STABILIZING),
        ([], 5, Reason.WITHIN_TARGETS),
        (calm(5), 5, Reason.WITHIN_TARGETS),
        (calm(1, until=NOON + timedelta(seconds=900)), 5, Reason.WITHIN_TARGETS),
    ],
    ids=["all calm", "not long enough", "one less", "a peak", "unseen time", "just started", "busy", "clock went back"],
)
def test_pods_go_only_after_every_moment_got_by_with_fewer(needs: list[Need], replicas: int, reason: Reason) -> None:
    found = decision(a_load(4), wanted=5, needs=needs)
    assert (found.replicas, found.reason) == (replicas, reason)


@pytest.mark.parametrize(("wanted", "replicas"), [(10, 8), (8, 7), (3, 2), (2, 1)])
def test_a_fifth_goes_at_once_and_one_at_least(wanted: int, replicas: int) -> None:
    assert decision(a_load(1), wanted=wanted, needs=calm(1)).replicas == replicas


def test_the_next_step_down_waits_until_the_last_one_can_be_seen() -> None:
    assert decision(a_load(1), wanted=5, needs=calm(1), changed=59).reason is Reason.STABILIZING
    assert decision(a_load(1), wanted=5, needs=calm(1), changed=60).reason is Reason.LOAD_BELOW_TARGETS


@pytest.mark.parametrize(
    ("load", "need"),
    [
        (a_load(0, ttft=None, tpot=None), 1),
        (a_load(12, ttft=None, tpot=None), 1),
        (a_load(13, ttft=None, tpot=None), 2),
        (a_load(64, ttft=None, tpot=None), 5),
        (a_load(5, ttft=195), 5),
        (a_load(3, ttft=195), 3),
        (a_load(20, ttft=90), 3),
        (a_load(20, tpot=46), 5),
    ],
    ids=[
        "idle",
        "one is enough",
        "no place would be spare",
        "five",
        "near the target",
        "one request a pod",
        "half",
        "tpot",
    ],
)
def test_the_need_leaves_room_for_what_fewer_pods_would_feel(load: Load, need: int) -> None:
    assert decision(load, wanted=5).need == need


@pytest.mark.parametrize("wanted", [1, 4, 10])
def test_without_metrics_the_number_stays(wanted: int) -> None:
    found = decision(BLIND, wanted=wanted, needs=calm(1))
    assert (found.replicas, found.reason, found.message) == (wanted, Reason.METRICS_MISSING, BLIND.message)
    assert found.need == wanted, "what was not seen was needed"


def test_a_silent_gateway_allows_more_pods_and_never_fewer() -> None:
    assert decision(a_load(200, silent=1)).replicas == 6
    kept = decision(a_load(0, silent=1), wanted=5, needs=calm(1))
    assert (kept.replicas, kept.reason, kept.message) == (5, Reason.METRICS_MISSING, "1 gateway does not answer.")


def test_bounds_hold_at_once_and_without_metrics() -> None:
    low, high = decision(BLIND, wanted=1, minReplicas=3), decision(BLIND, wanted=9, maxReplicas=4)
    assert (low.replicas, low.reason, low.message) == (3, Reason.AT_MINIMUM, "minReplicas is 3.")
    assert (high.replicas, high.reason, high.message) == (4, Reason.AT_MAXIMUM, "maxReplicas is 4.")


def test_at_the_minimum_the_status_says_so() -> None:
    found = decision(a_load(0), wanted=3, needs=calm(1), minReplicas=3)
    assert (found.replicas, found.reason) == (3, Reason.AT_MINIMUM)


LUNCH = {"name": "lunch", "start": "11:00", "end": "13:00", "minReplicas": 4, "maxReplicas": 6}


@pytest.mark.parametrize(
    ("load", "wanted", "replicas"), [(BLIND, 1, 4), (a_load(0), 4, 4), (a_load(500), 6, 6), (BLIND, 9, 6)]
)
def test_the_bounds_of_a_schedule_are_named(load: Load | Blind, wanted: int, replicas: int) -> None:
    found = decision(load, wanted=wanted, needs=calm(1), schedules=[LUNCH])
    assert (found.replicas, found.reason, found.schedule) == (replicas, Reason.SCHEDULE_HOLDS, "lunch")


def test_within_a_schedule_the_load_decides() -> None:
    found = decision(a_load(90), wanted=4, schedules=[LUNCH])
    assert (found.replicas, found.reason, found.schedule) == (5, Reason.QUEUE_ABOVE_TARGET, "lunch")


@pytest.mark.parametrize(
    ("field", "value", "situation"),
    [
        ("maxReplicas", 3, {"load": a_load(200)}),
        ("minReplicas", 2, {"load": a_load(0), "needs": calm(1)}),
        ("scaleDownStabilizationSeconds", 30, {"load": a_load(0), "needs": calm(1, for_seconds=60)}),
        ("schedules", [LUNCH], {"load": a_load()}),
        ("targets", {"ttftMilliseconds": 90}, {"load": a_load()}),
        ("targets", {"tpotMilliseconds": 10}, {"load": a_load()}),
        ("targets", {"queuedRequests": 50, "ttftMilliseconds": 200}, {"load": a_load(50)}),
    ],
)
def test_every_field_decides(field: str, value: Any, situation: dict[str, Any]) -> None:
    assert decision(**situation).replicas != decision(**situation, **{field: value}).replicas


LOADS = st.one_of(
    st.just(BLIND),
    st.builds(
        a_load,
        st.integers(0, 500),
        ttft=st.none() | st.floats(0, 1e5),
        tpot=st.none() | st.floats(0, 1e5),
        silent=st.integers(0, 2),
    ),
    st.builds(
        flowing,
        st.integers(0, 500),
        finished=st.floats(10, 1e4),
        growth=st.floats(-500, 500),
        ttft=st.none() | st.floats(0, 1e5),
    ),
)


@settings(max_examples=300)
@given(
    load=LOADS,
    wanted=st.integers(0, 40),
    starting=st.integers(0, 5),
    low=st.integers(1, 5),
    more=st.integers(0, 20),
    needs=st.lists(st.tuples(st.integers(0, 700), st.integers(0, 30)), max_size=30),
    raised=st.none() | st.floats(0, 100),
    stabilization=st.sampled_from([0, 15, 60, 300]),
)
def test_whatever_is_seen_the_number_is_within_bounds_and_the_step_is_small(
    load: Load | Blind,
    wanted: int,
    starting: int,
    low: int,
    more: int,
    needs: list[tuple[int, int]],
    raised: float | None,
    stabilization: int,
) -> None:
    memory = [Need(NOON - timedelta(seconds=age), pods) for age, pods in sorted(needs, reverse=True)]
    fields: dict[str, Any] = {"minReplicas": low, "maxReplicas": low + more}
    found = decision(
        load,
        wanted=wanted,
        ready=max(0, wanted - starting),
        needs=memory,
        raised=raised,
        changed=raised,
        scaleDownStabilizationSeconds=stabilization,
        **fields,
    )
    assert 1 <= low <= found.replicas <= low + more
    assert found.reason in REASONS[ConditionType.SCALING_ACTIVE]
    assert found.message.endswith(".")
    if low <= wanted <= low + more:
        assert found.replicas <= max(wanted + 4, 2 * wanted)
        assert found.replicas >= wanted - max(1, wanted // 5)
        if isinstance(load, Blind):
            assert found.replicas == wanted
        if found.replicas < wanted:
            assert found.reason is Reason.LOAD_BELOW_TARGETS
            assert isinstance(load, Load)
            assert load.num_silent == 0


@given(st.integers(1, 10), st.integers(0, 400), st.integers(0, 400))
def test_more_requests_never_want_fewer_pods(wanted: int, some: int, more: int) -> None:
    few, many = (decision(a_load(n, ttft=None, tpot=None), wanted=wanted) for n in (some, some + more))
    assert few.replicas <= many.replicas
    assert few.need <= many.need
