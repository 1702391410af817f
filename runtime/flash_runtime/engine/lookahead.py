"""How many tokens to propose for each sequence: what verifying them costs against how often they held. Pure.

The engine measures both itself, so there is nothing to set. Knows numbers, no tokens and no clock. A step that verifies
k tokens of a sequence whose proposals hold with probability a yields 1 + a + a² + … + a^k tokens (Leviathan et al.
2023); the choice is the one with the most tokens per second over the whole batch.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from typing import Final, NamedTuple

WIDTHS: Final = (*range(1, 13), *range(14, 33, 2), *range(36, 65, 4), *range(72, 145, 8))
"""Tokens of a step for which its cost is kept; others count as the next wider one."""
_KEPT: Final = 9
"""Measurements of one width that count: their median stands, so a few strays do not, when others had the processor."""
_FEWEST: Final = 3
"""A width measured less often is not known yet: so each is tried a few times before it is judged."""
_STALE_STEPS: Final = 2048
"""A cost not measured for so many steps is forgotten, so that one bad measurement never settles a matter."""
_GUESSED_SLOPE: Final = 0.02
"""Of a width never measured: so much more for each token than the next narrower one. Low, so that it is tried."""
_WORTH: Final = 1.02
"""Proposals must promise so many times the tokens per second of none."""
AHEAD_TOKENS: Final = 4
"""Tokens that a proposer which guesses on has at hand for the next step, where there is time for so many."""
_RARE: Final = 0.02
"""Chances below this one are not worth computing with."""
_MOST_HIT: Final = 0.95
"""A run of steps without waiting ends at some time."""


class StepCosts:
    """Seconds of a step by its width, as measured; a width in between is interpolated."""

    def __init__(self, guessed_slope: float = _GUESSED_SLOPE) -> None:
        """`guessed_slope`: what each token costs beyond the widest step that was measured, as a share of that one."""
        self._guessed_slope = guessed_slope
        self._measured: dict[int, deque[float]] = {}
        self._seconds: dict[int, float] = {}
        self._measured_at: dict[int, int] = {}
        self._widths: list[int] = []
        self._num_measured = 0

    def observe(self, width: int, seconds: float) -> None:
        """A step of so many tokens, each the last of its sequence or proposed after it, took so long."""
        if width > WIDTHS[-1]:
            return
        width = WIDTHS[bisect_left(WIDTHS, width)]
        measured = self._measured.get(width)
        if measured is None:
            measured = self._measured[width] = deque(maxlen=_KEPT)
        measured.append(seconds)
        if len(measured) >= _FEWEST:
            if width not in self._seconds:
                insort(self._widths, width)
            self._seconds[width] = sorted(measured)[len(measured) // 2]
        self._num_measured += 1
        self._measured_at[width] = self._num_measured
        if self._num_measured % _STALE_STEPS == 0:
            self._forget_stale()

    def seconds(self, width: int) -> float | None:
        """What a step of this width costs; None when nothing is known of it or of a narrower one."""
        widths = self._widths
        if (exact := self._seconds.get(width)) is not None:
            return exact
        at = bisect_left(widths, width)
        if at == 0:
            return None
        low = widths[at - 1]
        below = self._seconds[low]
        if at == len(widths):
            return below * (1.0 + self._guessed_slope * (width - low))
        high = widths[at]
        return below + (self._seconds[high] - below) * (width - low) / (high - low)

    def table(self) -> dict[int, float]:
        """What is known, by width."""
        return {width: self._seconds[width] for width in self._widths}

    def _forget_stale(self) -> None:
        for width, measured_at in list(self._measured_at.items()):
            if self._num_measured - measured_at > _STALE_STEPS:
                del self._measured[width], self._measured_at[width]
                if self._seconds.pop(width, None) is not None:
                    self._widths.remove(width)


class Acceptance:
    """How often proposals held lately, as a probability; `prior` stands in while little is known."""

    __slots__ = ("_held", "_memory", "_tried")

    def __init__(self, memory: float = 0.97) -> None:
        """`memory`: what is left of old trials after a new one."""
        self._memory = memory
        self._held = self._tried = 0.0

    def learn(self, held: int, missed: bool) -> None:
        """So many tokens of one proposal held; then one did not, or the proposal ended."""
        tried = held + missed
        fade = self._memory**tried
        self._held = self._held * fade + held
        self._tried = self._tried * fade + tried

    def probability(self, prior: float, weight: float = 3.0) -> float:
        """The share that held, where `prior` counts for `weight` trials."""
        return (self._held + prior * weight) / (self._tried + weight)


def plan(
    probabilities: Sequence[float],
    limits: Sequence[int],
    seconds: Callable[[int], float | None],
    proposer_seconds: Callable[[int], float | None] = lambda depth: 0.0,
    is_free: Sequence[bool] = (),
    *,
    runs_ahead: bool = False,
) -> list[int]:
    """Tokens to propose for each sequence; all 0 where proposals do not pay.

    `limits`: the most for each. `seconds(width)`: a step's cost. `proposer_seconds(depth)`: what a longest proposal of
    so many tokens costs, of those sequences whose proposals are not `is_free`; tokens of several sequences are proposed
    at once. What is not known costs nothing, so that it is tried. `runs_ahead`: where all proposals hold, the next ones
    are there without waiting, so a short proposal, which holds as a whole more often, also pays in the step after.
    """
    count = len(probabilities)
    counts = [0] * count
    base = seconds(count)
    if not base:
        return counts  # plain steps first: what they cost is what proposals must beat
    gains = []
    for index, (probability, limit) in enumerate(zip(probabilities, limits, strict=True)):
        gain = 1.0
        for depth in range(1, limit + 1):
            gain *= probability
            gains.append((-gain, depth, index))
    # Best first. A sequence's own gains fall with depth, so each choice of the best so many is a set of beginnings.
    gains.sort()
    expected = float(count)
    best_rate, best_size, deepest, hit = expected / base * _WORTH, 0, 0, 1.0
    next_steps: dict[int, _Step] = {}
    for size, (gain, depth, index) in enumerate(gains, start=1):
        expected -= gain
        if not (is_free and is_free[index]):
            deepest = max(deepest, depth)
            # The engine's own token after them must be the one that was expected, too.
            hit *= probabilities[index] ** (2 if depth == 1 else 1)
        width = count + size
        if size < len(gains) and width not in _WIDTHS:
            continue
        asked = (proposer_seconds(deepest) or 0.0) if deepest else 0.0
        tokens, took = expected, (seconds(width) or base) + asked
        if runs_ahead and asked and hit >= _RARE:
            # While the step verifies, it guesses on: one for the engine's own token, and what the next step may have.
            ahead = min(AHEAD_TOKENS, int((took - asked) * deepest / asked) - 1)
            if ahead > 0:
                if ahead not in next_steps:
                    next_steps[ahead] = _best_at_hand(gains, probabilities, seconds, ahead)
                following = next_steps[ahead]
                times = hit / (1.0 - min(following.hit, _MOST_HIT))
                tokens, took = tokens + times * following.tokens, took + times * following.seconds
        if tokens / took > best_rate:
            best_rate, best_size = tokens / took, size
    for _, _, index in gains[:best_size]:
        counts[index] += 1
    return counts


class _Step(NamedTuple):
    """What a step brings and takes, and how likely the one after it has proposals at hand again."""

    tokens: float
    seconds: float
    hit: float


def _best_at_hand(
    gains: Sequence[tuple[float, int, int]],
    probabilities: Sequence[float],
    seconds: Callable[[int], float | None],
    ahead: int,
) -> _Step:
    """The best step where up to so many tokens for each sequence are there already. `gains`: negative, best first."""
    count = len(probabilities)
    best = _Step(float(count), seconds(count) or inf, 0.0)
    tokens, hit, size = float(count), 1.0, 0
    for gain, depth, index in gains:
        if depth > ahead:
            continue
        size += 1
        tokens -= gain
        hit *= probabilities[index] ** (2 if depth == 1 else 1)
        took = seconds(count + size) or best.seconds
        if tokens / took > best.tokens / best.seconds:
            best = _Step(tokens, took, hit)
    return best


def patience(probabilities: Sequence[float], counts: Sequence[int], seconds: Callable[[int], float | None]) -> float:
    """Seconds that waiting for these proposals may take: then the step brings no more tokens per second than without.

    0 where they cannot pay at all, infinite while the steps' costs are not known.
    """
    count = len(probabilities)
    base, wide = seconds(count), seconds(count + sum(counts))
    if base is None or wide is None:
        return inf
    expected = sum(
        sum(probability**depth for depth in range(num_tokens + 1))
        for probability, num_tokens in zip(probabilities, counts, strict=True)
    )
    return max(0.0, expected / count * base - wide)


_WIDTHS: Final = frozenset(WIDTHS)
