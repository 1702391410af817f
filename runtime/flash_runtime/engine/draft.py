"""A small model in the engine's own process as the proposer: greedy, batched, with keys and values of its own.

It sees a sequence only when it is asked about it: then it computes what is new, drops its guesses that did not hold,
and guesses on. A long prompt takes several calls. Memory goes to the sequences asked about last. Legend: S sequences,
T tokens, B blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from flash_runtime.engine.batch import NO_TOKEN, Batch, Provider
from flash_runtime.engine.blocks import NO_BLOCK, BlockPool
from flash_runtime.engine.proposals import NOTHING, Ask, Proposal

_CATCH_UP_TOKENS: Final = 256
"""New tokens that one call computes, over all sequences: a bound on how long the engine's streams wait for it."""


@dataclass(slots=True)
class _State:
    """What is computed of one sequence."""

    blocks: list[int] = field(default_factory=list)
    num_computed: int = 0
    """Tokens of the sequence whose keys and values are in the blocks."""
    guesses: list[int] = field(default_factory=list)
    """Tokens computed after those; they may turn out to be the sequence's own."""


class _Piece(NamedTuple):
    """Consecutive tokens of one sequence."""

    state: _State
    token_ids: Ids[int]
    start: int
    wants_token: bool


class InProcessDraft:
    """Implements `flash_runtime.engine.proposals.Proposer` over the provider of a small model."""

    is_free = False

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._pool = BlockPool(provider.num_blocks, provider.block_size)
        self._states: OrderedDict[int, _State] = OrderedDict()
        """Asked about last stands last."""

    def propose(self, asks: list[Ask]) -> list[Proposal]:
        """The model's greedy continuation of each sequence; NOTHING for those that it still has to catch up with."""
        for ask in asks:
            self._states.setdefault(ask.key, _State())
            self._states.move_to_end(ask.key)
        budget = _CATCH_UP_TOKENS
        pieces: list[_Piece] = []
        ready: dict[int, int] = {}
        asked = {ask.key for ask in asks}
        for key, token_ids, count in asks:
            state = self._states[key]
            _settle(state, token_ids)
            length = len(token_ids)
            end = min(length, state.num_computed + budget)
            room = min(count, self._provider.max_context_tokens - length + 1)
            if end == state.num_computed or room < 1 or not self._reserve(state, length + room - 1, asked):
                continue
            pieces.append(_Piece(state, token_ids[state.num_computed : end], state.num_computed, end == length))
            budget -= end - state.num_computed
            state.num_computed = end
            if end == length:
                ready[key] = room
        guessed = self._guess(pieces, list(ready.values()))
        found = dict(zip(ready, guessed, strict=True))
        return [Proposal(found[ask.key]) if found.get(ask.key) else NOTHING for ask in asks]

    def forget(self, key: int) -> None:
        """Give the sequence's blocks back."""
        state = self._states.pop(key, None)
        if state is not None:
            self._pool.release(state.blocks)

    def check_integrity(self) -> None:
        """Raise AssertionError unless every held block belongs to exactly one sequence."""
        self._pool.check_integrity()
        held = [block for state in self._states.values() for block in state.blocks]
        assert len(set(held)) == len(held) == self._pool.num_used

    def _guess(self, pieces: list[_Piece], counts: list[int]) -> list[list[int]]:
        """Up to so many tokens for each piece that wants some; computes all pieces."""
        guessed: list[list[int]] = [[] for _ in counts]
        states = [piece.state for piece in pieces if piece.wants_token]
        live = list(range(len(counts)))
        while pieces:
            best = self._provider.step(_batch(pieces)).best.tolist()
            pieces = []
            still = []
            for index, token in zip(live, best, strict=True):
                if token == NO_TOKEN:
                    continue
                guessed[index].append(token)
                if len(guessed[index]) < counts[index]:
                    state = states[index]
                    pieces.append(_Piece(state, (token,), state.num_computed + len(state.guesses), True))
                    state.guesses.append(token)
                    still.append(index)
            live = still
        return guessed

    def _reserve(self, state: _State, num_tokens: int, asked: Iterable[int]) -> bool:
        """Hold blocks for so many tokens, if need be those of sequences not asked about for long."""
        missing = self._pool.blocks_for(num_tokens) - len(state.blocks)
        while missing > self._pool.num_free:
            oldest = next((key for key in self._states if key not in asked), None)
            if oldest is None:
                return False
            self.forget(oldest)
        if missing > 0:
            state.blocks.extend(self._pool.allocate(missing))
        return True


def _settle(state: _State, token_ids: Ids[int]) -> None:
    """Keep the guesses that came true; the last token is computed again if need be, for what follows it."""
    for guess in state.guesses:
        if state.num_computed >= len(token_ids) or guess != token_ids[state.num_computed]:
            break
        state.num_computed += 1
    state.guesses.clear()
    state.num_computed = min(state.num_computed, len(token_ids) - 1)


def _batch(pieces: list[_Piece]) -> Batch:
    token_ids: list[int] = []
    positions: list[int] = []
    query_starts = [0]
    best_rows: list[int] = []
    width = max(len(piece.state.blocks) for piece in pieces)
    for piece in pieces:
        token_ids += piece.token_ids
        positions += range(piece.start, piece.start + len(piece.token_ids))
        query_starts.append(len(token_ids))
        if piece.wants_token:
            best_rows.append(len(token_ids) - 1)
    tables = [piece.state.blocks + [NO_BLOCK] * (width - len(piece.state.blocks)) for piece in pieces]
    return Batch(
        token_ids=np.array(token_ids, dtype=np.int32),  # [T]
        positions=np.array(positions, dtype=np.int32),  # [T]
        query_starts=np.array(query_starts, dtype=np.int32),  # [S + 1]
        block_tables=np.array(tables, dtype=np.int32),  # [S, B]
        logit_rows=np.empty(0, dtype=np.int32),
        best_rows=np.array(best_rows, dtype=np.int32),
    )
