"""The seam between the engine and whoever proposes tokens: a sequence's ids go out, ids that may follow come back.

Knows no model, no transport and no request. A proposal is a guess: the engine verifies it, so a wrong one costs time
and changes no answer.
"""

from __future__ import annotations

from collections.abc import Sequence as Ids
from typing import Final, NamedTuple, Protocol

MAX_LOOKAHEAD: Final = 8
"""Tokens that may be proposed at once for one sequence."""


class ProposerError(Exception):
    """The proposer has nothing to say now: its connection is gone, its time was up, it has no memory left."""


class Ask(NamedTuple):
    """One sequence whose next tokens are wanted."""

    key: int
    """Names the sequence until it is forgotten."""
    token_ids: Ids[int]
    """Prompt and output. It is the engine's own list: to be read during the call, and at each call longer at its end
    and otherwise the same."""
    num_tokens: int
    """Tokens wanted at most, at least 1."""


class Proposal(NamedTuple):
    """Tokens that may come next."""

    token_ids: Ids[int]
    kind: int = 0
    """Proposals of one kind hold about equally often; a small number, from 0."""


NOTHING: Final = Proposal(())


class Proposer(Protocol):
    """Guesses tokens. Called by the engine's thread, between its steps."""

    is_free: bool
    """Whether asking costs next to nothing, so that the engine may ask for what it will not verify."""

    def propose(self, asks: list[Ask]) -> list[Proposal]:
        """A proposal for each ask, NOTHING where there is none. Raises ProposerError instead of waiting long."""

    def forget(self, key: int) -> None:
        """The sequence is over; its key may be given to another one. Unknown keys are fine."""
