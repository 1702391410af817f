"""Prompt lookup: proposes what followed the last time a sequence's latest tokens stood together. Needs no model.

The method is prompt-lookup decoding (Saxena 2023), the index that of LZ77 coders: the latest place of each pair of
tokens, and for each place the one before it with the same pair. Memory is bounded, and so is the time of one call: long
prompts are indexed over several calls.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Sequence as Ids
from math import inf
from typing import Final

from flash_runtime.engine.proposals import NOTHING, Ask, Proposal

_PAIR: Final = 2
_LONGEST_MATCH: Final = 24
_KINDS: Final = (3, 5, 9, 17)
"""A match shorter than 3 tokens is of kind 0, shorter than 5 of kind 1, and so on: longer ones hold more often."""
_PLACES: Final = 8
"""Earlier places that are compared, latest first."""
_INDEXED_PER_CALL: Final = 512
"""Tokens that one call takes into the index, over all sequences."""
_MOST_INDEXED: Final = 65_536
"""Of one sequence; then the index starts again with its latest half."""
_NONE: Final = -1


class PromptLookup:
    """Implements `flash_runtime.engine.proposals.Proposer`."""

    is_free = True
    runs_ahead = False

    def __init__(self) -> None:
        self._indices: dict[int, _Index] = {}

    def propose(self, asks: list[Ask], patience_seconds: float = inf) -> list[Proposal]:
        """The continuation of the longest match of each sequence's end."""
        budget = _INDEXED_PER_CALL
        proposals = []
        for key, token_ids, count, _ in asks:
            index = self._indices.get(key)
            if index is None:
                index = self._indices[key] = _Index()
            budget -= index.take_in(token_ids, budget)
            proposals.append(index.propose(token_ids, count))
        return proposals

    def forget(self, key: int) -> None:
        """Drop the sequence's index."""
        self._indices.pop(key, None)


class _Index:
    """Where each pair of tokens of one sequence stands. A place is the position after the pair."""

    def __init__(self) -> None:
        self._latest: dict[int, int] = {}
        self._first = self._end = 0
        """Pairs that end before `_end` are in; places before `_first` are forgotten."""
        self._before: array[int] = array("i")
        """For each place from `_first` on, the one before it with the same pair."""

    def take_in(self, token_ids: Ids[int], budget: int) -> int:
        """Index tokens that are new, at most so many; returns how many. The last token waits for its follower."""
        last = len(token_ids) - 1
        if last - self._first > _MOST_INDEXED:
            self._latest.clear()
            del self._before[:]
            self._first = self._end = last - _MOST_INDEXED // 2
        begin = self._end
        end = min(last, begin + budget)
        if end <= begin:
            return 0
        latest, before = self._latest, self._before
        for at in range(begin, end):
            place = at + 1
            pair = (token_ids[at - 1] << 32) | token_ids[at] if at else _NONE
            before.append(latest.get(pair, _NONE))
            latest[pair] = place
        self._end = end
        return end - begin

    def propose(self, token_ids: Ids[int], count: int) -> Proposal:
        length = len(token_ids)
        if length < _PAIR:
            return NOTHING
        place = self._latest.get((token_ids[-2] << 32) | token_ids[-1], _NONE)
        best, best_match = _NONE, 0
        for _ in range(_PLACES):
            if place == _NONE:
                break
            match = _PAIR
            most = min(place, _LONGEST_MATCH)
            while match < most and token_ids[place - 1 - match] == token_ids[length - 1 - match]:
                match += 1
            if match > best_match:
                best, best_match = place, match
                if match == _LONGEST_MATCH:
                    break
            place = self._before[place - 1 - self._first]
        if best == _NONE:
            return NOTHING
        proposed = list(token_ids[best : best + count])
        while len(proposed) < count:  # what repeats itself goes on repeating
            proposed.append(proposed[len(proposed) - (length - best)])
        return Proposal(proposed, bisect_right(_KINDS, best_match))
