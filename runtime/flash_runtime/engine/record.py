"""What came of proposals, for people to see: how much faster they made answers, whether they are in use, why not.

Numbers in, numbers out; no clock and no tokens.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import Final

from flash_runtime.engine.proposals import Fallback

PROMPT_BUCKETS: Final = (256, 1024, 4096)
"""Prompt tokens: up to each of these, and more."""
LATENCY_BUCKETS: Final = (0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064)
"""Seconds, upper bounds; slower ones come after them."""
_WINDOW_STEPS: Final = 128
"""Decode steps over which it is judged whether proposals are in use."""
_MEMORY: Final = 0.998
"""Of what steps took and brought, what is left after one more."""


@dataclass(frozen=True)
class SpeculationStats:
    """Since construction, unless a field says otherwise."""

    speed_up: float = 1.0
    """Tokens per second lately over what plain steps would have made, by their measured cost. 1 = not known."""
    is_active: bool = False
    """Whether proposals were verified lately."""
    inactive_reason: Fallback | None = None
    """Why most requests got none lately, while it is not active; None also before the first step."""
    by_prompt: tuple[tuple[int, int], ...] = ((0, 0),) * (len(PROMPT_BUCKETS) + 1)
    """Tokens proposed and accepted for prompts of each of PROMPT_BUCKETS, and longer ones."""
    latencies: tuple[int, ...] = (0,) * (len(LATENCY_BUCKETS) + 1)
    """Calls of the proposer that took up to each of LATENCY_BUCKETS, and longer."""
    latency_seconds: float = 0.0
    """Of all those calls together."""


class Record:
    """Takes notes."""

    def __init__(self) -> None:
        self._by_prompt = [[0, 0] for _ in range(len(PROMPT_BUCKETS) + 1)]
        self._latencies = [0] * (len(LATENCY_BUCKETS) + 1)
        self._latency_seconds = 0.0
        self._plain_seconds = self._took_seconds = 0.0
        self._steps = self._verified = 0
        self._reasons: Counter[Fallback] = Counter()
        self._is_active = False
        self._inactive_reason: Fallback | None = None

    def proposed(self, seconds: float) -> None:
        """The proposer was asked and took so long."""
        self._latencies[bisect_left(LATENCY_BUCKETS, seconds)] += 1
        self._latency_seconds += seconds

    def verified(self, num_prompt_tokens: int, proposed: int, accepted: int) -> None:
        """So much of what was proposed for one sequence held."""
        bucket = self._by_prompt[bisect_left(PROMPT_BUCKETS, num_prompt_tokens)]
        bucket[0] += proposed
        bucket[1] += accepted

    def stepped(self, *, plain_seconds: float | None, took_seconds: float, num_verified: int) -> None:
        """A decode step, with what was waited for its proposals, took so long; its tokens, by plain steps, so long."""
        if plain_seconds is not None:
            self._plain_seconds = self._plain_seconds * _MEMORY + plain_seconds
            self._took_seconds = self._took_seconds * _MEMORY + took_seconds
        self._steps += 1
        self._verified += num_verified
        if num_verified:
            self._is_active, self._inactive_reason = True, None
        if self._steps >= _WINDOW_STEPS:
            self._is_active = self._verified > 0
            self._inactive_reason = None if self._is_active else self._most_common()
            self._steps = self._verified = 0
            self._reasons.clear()
        elif not self._is_active:
            self._inactive_reason = self._most_common() or self._inactive_reason

    def missed(self, reasons: Counter[Fallback]) -> None:
        """Why sequences got none in a step."""
        self._reasons.update(reasons)

    def stats(self) -> SpeculationStats:
        """What is known now."""
        return SpeculationStats(
            speed_up=round(self._plain_seconds / self._took_seconds, 3) if self._took_seconds else 1.0,
            is_active=self._is_active,
            inactive_reason=self._inactive_reason,
            by_prompt=tuple((proposed, accepted) for proposed, accepted in self._by_prompt),
            latencies=tuple(self._latencies),
            latency_seconds=self._latency_seconds,
        )

    def _most_common(self) -> Fallback | None:
        found = self._reasons.most_common(1)
        return found[0][0] if found else None
