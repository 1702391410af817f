"""A draft elsewhere: what it says in time is used, what it said ahead is not asked for, and nothing else counts."""

from __future__ import annotations

from contextlib import suppress
from random import Random

import pytest
from fakes.draft_links import MemoryLink
from fakes.paged_model import PagedModel

from flash_runtime.draft_wire import Guesses, News, Refusal
from flash_runtime.engine.draft_server import IDLE_SECONDS
from flash_runtime.engine.lookahead import AHEAD_TOKENS
from flash_runtime.engine.proposals import Ask, Fallback, Proposal, ProposerError
from flash_runtime.engine.remote import RemoteDraft

PROMPT = [5, 6, 7, 8]


def remote(link: MemoryLink) -> RemoteDraft:
    return RemoteDraft(link, clock=lambda: link.now)


def test_its_proposals_are_the_models_greedy_continuation_after_any_acceptance() -> None:
    draw = Random(2)
    model = PagedModel(num_blocks=400)
    link = MemoryLink(model, steps_between=0)
    draft = remote(link)
    sequences = [[draw.randrange(97) for _ in range(draw.randint(1, 30))] for _ in range(5)]
    for _ in range(120):
        asked = draw.sample(range(5), draw.randint(1, 5))
        asks = [Ask(key, sequences[key], draw.randint(1, 8)) for key in asked]
        for ask, proposal in zip(asks, draft.propose(asks), strict=True):
            expected = model.expected(sequences[ask.key], ask.num_tokens)
            assert proposal.token_ids
            assert list(proposal.token_ids) == expected[: len(proposal.token_ids)]
            held = draw.randint(0, len(proposal.token_ids))
            sequences[ask.key] += [*proposal.token_ids[:held], draw.randrange(97)]
        if draw.random() < 0.2:
            over = draw.randrange(5)
            draft.forget(over)
            sequences[over] = [draw.randrange(97)]
    for key in range(5):
        draft.forget(key)
    draft.propose([Ask(9, [1], 1)])
    assert link.server.stats().sequences == 1, "what is forgotten here is forgotten there"


def test_what_was_guessed_ahead_is_there_without_waiting() -> None:
    model = PagedModel()
    link = MemoryLink(model)
    draft = remote(link)
    (first,) = draft.propose([Ask(0, PROMPT, 3)])
    expected = model.expected(PROMPT, 20)
    assert list(first.token_ids) == expected[:3]
    while link.server.has_work:
        link.work()
    # All held, and the target's own next token is the one that the draft expected too.
    (second,) = draft.propose([Ask(0, PROMPT + expected[:4], 3)], patience_seconds=0.0)
    assert list(second.token_ids) == expected[4:7]
    assert link.server.stats().ahead_tokens > 0


def test_of_what_is_at_hand_more_may_come_than_was_worth_waiting_for() -> None:
    model = PagedModel()
    link = MemoryLink(model)
    draft = remote(link)
    expected = model.expected(PROMPT, 20)
    (first,) = draft.propose([Ask(0, PROMPT, 1, 8)])
    assert (list(first.token_ids), first.was_at_hand) == (expected[:1], False)
    while link.server.has_work:
        link.work()
    (second,) = draft.propose([Ask(0, PROMPT + expected[:2], 1, 8)], patience_seconds=0.0)
    assert (list(second.token_ids), second.was_at_hand) == (expected[2 : 2 + AHEAD_TOKENS], True)
    while link.server.has_work:
        link.work()
    end = 2 + AHEAD_TOKENS + 1
    (third,) = draft.propose([Ask(0, PROMPT + expected[:end], 1)], patience_seconds=0.0)
    assert list(third.token_ids) == expected[end : end + 1], "no more than asked for"


def test_a_miss_drops_what_was_guessed_ahead() -> None:
    model = PagedModel()
    link = MemoryLink(model)
    draft = remote(link)
    draft.propose([Ask(0, PROMPT, 3)])
    while link.server.has_work:
        link.work()
    other = [*PROMPT, (model.expected(PROMPT, 1)[0] + 1) % 97]
    with pytest.raises(ProposerError, match="in time") as caught:
        draft.propose([Ask(0, other, 3)], patience_seconds=0.0)
    assert caught.value.reason is Fallback.LATE
    (proposal,) = draft.propose([Ask(0, other, 3)], patience_seconds=1.0)
    assert list(proposal.token_ids) == model.expected(other, 3)


def test_only_ids_that_are_new_travel() -> None:
    sent: list[News] = []

    class Spy(MemoryLink):
        def send(self, news) -> None:
            sent.extend(news)
            super().send(news)

    link = Spy(PagedModel())
    draft = remote(link)
    sequence = list(PROMPT)
    for _ in range(5):
        (proposal,) = draft.propose([Ask(0, sequence, 2)])
        told = list(sequence)
        sequence += proposal.token_ids
    assert [token for news in sent for token in news.token_ids] == told


