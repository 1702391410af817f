"""When a new revision has proved itself, and when it is taken back."""

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flash_api.conditions import Reason
from flash_operator.plan.autoscale_load import Histogram, TrackReading
from flash_operator.plan.canary_verdict import (
    CHANCE,
    SOAK_SECONDS,
    Decision,
    Evidence,
    Limits,
    chance_of_failures,
    verdict,
)

BOUNDS = (0.05, 0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 1.0, math.inf)
LIMITS = Limits(deadline_seconds=1800, requests=100)


def latencies(number: int, seconds: float) -> Histogram:
    """So many observations just below the time, and a tenth of them in the next bucket."""
    at = next(index for index, bound in enumerate(BOUNDS) if bound >= seconds)
    counts = [0.0] * at + [number * 0.85] + [float(number)] * (len(BOUNDS) - at - 1)
    return Histogram(BOUNDS, tuple(counts))


def a_side(answered: int, failed: int = 0, ttft: float = 0.1, tpot: float = 0.1) -> TrackReading:
    return TrackReading(answered, failed, latencies(answered, ttft), latencies(answered, tpot))


def seen(canary: TrackReading, stable: TrackReading | None = None, seconds: float = 300) -> Evidence:
    return Evidence(seconds, stable or a_side(1000), canary)


def decide(evidence: Evidence | None, limits: Limits = LIMITS, **facts: object) -> tuple[Decision, Reason]:
    found = verdict(evidence, limits, **{"failure": None, "elapsed_seconds": 300.0, **facts})  # type: ignore[arg-type]
    return found.decision, found.reason


def test_enough_requests_as_good_as_before_promote() -> None:
    assert decide(seen(a_side(100))) == (Decision.PROMOTE, Reason.CANARY_PROVED)


def test_too_few_requests_wait_until_the_deadline_and_then_prove_nothing() -> None:
    assert decide(seen(a_side(99)))[0] is Decision.WAIT
    late = decide(seen(a_side(99)), elapsed_seconds=1800.0)
    assert late == (Decision.ROLL_BACK, Reason.CANARY_INCONCLUSIVE)


def test_the_number_of_requests_is_the_users() -> None:
    assert decide(seen(a_side(100)), Limits(1800, requests=500))[0] is Decision.WAIT
    assert decide(seen(a_side(30)), Limits(1800, requests=10))[0] is Decision.PROMOTE


def test_a_burst_of_requests_does_not_promote_at_once() -> None:
    assert decide(seen(a_side(5000), seconds=SOAK_SECONDS - 1))[0] is Decision.WAIT


def test_without_a_request_on_the_other_side_nothing_is_compared() -> None:
    assert decide(seen(a_side(5000), TrackReading()))[0] is Decision.WAIT


def test_nothing_seen_waits_and_then_rolls_back() -> None:
    assert decide(None)[0] is Decision.WAIT
    assert decide(None, elapsed_seconds=1801.0) == (Decision.ROLL_BACK, Reason.CANARY_INCONCLUSIVE)


def test_failing_pods_need_no_statistics() -> None:
    found = verdict(None, LIMITS, failure="container engine ended with code 137", elapsed_seconds=1)
    assert (found.decision, found.reason) == (Decision.ROLL_BACK, Reason.CANARY_FAILING)
    assert "code 137" in found.message


@pytest.mark.parametrize(
    ("canary", "stable", "taken_back"),
    [
        ((100, 0), (1000, 0), False),
        ((98, 2), (1000, 0), False),  # two broken streams are an accident
        ((95, 5), (1000, 0), True),
        ((95, 5), (900, 50), False),  # the others fail as often
        ((99, 3), (980, 20), False),
        ((80, 20), (980, 20), True),
        ((0, 5), (40, 0), True),
        ((0, 30), (0, 0), True),  # nobody to compare with, and nobody needed
        ((0, 30), (0, 300), False),  # the fault is not the revision's
    ],
)
def test_more_failures_than_chance_explains_roll_back(
    canary: tuple[int, int], stable: tuple[int, int], taken_back: bool
) -> None:
    found = decide(seen(a_side(*canary), a_side(*stable)))
    assert (found == (Decision.ROLL_BACK, Reason.CANARY_ERRORS)) is taken_back, found


@pytest.mark.parametrize(
    ("seconds", "percent", "taken_back"),
    [(0.1, 130, False), (0.15, 130, False), (0.3, 130, True), (0.3, 400, False), (0.5, 130, True)],
)
@pytest.mark.parametrize("which", ["ttft", "tpot"])
def test_a_slower_revision_is_taken_back(which: str, seconds: float, percent: int, taken_back: bool) -> None:
    slower = replace(a_side(200), **{which: latencies(200, seconds)})
    found = decide(seen(slower), Limits(1800, latency_percent=percent))
    assert (found == (Decision.ROLL_BACK, Reason.CANARY_SLOWER)) is taken_back, found


def test_the_figures_are_in_the_message() -> None:
    slow = verdict(seen(a_side(200, ttft=0.5)), LIMITS, failure=None, elapsed_seconds=1)
    assert slow.message.startswith("It needs 667 ms instead of 117 ms (p90) to the first token; 130 %")
    bad = verdict(seen(a_side(95, 5)), LIMITS, failure=None, elapsed_seconds=1)
    assert bad.message == "It failed 5 of 100 requests; the former revision failed 0 of 1000 requests."
    good = verdict(seen(a_side(100)), LIMITS, failure=None, elapsed_seconds=1)
    assert good.message == "It answered 100 requests and failed 0; p90 TTFT 117 ms, before 117 ms."


def test_the_chance_is_that_of_fishers_exact_test() -> None:
    # The lady tasting tea: 3 or 4 of 4 right.
    assert chance_of_failures(TrackReading(3, 1), TrackReading(1, 3)) == pytest.approx(17 / 70)


sides = st.builds(TrackReading, st.integers(0, 3000).map(float), st.integers(0, 300).map(float))


@given(stable=sides, canary=sides)
def test_the_chance_is_a_probability_and_falls_with_each_failure(stable: TrackReading, canary: TrackReading) -> None:
    chance = chance_of_failures(stable, canary)
    assert 0.0 <= chance <= 1.0
    if canary.answered:
        worse = TrackReading(canary.answered - 1, canary.failed + 1)
        assert chance_of_failures(stable, worse) <= chance + 1e-9


@given(stable=sides, canary=sides, seconds=st.floats(0, 4000), elapsed=st.floats(0, 4000))
def test_no_evidence_promotes_what_is_worse_or_unproved(
    stable: TrackReading, canary: TrackReading, seconds: float, elapsed: float
) -> None:
    ttft = {"stable": latencies(int(stable.answered), 0.1), "canary": latencies(int(canary.answered), 0.1)}
    evidence = Evidence(seconds, replace(stable, ttft=ttft["stable"]), replace(canary, ttft=ttft["canary"]))
    found = verdict(evidence, LIMITS, failure=None, elapsed_seconds=elapsed)
    if found.decision is Decision.PROMOTE:
        assert canary.answered >= LIMITS.requests
        assert seconds >= SOAK_SECONDS
        better = canary.failed * (stable.answered + stable.failed) <= stable.failed * (canary.answered + canary.failed)
        assert better or canary.failed < 3 or chance_of_failures(stable, canary) >= CHANCE
    if found.decision is Decision.WAIT:
        assert elapsed < LIMITS.deadline_seconds
