"""What proposals of a draft pod bring, in a time of its own: the costs are those that were measured of the demo model
on one core, so what is tested here is the policy, not a machine."""

from __future__ import annotations

from random import Random

import pytest
from fakes.timed_drafts import Clock, TimedLink, TimedTarget

from flash_runtime.engine.loop import Engine, EngineLimits
from flash_runtime.engine.remote import RemoteDraft
from flash_runtime.engine.speculation import Speculation
from flash_runtime.wire import GenerateRequest

STEP_MS = {1: 4.9, 2: 5.3, 3: 5.9, 4: 6.3, 5: 6.3, 6: 6.6, 7: 6.8, 8: 7.0, 9: 7.2}
ROUND_TRIP = 0.0004
DRAFT_SECONDS = 0.00049


def step_seconds(width: int) -> float:
    return STEP_MS.get(width, 7.2 + 0.3 * (width - 9)) / 1000


def speed_up(acceptance: float, *, answers: int, tokens: int, draft_seconds: float = DRAFT_SECONDS) -> float:
    """Times as fast as without, over answers one after the other, from the first one's first token on."""
    clock = Clock()
    link = TimedLink(clock, round_trip=ROUND_TRIP, draft_seconds=draft_seconds, acceptance=acceptance)
    speculation = Speculation(RemoteDraft(link, clock=clock), vocab_size=97, clock=clock)
    draw, took, made = Random(7), 0.0, 0
    for number in range(answers):
        engine = Engine(TimedTarget(clock, step_seconds), limits=EngineLimits(), speculation=speculation)
        engine.add(str(number), [draw.randrange(97) for _ in range(20)], GenerateRequest(max_tokens=tokens))
        engine.step()
        began = clock.now
        while engine.has_work:
            made += sum(len(output.token_ids) for output in engine.step())
        took += clock.now - began
    return made * step_seconds(1) / took


@pytest.mark.parametrize(("acceptance", "least"), [(0.9, 2.4), (0.8, 1.85), (0.65, 1.4), (0.45, 1.12)])
def test_a_draft_that_is_right_often_enough_pays_from_its_first_answers_on(acceptance: float, least: float) -> None:
    assert speed_up(acceptance, answers=12, tokens=64) > least


def test_a_slower_draft_guesses_no_further_ahead_than_there_is_time_for() -> None:
    assert speed_up(0.65, answers=12, tokens=64, draft_seconds=0.0013) > 1.2
    assert speed_up(0.8, answers=12, tokens=64, draft_seconds=0.0013) > 1.55


def test_a_draft_that_is_never_right_costs_little_to_find_out_and_less_later() -> None:
    few, many = (speed_up(0.0, answers=answers, tokens=64) for answers in (6, 30))
    assert 0.98 < few < many <= 1.0
    assert many > 0.99


def test_a_draft_as_slow_as_the_target_is_left_alone() -> None:
    assert speed_up(0.6, answers=12, tokens=64, draft_seconds=0.005) > 0.98
