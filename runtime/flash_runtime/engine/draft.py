"""A small model in the engine's own process as the proposer.

It sees a sequence only when it is asked about it. A long prompt takes several calls.
"""

from __future__ import annotations

from math import inf

from flash_runtime.engine.batch import Provider
from flash_runtime.engine.guesser import Guesser
from flash_runtime.engine.proposals import Ask, Fallback, Proposal


class InProcessDraft:
    """Implements `flash_runtime.engine.proposals.Proposer` over the provider of a small model."""

    is_free = False
    runs_ahead = False

    def __init__(self, provider: Provider) -> None:
        self._guesser = Guesser(provider)

    def propose(self, asks: list[Ask], patience_seconds: float = inf) -> list[Proposal]:
        """The model's greedy continuation of each sequence; none for those that it still has to catch up with."""
        guesser = self._guesser
        for ask in asks:
            guesser.tell(ask.key, ask.token_ids)
        wanted = {ask.key: ask.num_tokens for ask in asks}
        guesser.step(wanted)
        ready = {key: count for key, count in wanted.items() if key in guesser and guesser.guesses(key)}
        while guesser.step(ready, catch_up_tokens=0, protected=wanted):
            pass
        return [self._proposal(ask) for ask in asks]

    def forget(self, key: int) -> None:
        """Give the sequence's blocks back."""
        self._guesser.forget(key)

    def check_integrity(self) -> None:
        """Raise AssertionError unless every held block belongs to exactly one sequence."""
        self._guesser.check_integrity()

    @property
    def num_blocks_used(self) -> int:
        """Of its cache."""
        return self._guesser.num_blocks_used

    def _proposal(self, ask: Ask) -> Proposal:
        guesses = self._guesser.guesses(ask.key)
        if guesses:
            return Proposal(tuple(guesses[: ask.num_tokens]))
        is_behind = self._guesser.room(ask.key) and self._guesser.num_behind(ask.key) > 1
        return Proposal((), reason=Fallback.BEHIND if is_behind else Fallback.NO_MATCH)
