"""What a draft pod brings whose cores are its own, from measured costs: computed, nothing is run here.

Of one sequence. Where all proposals hold and the draft expected the target's own next token too, the next proposals
are there without waiting; otherwise the target waits for the first ones.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

MOST = 8
"""Tokens that may be proposed at once."""


@dataclass(frozen=True)
class Costs:
    """Medians, in seconds."""

    target: Mapping[int, float]
    """A step of the target by the tokens in it; widths not measured are interpolated, beyond the last one's slope."""
    draft: float
    """A step of the draft."""
    round_trip: float
    """From asking to having the answer of a draft whose steps take no time."""


def speed_up(acceptance: float, costs: Costs) -> float:
    """The best that asking for 1 to 8 tokens brings, times as fast as without; 1 where nothing pays.

    `acceptance`: the probability that a proposed token holds, each for itself. Raises ValueError outside of [0, 1).
    """
    if not 0 <= acceptance < 1:
        raise ValueError(f"acceptance ({acceptance}) must be at least 0 and below 1")
    plain = _target(costs, 1)
    return max(1.0, *(plain * _rate(acceptance, costs, count) for count in range(1, MOST + 1)))


def _rate(acceptance: float, costs: Costs, asked: int) -> float:
    """Tokens a second, where so many are asked for whenever none are at hand."""
    waited = _target(costs, 1 + asked) + costs.round_trip + asked * costs.draft
    # While the target verifies, the draft goes on: one in place of the target's own token, then what is at hand next.
    ahead = MOST if costs.draft == 0 else int((_target(costs, 1 + asked) - costs.round_trip) / costs.draft) - 1
    tokens = expected_tokens(acceptance, asked)
    best = tokens / waited
    for at_hand in range(1, min(ahead, MOST) + 1):
        times = acceptance ** (asked + 1) / (1 - acceptance ** (at_hand + 1))
        more = times * expected_tokens(acceptance, at_hand)
        best = max(best, (tokens + more) / (waited + times * _target(costs, 1 + at_hand)))
    return best


def expected_tokens(acceptance: float, proposed: int) -> float:
    """Of a step that verifies so many, with the target's own."""
    return sum(acceptance**depth for depth in range(proposed + 1))


def _target(costs: Costs, width: int) -> float:
    known = sorted(costs.target)
    if width in costs.target or len(known) == 1:
        return costs.target.get(width, costs.target[known[0]])
    high = next((at for at in known if at > width), known[-1])
    low = max((at for at in known if at < high), default=known[0])
    slope = (costs.target[high] - costs.target[low]) / (high - low) if high != low else 0.0
    return costs.target[low] + slope * (width - low)


def break_even(plain: float, verifying: Mapping[int, float], asking: Mapping[int, float]) -> float | None:
    """The acceptance from which proposals pay; None where none does.

    `plain`: seconds of a step without; `verifying`: of one that verifies so many tokens of each sequence; `asking`: of
    waiting for so many.
    """
    least = None
    for count, seconds in verifying.items():
        worth = (seconds + asking.get(count, 0.0)) / plain
        if worth > 1 + count:
            continue
        low, high = 0.0, 1.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if expected_tokens(middle, count) < worth else (low, middle)
        least = high if least is None else min(least, high)
    return least
