"""Windows, percentiles and their limits, from looks at growing histograms."""

import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_operator.plan.autoscale_load import (
    SAMPLES_MIN,
    Flow,
    GatewayReading,
    Histogram,
    Load,
    Look,
    Quantile,
    blindness,
    load,
)

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
BOUNDS = (0.1, 0.2, 0.4, math.inf)


def histogram(*each: int) -> Histogram:
    """By the number of observations in each bucket."""
    return Histogram(BOUNDS, tuple(float(sum(each[: i + 1])) for i in range(len(each))))


def reading(*each: int, inflight: float = 0, finished: float = 0) -> GatewayReading:
    return GatewayReading(inflight, finished, histogram(*(each or (0, 0, 0, 0))), Histogram())


def look(seconds_ago: float, *readings: GatewayReading, ready: int = 2, gateways: int | None = None) -> Look:
    named = {f"g{number}": each for number, each in enumerate(readings)}
    return Look(NOON - timedelta(seconds=seconds_ago), named, len(readings) if gateways is None else gateways, ready)


def ttft(*looks: Look) -> Quantile | None:
    found = load(looks, NOON)
    assert found is not None
    return found.ttft


def test_the_window_is_the_difference_of_two_looks() -> None:
    slow_past = (0, 0, 0, 1000)
    quantile = ttft(look(30, reading(*slow_past)), look(0, reading(40, 0, 0, 1000)))
    assert quantile is not None
    assert quantile.estimate == pytest.approx(0.09)


def test_gateways_are_summed() -> None:
    before, after = look(30, reading(), reading()), look(0, reading(50, 0, 0, 0), reading(0, 0, 50, 0))
    quantile = ttft(before, after)
    assert quantile is not None
    assert (quantile.at_least, quantile.estimate) == (0.2, pytest.approx(0.36))
    found = load([look(0, reading(inflight=3), reading(inflight=4))], NOON)
    assert found is not None
    assert found.inflight == 7


def test_a_gateway_that_started_anew_counts_from_zero() -> None:
    quantile = ttft(look(30, reading(900, 0, 0, 0)), look(0, reading(0, 30, 0, 0)))
    assert quantile is not None
    assert quantile.at_least == 0.1


def test_a_gateway_that_is_seen_for_the_first_time_brings_no_past() -> None:
    assert ttft(look(30, reading()), look(0, reading(), reading(0, 0, 0, 500))) is None


def test_two_releases_of_the_gateway_meet_at_the_bounds_they_share() -> None:
    fine = Histogram((0.1, 0.15, 0.2, 0.4, math.inf), (10.0, 20.0, 30.0, 30.0, 30.0))
    assert fine.plus(histogram(5, 0, 0, 0)) == Histogram(BOUNDS, (15.0, 35.0, 35.0, 35.0))


def test_too_few_requests_make_no_percentile() -> None:
    assert ttft(look(30, reading()), look(0, reading(SAMPLES_MIN - 1, 0, 0, 0))) is None
    assert ttft(look(30, reading()), look(0, reading(SAMPLES_MIN, 0, 0, 0))) is not None
    assert ttft(look(0, reading(1000, 0, 0, 0))) is None, "one look is no window"


def test_what_was_felt_with_another_number_of_engines_is_past() -> None:
    looks = [look(45, reading()), look(30, reading(0, 0, 0, 90)), look(15, reading(0, 0, 0, 91), ready=3)]
    assert ttft(*looks) is None
    assert ttft(*looks[:2], look(15, reading(0, 0, 0, 91))) is not None


def test_those_who_queued_for_new_engines_are_not_asked_how_it_was() -> None:
    grown = [look(45, reading(), ready=1), look(40, reading()), look(25, reading(0, 0, 0, 90))]
    assert ttft(*grown, look(10, reading(0, 0, 0, 190))) is None
    quantile = ttft(*grown, look(10, reading(0, 0, 0, 190)), look(0, reading(60, 0, 0, 190)))
    assert quantile is not None
    assert quantile.at_least == 0


def test_the_newest_requests_are_asked_where_they_are_enough() -> None:
    looks = [look(30, reading()), look(15, reading(0, 0, 0, 500)), look(0, reading(50, 0, 0, 500))]
    quantile = ttft(*looks)
    assert quantile is not None
    assert quantile.estimate == pytest.approx(0.09)


