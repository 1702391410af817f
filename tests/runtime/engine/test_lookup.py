"""Prompt lookup finds what followed the last time, in bounded memory and time."""

from __future__ import annotations

from random import Random

import pytest

from flash_runtime.engine import lookup
from flash_runtime.engine.lookup import PromptLookup
from flash_runtime.engine.proposals import NOTHING, Ask, Proposal


def proposed(token_ids: list[int], count: int = 4) -> Proposal:
    return PromptLookup().propose([Ask(0, token_ids, count)])[0]


@pytest.mark.parametrize(
    ("token_ids", "expected"),
    [
        ([], []),
        ([7], []),
        ([1, 2, 3, 4], []),
        ([1, 2, 3, 4, 5, 9, 1, 2], [3, 4, 5, 9]),
        # The longer match wins over the later one.
        ([8, 1, 2, 3, 7, 1, 2, 4, 8, 1, 2], [3, 7, 1, 2]),
        # Among equals the later one.
        ([1, 2, 3, 1, 2, 4, 9, 1, 2], [4, 9, 1, 2]),
        # What repeats itself goes on repeating.
        ([5, 6, 5, 6, 5, 6], [5, 6, 5, 6]),
        ([5, 5, 5], [5, 5, 5, 5]),
    ],
)
def test_it_proposes_what_followed_the_longest_match(token_ids: list[int], expected: list[int]) -> None:
    assert list(proposed(token_ids).token_ids) == expected


def test_longer_matches_are_of_a_higher_kind() -> None:
    kinds = [proposed([*range(50), *range(50 - 20, 50 - 20 + length)]).kind for length in (2, 3, 5, 9, 17)]
    assert kinds == [0, 1, 2, 3, 4]


def test_a_growing_sequence_is_proposed_what_a_new_one_of_the_same_tokens_is() -> None:
    draw = Random(1)
    growing = PromptLookup()
    token_ids = [draw.randrange(6) for _ in range(20)]
    for _ in range(300):
        token_ids.append(draw.randrange(6))
        assert growing.propose([Ask(7, token_ids, 5)]) == [proposed(token_ids, 5)]


def test_a_long_prompt_is_indexed_over_several_calls() -> None:
    index = PromptLookup()
    token_ids = [*range(2000), 1000, 1001]
    calls = 1
    while index.propose([Ask(0, token_ids, 2)]) == [NOTHING]:
        calls += 1
    assert calls == 2002 // lookup._INDEXED_PER_CALL // 2 + 1
    assert list(index.propose([Ask(0, token_ids, 2)])[0].token_ids) == [1002, 1003]


def test_the_index_of_an_endless_sequence_stays_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_MOST_INDEXED", 64)
    index = PromptLookup()
    token_ids: list[int] = []
    for at in range(500):
        token_ids.append(at % 10)
        (proposal,) = index.propose([Ask(0, token_ids, 3)])
        if at > 20:
            assert list(proposal.token_ids) == [(at + ahead) % 10 for ahead in (1, 2, 3)]
    assert len(index._indices[0]._before) <= 64
    index.forget(0)
    index.forget(0)
    assert not index._indices
