"""The law on replayed traces, beside a static fleet and the arithmetic of a HorizontalPodAutoscaler."""

import math
from itertools import pairwise

import pytest
from fakes import traces
from fakes.fleet import Law, Outcome, Pods, Trace, a_trace, play
from fakes.scaling_laws import Hpa, Ours, Static

from flash_api.conditions import Reason
from flash_api.v1alpha1.autoscaling import Autoscaling
from flash_runtime.gateway.metrics import TPOT_BUCKETS, TTFT_BUCKETS

PODS = Pods()
TARGET_SECONDS = 1.0
SCALING = Autoscaling.model_validate({"maxReplicas": 20, "targets": {"ttftMilliseconds": 1000, "tpotMilliseconds": 75}})


def run(trace: Trace, law: Law, first: int) -> Outcome:
    return play(trace, law, first=first, buckets=TTFT_BUCKETS, token_buckets=TPOT_BUCKETS)


def ours(trace: Trace, first: int) -> tuple[Outcome, Ours]:
    law = Ours(SCALING)
    return run(trace, law, first), law


@pytest.fixture(scope="module")
def day() -> tuple[Trace, Outcome]:
    trace = traces.day()
    return trace, ours(trace, first=1)[0]


def test_the_day_is_served_better_than_by_a_static_fleet_of_the_same_cost(day: tuple[Trace, Outcome]) -> None:
    trace, dynamic = day
    same_cost = math.ceil(dynamic.replica_seconds / trace.seconds)
    static = run(trace, Static(same_cost), same_cost)
    assert static.replica_seconds >= dynamic.replica_seconds
    assert dynamic.attainment(TARGET_SECONDS) > 0.95 > 2 * static.attainment(TARGET_SECONDS) - 0.1


def test_the_day_costs_far_less_than_a_static_fleet_that_serves_it_as_well(day: tuple[Trace, Outcome]) -> None:
    trace, dynamic = day
    too_small = math.floor(dynamic.replica_seconds / 0.7 / trace.seconds)
    assert run(trace, Static(too_small), too_small).attainment(TARGET_SECONDS) < dynamic.attainment(TARGET_SECONDS)


def test_a_steady_load_moves_nothing_but_what_the_load_asks_for() -> None:
    steady, _ = ours(a_trace("steady", lambda at: 6, seconds=3600, peak=6, seed=5), first=4)
    assert steady.flaps() == 0
    assert len(steady.wanted) <= 3


def test_noise_makes_fewer_flaps_than_the_arithmetic_of_an_hpa() -> None:
    trace = traces.noise()
    noisy, _ = ours(trace, first=4)
    assert noisy.attainment(TARGET_SECONDS) > 0.95
    for hpa in (Hpa(1, 20, inflight_per_pod=PODS.places), Hpa(1, 20, ttft_seconds=TARGET_SECONDS)):
        assert noisy.flaps() < run(trace, hpa, 4).flaps()


def test_a_ramp_is_followed_upwards_only() -> None:
    ramp, _ = ours(traces.ramp(), first=2)
    rising = [number for at, number in ramp.wanted if at <= 2100]
    assert rising == sorted(rising)
    enough = math.ceil(14 / PODS.capacity)
    assert ramp.most <= enough * 2, "the overshoot is bounded"
    assert ramp.attainment(TARGET_SECONDS) > 0.95


def test_a_burst_is_met_at_once_and_forgotten_slowly() -> None:
    burst, law = ours(traces.burst(), first=2)
    (at, first), *_ = [step for step in burst.wanted if step[0] >= 900]
    assert (at, first) == (915, 6), "at the first look after it began"
    assert burst.attainment(TARGET_SECONDS) > 0.9
    assert burst.flaps() <= 1
    assert burst.most < 20, "a queue that has piled up while pods start is no demand"
    assert burst.wanted[-1][1] <= 2
    falling = [(at, number) for at, number in burst.wanted if at > 945]
    assert all(later - earlier >= 60 for (earlier, _), (later, _) in pairwise(falling))
    assert {Reason.QUEUE_ABOVE_TARGET, Reason.PODS_ARE_STARTING, Reason.STABILIZING} <= {
        decision.reason for decision in law.decisions
    }


def test_pods_that_never_start_are_not_answered_with_ever_more_pods() -> None:
    stuck = Pods(start_seconds=1e6)
    trace = a_trace("over capacity", lambda at: 2.2, seconds=1800, peak=2.2, seed=6)
    law = Ours(SCALING.model_copy(update={"targets": SCALING.targets.model_copy(update={"queued_requests": 1000})}))
    outcome = play(trace, law, first=1, buckets=TTFT_BUCKETS, token_buckets=TPOT_BUCKETS, pods=stuck)
    assert outcome.most == 2, "latency asked once, and the pod that it was given has not had its chance"


def test_the_same_trace_always_gives_the_same_figures() -> None:
    (first, _), (second, _) = ours(traces.burst(), 2), ours(traces.burst(), 2)
    assert (first.wanted, first.replica_seconds) == (second.wanted, second.replica_seconds)
    assert len(first.ttfts) == len(traces.burst().arrivals)