@pytest.mark.parametrize(
    ("before", "after", "flow"),
    [
        (reading(inflight=5, finished=100), reading(inflight=9, finished=130), Flow(15, 30, 4)),
        (reading(inflight=9, finished=100), reading(inflight=5, finished=20), Flow(15, 20, -4)),
        (reading(inflight=5, finished=100), reading(inflight=9, finished=109), Flow(30, 69, 2)),
        (reading(inflight=5, finished=40), reading(inflight=9, finished=49), None),
    ],
    ids=["steady", "a gateway started anew", "too few ended, and enough before", "too few ended"],
)
def test_what_goes_in_and_out_is_told_over_a_while(
    before: GatewayReading, after: GatewayReading, flow: Flow | None
) -> None:
    looks = [look(30, reading(inflight=7, finished=40)), look(15, before), look(5, reading()), look(0, after)]
    found = load(looks, NOON)
    assert found is not None
    assert found.flow == flow


def test_without_two_looks_at_the_same_gateways_and_engines_there_is_no_flow() -> None:
    busy = reading(inflight=5, finished=100)
    for before in (look(15, busy, ready=1), look(15, busy, busy)):
        found = load([before, look(0, reading(inflight=5, finished=200))], NOON)
        assert found is not None
        assert found.flow is None
        assert found.is_new == (before.ready_engines == 1)


def test_new_engines_are_new_until_a_rate_can_be_told() -> None:
    for seconds, is_new in ((0, True), (14, True), (15, False)):
        found = load([look(40, reading(), ready=1), look(seconds, reading()), look(0, reading())], NOON)
        assert found is not None
        assert found.is_new == is_new


def test_old_looks_leave_the_window() -> None:
    assert ttft(look(90, reading()), look(61, reading(0, 0, 0, 500)), look(0, reading(0, 0, 0, 500))) is None


@pytest.mark.parametrize(
    ("looks", "says"),
    [
        ([], "No gateway was asked yet."),
        ([look(0)], "No gateway takes requests."),
        ([look(0, gateways=2)], "None of 2 gateways answered with its metrics."),
        ([look(46, reading())], "None of 1 gateways answered with its metrics."),
        ([look(-5, reading())], "None of 1 gateways answered with its metrics."),
    ],
    ids=["never", "no gateway", "silent", "stale", "from a clock that went back"],
)
def test_without_a_fresh_look_there_is_no_load(looks: list[Look], says: str) -> None:
    assert load(looks, NOON) is None
    assert blindness(looks).message == says


def test_silent_gateways_are_counted() -> None:
    assert load([look(0, reading(inflight=2), gateways=3)], NOON) == Load(inflight=2, num_silent=2)


@pytest.mark.parametrize(
    ("target", "ratio"),
    [(0.4, 0.9), (0.3, 1.0), (0.2, 1.8), (0.1, 3.6)],
    ids=["below", "inside the bucket: no proof", "at its lower bound", "far above"],
)
def test_a_target_is_missed_only_where_the_buckets_prove_it(target: float, ratio: float) -> None:
    quantile = histogram(0, 0, 100, 0).quantile()
    assert quantile is not None
    assert quantile.estimate == pytest.approx(0.38)
    missed = histogram(50, 0, 50, 0).quantile()
    assert missed is not None
    assert missed.against(target) == pytest.approx(ratio)


def test_the_last_bucket_has_no_end_and_is_taken_at_its_beginning() -> None:
    assert histogram(0, 0, 0, 100).quantile() == Quantile(0.4, 0.4)


@given(st.lists(st.integers(0, 50), min_size=4, max_size=4), st.lists(st.integers(0, 50), min_size=4, max_size=4))
def test_a_percentile_is_within_its_bucket_and_differences_undo_sums(a: list[int], b: list[int]) -> None:
    first, second = histogram(*a), histogram(*b)
    assert first.plus(second).since(first) == second
    quantile = first.quantile()
    if quantile is not None:
        assert quantile.at_least in (0.0, 0.1, 0.2, 0.4)
        assert quantile.at_least <= quantile.estimate <= 0.4
        assert sum(a) >= SAMPLES_MIN
