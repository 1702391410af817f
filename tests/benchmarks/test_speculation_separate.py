"""What drafts on cores of their own would bring follows from measured costs."""

from random import Random

import pytest
from separate import Costs, break_even, expected_tokens, speed_up

FLAT = {1: 5.0, 9: 7.0}


def test_a_free_draft_that_is_always_right_brings_its_tokens_for_the_price_of_verifying_them() -> None:
    assert speed_up(0.999999, Costs(FLAT, draft=0.0, round_trip=0.0)) == pytest.approx(9 * 5 / 7, rel=1e-3)


def test_a_draft_that_is_never_right_brings_nothing() -> None:
    assert speed_up(0.0, Costs(FLAT, draft=0.5, round_trip=0.4)) == 1.0


def test_it_brings_more_the_more_holds_and_the_less_everything_takes() -> None:
    by_acceptance = [speed_up(share / 10, Costs(FLAT, draft=0.5, round_trip=0.4)) for share in range(10)]
    assert by_acceptance == sorted(by_acceptance)
    by_draft = [speed_up(0.65, Costs(FLAT, draft=draft, round_trip=0.4)) for draft in (0.1, 0.5, 1.0, 5.0)]
    assert by_draft == sorted(by_draft, reverse=True)
    assert speed_up(0.65, Costs(FLAT, 0.5, round_trip=0.1)) > speed_up(0.65, Costs(FLAT, 0.5, round_trip=2.0))


def test_without_time_to_run_ahead_it_is_the_best_single_step() -> None:
    costs = Costs({1: 5.0, 9: 5.0}, draft=3.0, round_trip=0.0)
    singles = [5.0 * expected_tokens(0.8, count) / (5.0 + 3.0 * count) for count in range(1, 9)]
    assert speed_up(0.8, costs) == pytest.approx(max(1.0, *singles))


def test_it_is_what_many_drawn_steps_bring() -> None:
    acceptance, costs = 0.65, Costs({1: 5.0, 2: 5.3, 3: 5.9, 4: 6.3, 5: 6.3, 9: 7.0}, draft=0.5, round_trip=0.4)
    width = {1: 5.3, 4: 6.3}
    draw, tokens, took, at_hand = Random(0), 0, 0.0, False
    for _ in range(200_000):
        count = 4 if at_hand else 1
        took += width[count] + (0.0 if at_hand else 0.9)
        held = 0
        while held <= count and draw.random() < acceptance:
            held += 1
        tokens += 1 + min(held, count)
        at_hand = held > count
    drawn = tokens / took * 5.0
    assert drawn <= speed_up(acceptance, costs) * 1.01
    assert speed_up(acceptance, costs) == pytest.approx(drawn, rel=0.05)


def test_a_width_between_measured_ones_lies_between_their_costs() -> None:
    dense = {width: 5.0 + 0.25 * (width - 1) for width in range(1, 10)}
    assert speed_up(0.7, Costs(dense, 0.5, 0.4)) == pytest.approx(speed_up(0.7, Costs({1: 5.0, 9: 7.0}, 0.5, 0.4)))


@pytest.mark.parametrize("acceptance", [-0.1, 1.0])
def test_an_acceptance_that_is_none_is_refused(acceptance: float) -> None:
    with pytest.raises(ValueError, match="must be at least 0 and below 1"):
        speed_up(acceptance, Costs(FLAT, 0.5, 0.4))


def test_proposals_pay_from_the_acceptance_that_covers_what_verifying_and_waiting_take() -> None:
    assert break_even(5.0, {1: 6.0}, {}) == pytest.approx(0.2)
    assert break_even(5.0, {1: 6.0}, {1: 1.0}) == pytest.approx(0.4)
    assert break_even(5.0, {1: 6.0, 2: 6.0}, {}) < 0.2
    assert break_even(5.0, {1: 11.0, 3: 21.0}, {}) is None
