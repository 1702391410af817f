"""How many tokens to propose follows from what a step costs and how often proposals held."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from random import Random

import pytest

from flash_runtime.engine.lookahead import WIDTHS, Acceptance, StepCosts, plan


def linear(slope: float) -> Callable[[int], float]:
    """A step of one token costs 1, each further token `slope`."""
    return lambda width: 1.0 + slope * (width - 1)


def rate(counts: tuple[int, ...], probabilities: list[float], seconds: Callable[[int], float]) -> float:
    tokens = sum(
        sum(probability**depth for depth in range(count + 1))
        for count, probability in zip(counts, probabilities, strict=True)
    )
    return tokens / seconds(len(counts) + sum(counts))


@pytest.mark.parametrize(
    ("probability", "slope", "expected"),
    [(0.95, 0.02, 8), (0.5, 0.1, 2), (0.3, 0.05, 1), (0.3, 0.5, 0), (0.0, 0.01, 0), (0.9, 1.0, 0)],
)
def test_one_sequence_gets_as_many_tokens_as_pay(probability: float, slope: float, expected: int) -> None:
    (count,) = plan([probability], [8], linear(slope))
    assert abs(count - expected) <= (1 if expected not in (0, 8) else 0)


def test_no_other_choice_promises_more_tokens_per_second() -> None:
    draw = Random(4)
    for _ in range(60):
        probabilities = [draw.random() for _ in range(3)]
        limits = [draw.randint(0, 4) for _ in range(3)]
        seconds = linear(draw.choice([0.02, 0.1, 0.2, 0.4]))
        best = max(
            product(*(range(limit + 1) for limit in limits)), key=lambda counts: rate(counts, probabilities, seconds)
        )
        chosen = tuple(plan(probabilities, limits, seconds))
        assert all(count <= limit for count, limit in zip(chosen, limits, strict=True))
        # It wants 2 % more than plain decoding before it proposes anything, and looks at some widths only.
        assert rate(chosen, probabilities, seconds) >= 0.98 * rate(best, probabilities, seconds)


def test_a_draft_that_takes_as_long_as_the_step_is_not_asked() -> None:
    assert plan([0.8], [8], linear(0.05), proposer_seconds=lambda depth: 0.05 * depth)[0] > 2
    assert plan([0.8], [8], linear(0.05), proposer_seconds=lambda depth: 1.0 * depth) == [0]


def mean_rate(first: int, probability: float, seconds: Callable[[int], float], asked: Callable[[int], float]) -> float:
    """Tokens per second of ten thousand steps: `first` proposals where it waits, what is at hand where all held."""
    draw = Random(1)
    tokens, took, at_hand = 0, 0.0, 0
    at_most = max(range(5), key=lambda count: rate((count,), [probability], seconds))
    for _ in range(10_000):
        count = min(at_hand, at_most) or first
        took += seconds(1 + count) + (0.0 if at_hand else asked(count))
        guesses_ahead = max(at_hand, count + 5)
        held = 0
        while held <= guesses_ahead and draw.random() < probability:
            held += 1
        tokens += 1 + min(held, count)
        at_hand = guesses_ahead - count - 1 if held > count else 0
    return tokens / took


@pytest.mark.parametrize("probability", [0.45, 0.65, 0.8])
def test_of_a_draft_that_runs_ahead_as_little_is_asked_as_brings_the_most_over_many_steps(probability: float) -> None:
    seconds, asked = linear(0.07), lambda depth: 0.08 + 0.1 * depth
    rates = {count: mean_rate(count, probability, seconds, asked) for count in range(1, 9)}
    (chosen,) = plan([probability], [8], seconds, asked, runs_ahead=True)
    (greedy,) = plan([probability], [8], seconds, asked)
    assert 1 <= chosen <= greedy
    assert rates[chosen] >= 0.98 * max(rates.values())


def test_a_slow_draft_has_nothing_at_hand_so_running_ahead_changes_nothing() -> None:
    seconds, asked = linear(0.0), lambda depth: 0.6 * depth
    assert plan([0.9], [8], seconds, asked, runs_ahead=True) == plan([0.9], [8], seconds, asked)


def test_what_plain_steps_cost_is_measured_before_anything_is_proposed() -> None:
    assert plan([0.9, 0.9], [3, 3], lambda width: None) == [0, 0]
    assert plan([0.9, 0.9], [3, 3], measured(w5=1.0).seconds) == [0, 0]
    assert plan([0.9, 0.9], [3, 3], measured(w2=1.0).seconds) == [3, 3]


def measured(**by_width: float) -> StepCosts:
    costs = StepCosts()
    for width, seconds in by_width.items():
        for _ in range(5):
            costs.observe(int(width.lstrip("w")), seconds)
    return costs


def test_costs_between_measured_widths_are_interpolated_and_beyond_them_guessed_low() -> None:
    assert StepCosts().seconds(4) is None
    costs = measured(w2=1.0, w6=3.0)
    assert [costs.seconds(width) for width in (1, 2, 4, 6)] == [None, 1.0, 2.0, 3.0]
    assert 3.0 < (costs.seconds(9) or 0) < 3.3
    costs.observe(WIDTHS[-1] + 1, 9.0)
    assert costs.table() == {2: 1.0, 6: 3.0}


def test_a_few_stray_measurements_change_no_cost_and_a_lasting_change_does() -> None:
    costs = measured(w1=1.0)
    for _ in range(2):
        costs.observe(1, 100.0)
    assert costs.seconds(1) == 1.0
    for _ in range(5):
        costs.observe(1, 3.0)
    assert costs.seconds(1) == 3.0


def test_one_bad_first_measurement_does_not_judge_a_width() -> None:
    costs = measured(w1=1.0)
    costs.observe(3, 50.0)
    assert (costs.seconds(3) or 9.0) < 1.1
    for _ in range(3):
        costs.observe(3, 1.5)
    assert costs.seconds(3) == 1.5


def test_a_cost_that_is_never_measured_again_is_forgotten() -> None:
    costs = measured(w5=100.0)
    for _ in range(5000):
        costs.observe(1, 1.0)
    assert costs.table() == {1: 1.0}
    assert (costs.seconds(5) or 0) < 1.2


def test_acceptance_starts_from_its_prior_and_follows_what_happened_lately() -> None:
    acceptance = Acceptance()
    assert acceptance.probability(0.6) == pytest.approx(0.6)
    for _ in range(100):
        acceptance.learn(4, missed=False)
    assert acceptance.probability(0.6) > 0.95
    for _ in range(100):
        acceptance.learn(0, missed=True)
    assert acceptance.probability(0.6) < 0.15
