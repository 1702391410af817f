"""A draft in another process as the proposer: tells it what is new, takes its guesses, never waits beyond its patience.

Whatever a draft sends is matched against the sequences as they are now: what is late, of another length or of no
sequence is dropped. Knows no transport: a link brings messages there and back.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from flash_runtime.draft_wire import FORGET, Guesses, News, Refusal
from flash_runtime.engine.proposals import MAX_LOOKAHEAD, NOTHING, Ask, Fallback, Proposal, ProposerError

_MOST_GUESSES: Final = 4 * MAX_LOOKAHEAD
"""Of one sequence that are kept; nobody sends more."""
_FULL_ASKS: Final = 256
"""A sequence that the draft has no room for is offered again after so many asks."""
_MOST_TOLD: Final = 65_536
"""Tokens of one message."""


class Link(Protocol):
    """The way to one draft at a time. Its methods are called by the engine's thread and never block but `receive`."""

    @property
    def epoch(self) -> int:
        """Grows with each connection: what was told before is not known there. 0 = never connected."""

    def send(self, news: Ids[News]) -> None:
        """Pass news on. Raises ProposerError, with the reason, where there is no draft to tell."""

    def receive(self, timeout_seconds: float) -> list[Guesses] | None:
        """What has arrived; None when nothing came in time. Raises ProposerError when the draft is gone."""


@dataclass(slots=True)
class _Told:
    """What the draft knows of one sequence, and what it said."""

    length: int = 0
    """Tokens that it was told."""
    guesses: Ids[int] = ()
    after: int = 0
    """Tokens of the sequence that the guesses follow."""
    reason: Fallback = Fallback.NO_MATCH
    pause: int = 0
    """Asks to pass over."""


class RemoteDraft:
    """Implements `flash_runtime.engine.proposals.Proposer` over a link."""

    is_free = False
    runs_ahead = True

    def __init__(self, link: Link, *, clock: Callable[[], float]) -> None:
        self._link = link
        self._clock = clock
        self._epoch = 0
        self._told: dict[int, _Told] = {}
        self._over: list[int] = []

    def propose(self, asks: list[Ask], patience_seconds: float = inf) -> list[Proposal]:
        """What the draft guesses, of what it already sent or as soon as it answers; LATE when it answers too late."""
        deadline = self._clock() + patience_seconds
        self._meet()
        while (guesses := self._link.receive(0.0)) is not None:
            self._take(guesses)
        awaited = self._tell(asks)
        waited = {ask.key for ask in awaited}
        late = False
        while awaited and not late:
            guesses = self._link.receive(max(0.0, deadline - self._clock()))
            if guesses is None:
                late = True
            else:
                self._take(guesses)
                awaited = [ask for ask in awaited if self._is_awaited(ask)]
        proposals = [self._proposal(ask, was_at_hand=ask.key not in waited) for ask in asks]
        if late and not any(proposal.token_ids for proposal in proposals):
            raise ProposerError("the draft did not answer in time", Fallback.LATE)
        return proposals

    def forget(self, key: int) -> None:
        """Its end is told with the next news."""
        if self._told.pop(key, None) is not None:
            self._over.append(key)

    def _meet(self) -> None:
        epoch = self._link.epoch
        if epoch != self._epoch:
            self._epoch = epoch
            self._told.clear()
            self._over.clear()

    def _tell(self, asks: list[Ask]) -> list[Ask]:
        """Send what is new; returns the asks whose answers are worth waiting for."""
        news = [News(key, 0, FORGET, ()) for key in self._over]
        self._over.clear()
        awaited = []
        for ask in asks:
            told = self._told.get(ask.key)
            if told is None:
                told = self._told[ask.key] = _Told()
            if told.pause:
                told.pause -= 1
                continue
            length = len(ask.token_ids)
            end = min(length, told.length + _MOST_TOLD)
            news.append(News(ask.key, told.length, ask.num_tokens, ask.token_ids[told.length : end]))
            told.length = end
            told.reason = Fallback.NO_MATCH
            if 2 * len(self._standing(ask)) < ask.num_tokens:
                awaited.append(ask)
        if news:
            self._link.send(news)
        return awaited

    def _take(self, guesses: list[Guesses]) -> None:
        for key, length, token_ids, refusal in guesses:
            told = self._told.get(key)
            if told is None:
                continue
            if refusal in (Refusal.UNKNOWN, Refusal.FULL):
                told.length, told.after, told.guesses = 0, 0, ()
            elif not told.after <= length <= told.length:
                continue
            match refusal:
                case None:
                    told.guesses, told.after, told.reason = token_ids[:_MOST_GUESSES], length, Fallback.NO_MATCH
                case Refusal.UNKNOWN:
                    told.reason = Fallback.BEHIND
                case Refusal.FULL:
                    told.reason, told.pause = Fallback.OVERLOADED, _FULL_ASKS
                case Refusal.BEHIND:
                    told.guesses, told.after, told.reason = (), length, Fallback.BEHIND

    def _is_awaited(self, ask: Ask) -> bool:
        """Whether the draft has not said anything yet about the sequence as it is now."""
        told = self._told[ask.key]
        return told.reason is Fallback.NO_MATCH and told.after != len(ask.token_ids)

    def _standing(self, ask: Ask) -> Ids[int]:
        """Guesses beyond the end of the sequence, if those before it came true."""
        told = self._told[ask.key]
        grown = len(ask.token_ids) - told.after
        if not 0 <= grown <= len(told.guesses) or list(told.guesses[:grown]) != list(ask.token_ids[told.after :]):
            return ()
        return told.guesses[grown:]

    def _proposal(self, ask: Ask, *, was_at_hand: bool) -> Proposal:
        standing = self._standing(ask)
        if standing:
            return Proposal(tuple(standing[: max(ask.num_tokens, ask.num_at_hand)]), was_at_hand=was_at_hand)
        reason = self._told[ask.key].reason
        return NOTHING if reason is Fallback.NO_MATCH else Proposal((), reason=reason)
