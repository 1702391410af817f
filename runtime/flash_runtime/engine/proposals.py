"""The seam between the engine and whoever proposes tokens: a sequence's ids go out, ids that may follow come back.

Knows no model, no transport and no request. A proposal is a guess: the engine verifies it, so a wrong one costs time
and changes no answer.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from enum import StrEnum
from typing import Final, NamedTuple, Protocol

MAX_LOOKAHEAD: Final = 8
"""Tokens that may be proposed at once for one sequence."""


class Fallback(StrEnum):
    """Why a sequence got no proposal in a step, or not all of one."""

    NO_MATCH = "no_match"
    """The proposer had none."""
    BELOW_BREAK_EVEN = "below_break_even"
    """Verifying would have cost more than it promised."""
    PROMPTS = "prompts"
    """The step computed prompts."""
    NO_ROOM = "no_room"
    """The step's budget, the KV cache or the answer's length left no room."""
    FAILED = "failed"
    """The proposer said that it cannot."""
    INVALID = "invalid"
    """It proposed something that no proposal may be; what stands before that is used."""
    GRAMMAR = "grammar"
    """The request's token mask forbids what was proposed."""
    DISCONNECTED = "disconnected"
    """No draft is connected."""
    LATE = "late"
    """The draft did not answer while waiting for it could still pay."""
    OVERLOADED = "overloaded"
    """The draft has no room for this sequence."""
    BEHIND = "behind"
    """The draft still reads the sequence."""
    TOKENIZER = "tokenizer"
    """The drafts have another tokenizer."""
    REVISION = "revision"
    """The drafts are of another revision of the deployment."""


class ProposerError(Exception):
    """The proposer has nothing to say now: its connection is gone, its time was up, it has no memory left."""

    def __init__(self, message: str, reason: Fallback = Fallback.FAILED) -> None:
        super().__init__(message)
        self.reason = reason


class Ask(NamedTuple):
    """One sequence whose next tokens are wanted."""

    key: int
    """Names the sequence until it is forgotten."""
    token_ids: Ids[int]
    """Prompt and output. It is the engine's own list: to be read during the call, and at each call longer at its end
    and otherwise the same."""
    num_tokens: int
    """Tokens that are worth their wait, at least 1."""
    num_at_hand: int = 0
    """So many may come where they are there already; fewer than `num_tokens` = no more than those."""


class Proposal(NamedTuple):
    """Tokens that may come next."""

    token_ids: Ids[int]
    kind: int = 0
    """Proposals of one kind hold about equally often; a small number, from 0."""
    reason: Fallback = Fallback.NO_MATCH
    """Why there are none, where there are none."""
    was_at_hand: bool = False
    """Whether they were there already, so that what the call took says nothing about what guessing takes."""


NOTHING: Final = Proposal(())


class Proposer(Protocol):
    """Guesses tokens. Called by the engine's thread, between its steps."""

    is_free: bool
    """Whether asking costs next to nothing, so that the engine may ask for what it will not verify."""
    runs_ahead: bool
    """Whether it guesses on while its guesses are verified: where all of them hold, nobody waits for the next ones."""

    def propose(self, asks: list[Ask], patience_seconds: float = ...) -> list[Proposal]:
        """A proposal for each ask, an empty one where there is none.

        Who waits for somebody else waits no longer than `patience_seconds`: after that, proposals would not pay. Raises
        ProposerError where it can say nothing at all.
        """

    def forget(self, key: int) -> None:
        """The sequence is over; its key may be given to another one. Unknown keys are fine."""