def test_after_a_reconnection_everything_is_told_again() -> None:
    model = PagedModel()
    link = MemoryLink(model)
    draft = remote(link)
    draft.propose([Ask(0, PROMPT, 2)])
    link.server.close("1")
    link.epoch = 2
    link.connect()
    (proposal,) = draft.propose([Ask(0, [*PROMPT, 3], 2)])
    assert list(proposal.token_ids) == model.expected([*PROMPT, 3], 2)


def test_a_draft_that_lost_a_sequence_is_told_it_from_the_beginning() -> None:
    model = PagedModel()
    link = MemoryLink(model)
    draft = remote(link)
    draft.propose([Ask(0, PROMPT, 2)])
    link.server.hear("1", object(), [News(0, 0, -1, ())])
    longer = [*PROMPT, 3, 4]
    assert draft.propose([Ask(0, longer, 2)])[0].reason is Fallback.BEHIND
    assert list(draft.propose([Ask(0, longer, 2)])[0].token_ids) == model.expected(longer, 2)


def test_a_full_draft_says_so_and_takes_others_once_its_own_fall_silent() -> None:
    model = PagedModel(num_blocks=400)
    link = MemoryLink(model, max_sequences=2)
    draft = remote(link)
    asks = [Ask(key, [key, *PROMPT], 2) for key in range(3)]
    proposals = draft.propose(asks)
    assert [bool(proposal.token_ids) for proposal in proposals] == [True, True, False]
    assert proposals[2].reason is Fallback.OVERLOADED
    link.now += 2 * IDLE_SECONDS
    (late,) = draft.propose([Ask(3, [3, *PROMPT], 2)])
    assert list(late.token_ids) == model.expected([3, *PROMPT], 2)


def test_a_long_prompt_is_read_while_others_are_answered() -> None:
    model = PagedModel(num_blocks=400)
    link = MemoryLink(model, steps_between=2)
    draft = remote(link)
    long = [at % 90 for at in range(600)]
    reasons = []
    for _ in range(10):
        short, slow = draft.propose([Ask(0, PROMPT, 2), Ask(1, long, 2)])
        assert list(short.token_ids) == model.expected(PROMPT, 2)
        reasons.append(slow.reason if not slow.token_ids else None)
    assert reasons[0] is Fallback.BEHIND
    assert reasons[-1] is None
    assert max(model.batch_sizes) <= 64 + 2


@pytest.mark.parametrize(
    "lie",
    [
        Guesses(0, 7, (1, 2, 3)),
        Guesses(0, 10_000, (1, 2, 3)),
        Guesses(5, 4, (1, 2, 3)),
        Guesses(0, 3, (8, 1, 1, 1, 1, 1, 1)),
    ],
    ids=["of a length not told", "of an absurd length", "of no sequence", "of an older length"],
)
def test_an_answer_that_is_not_of_the_sequence_as_it_is_now_proposes_nothing_wrong(lie: Guesses) -> None:
    class Lying(MemoryLink):
        def receive(self, timeout_seconds: float) -> list[Guesses] | None:
            return [lie] if super().receive(timeout_seconds) is not None else None

    link = Lying(PagedModel(), steps_between=0)
    draft = remote(link)
    found: list[Proposal] = []
    with suppress(ProposerError):
        found = draft.propose([Ask(0, PROMPT, 2)], patience_seconds=0.2)
    assert found in ([], [Proposal((1, 1))]), "of guesses that follow three ids, the first is the fourth"


def test_a_draft_past_its_context_refuses_and_goes_on_with_others() -> None:
    model = PagedModel(max_context_tokens=16)
    link = MemoryLink(model)
    draft = remote(link)
    proposals = draft.propose([Ask(0, [1] * 17, 8), Ask(1, PROMPT, 2)])
    assert not proposals[0].token_ids
    assert list(proposals[1].token_ids) == model.expected(PROMPT, 2)


def test_a_refusal_of_a_sequence_it_does_not_know_is_told_with_what_it_knows() -> None:
    link = MemoryLink(PagedModel())
    link.server.hear("1", object(), [News(4, 9, 2, [1])])
    (answer,) = link.server.step()
    assert answer.guesses == [Guesses(4, 0, (), Refusal.UNKNOWN)]


def test_ids_outside_the_drafts_vocabulary_are_refused() -> None:
    link = MemoryLink(PagedModel())
    link.server.hear("1", object(), [News(4, 0, 2, [1, 97])])
    (answer,) = link.server.step()
    assert answer.guesses[0].refusal is Refusal.UNKNOWN
    assert link.server.stats().sequences == 0
