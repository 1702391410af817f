"""A small model's greedy guesses at what follows: batched, with keys and values of its own, one step at a time.

It is told what a sequence has become; guesses that came true stand, and so does what was guessed after them, the rest
is dropped. Memory goes to the sequences told of last. Knows no engine and no transport. Legend: S sequences, T tokens,
B blocks.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Mapping
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Final, NamedTuple

import numpy as np

from flash_runtime.engine.batch import Batch, Provider
from flash_runtime.engine.blocks import NO_BLOCK, BlockPool

CATCH_UP_TOKENS: Final = 256
"""New tokens that one step computes, over all sequences: a bound on how long the others wait for it."""


@dataclass(slots=True)
class _State:
    """What is known of one sequence."""

    token_ids: Ids[int] = ()
    length: int = 0
    """Tokens of it that were told; the list may have grown since."""
    guesses: list[int] = field(default_factory=list)
    """What follows them, as far as it was guessed."""
    num_computed: int = 0
    """Tokens, and guesses after them, whose keys and values are in the blocks."""
    blocks: list[int] = field(default_factory=list)

    def settle(self, token_ids: Ids[int]) -> None:
        """Take in what the sequence has become."""
        length = len(token_ids)
        held = 0
        for guess, at in zip(self.guesses, range(self.length, length), strict=False):
            if guess != token_ids[at]:
                break
            held += 1
        if held == length - self.length:
            del self.guesses[:held]
        else:
            self.num_computed = min(self.num_computed, self.length + held)
            self.guesses.clear()
        self.token_ids, self.length = token_ids, length
        if not self.guesses:  # the last token is computed again if need be, for what follows it
            self.num_computed = min(self.num_computed, length - 1)


class _Piece(NamedTuple):
    """Consecutive tokens of one sequence."""

    state: _State
    token_ids: Ids[int]
    start: int
    wants_token: bool


class Guesser:
    """Guesses for many sequences over the provider of a small model."""

    def __init__(self, provider: Provider) -> None:
        self._provider = provider
        self._pool = BlockPool(provider.num_blocks, provider.block_size)
        self._states: OrderedDict[int, _State] = OrderedDict()
        """Told of last stands last."""

    def __len__(self) -> int:
        """Sequences that it keeps."""
        return len(self._states)

    def __contains__(self, key: int) -> bool:
        return key in self._states

    @property
    def num_blocks_used(self) -> int:
        """Of its cache."""
        return self._pool.num_used

    @property
    def num_blocks(self) -> int:
        """Of its cache, in all."""
        return self._pool.num_blocks

    def tell(self, key: int, token_ids: Ids[int]) -> None:
        """What the sequence is now: at each call longer at its end and otherwise the same."""
        state = self._states.setdefault(key, _State())
        self._states.move_to_end(key)
        state.settle(token_ids)

    def guesses(self, key: int) -> Ids[int]:
        """What follows the sequence as it was told, as far as it is guessed."""
        return self._states[key].guesses

    def num_behind(self, key: int) -> int:
        """Tokens of the sequence that are still to be computed."""
        state = self._states[key]
        return max(0, state.length - state.num_computed)

    def room(self, key: int) -> int:
        """Guesses that fit into the model's context after the sequence."""
        return max(0, self._provider.max_context_tokens - self._states[key].length + 1)

    def forget(self, key: int) -> None:
        """Give the sequence's blocks back."""
        state = self._states.pop(key, None)
        if state is not None:
            self._pool.release(state.blocks)

    def step(
        self, wanted: Mapping[int, int], *, catch_up_tokens: int = CATCH_UP_TOKENS, protected: Collection[int] = ()
    ) -> int:
        """One step towards so many guesses for each sequence; returns how many sequences were in it.

        A sequence that is behind computes of `catch_up_tokens` what others leave. Those that memory does not reach for
        are left out, and so is who is `protected` from giving theirs.
        """
        pieces: list[_Piece] = []
        budget = catch_up_tokens
        for key, count in wanted.items():
            state = self._states.get(key)
            if state is None:
                continue
            most = min(count, self.room(key))
            if len(state.guesses) >= most or not self._reserve(state, state.length + most - 1, wanted, protected):
                continue
            start = state.num_computed
            behind = state.length - start
            if behind <= 0 and start != state.length + len(state.guesses) - 1:
                continue  # the model had no finite answer there
            if behind <= 1:
                token = state.guesses[-1] if behind <= 0 else state.token_ids[start]
                pieces.append(_Piece(state, (token,), start, True))
            elif budget:
                end = min(state.length, start + budget)
                budget -= end - start
                pieces.append(_Piece(state, state.token_ids[start:end], start, end == state.length))
        if not pieces:
            return 0
        best = iter(self._provider.step(_batch(pieces)).best.tolist())
        for state, token_ids, _, wants_token in pieces:
            state.num_computed += len(token_ids)
            if wants_token and (token := next(best)) >= 0:
                state.guesses.append(token)
        return len(pieces)

    def check_integrity(self) -> None:
        """Raise AssertionError unless every held block belongs to exactly one sequence."""
        self._pool.check_integrity()
        held = [block for state in self._states.values() for block in state.blocks]
        assert len(set(held)) == len(held) == self._pool.num_used

    def _reserve(self, state: _State, num_tokens: int, wanted: Collection[int], protected: Collection[int]) -> bool:
        """Hold blocks for so many tokens, if need be those of sequences not told of for long."""
        missing = self._pool.blocks_for(num_tokens) - len(state.blocks)
        while missing > self._pool.num_free:
            oldest = next((key for key in self._states if key not in wanted and key not in protected), None)
            if oldest is None:
                return False
            self.forget(oldest)
        if missing > 0:
            state.blocks.extend(self._pool.allocate(missing))
        return True


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
