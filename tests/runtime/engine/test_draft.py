"""A small model in the engine's process: it guesses as it would answer, whatever came of its earlier guesses."""

from __future__ import annotations

from itertools import count
from random import Random

import pytest
from fakes.paged_model import PagedModel

from flash_runtime.engine.draft import InProcessDraft
from flash_runtime.engine.loop import Engine, EngineLimits
from flash_runtime.engine.proposals import NOTHING, Ask, Fallback
from flash_runtime.engine.speculation import Speculation
from flash_runtime.wire import GenerateRequest


def test_its_proposals_are_the_models_greedy_continuation_after_any_acceptance() -> None:
    draw = Random(2)
    model = PagedModel(num_blocks=400)
    draft = InProcessDraft(model)
    sequences = [[draw.randrange(97) for _ in range(draw.randint(1, 30))] for _ in range(5)]
    for _ in range(120):
        asked = draw.sample(range(5), draw.randint(1, 5))
        asks = [Ask(key, sequences[key], draw.randint(1, 8)) for key in asked]
        proposals = draft.propose(asks)
        draft.check_integrity()
        for ask, proposal in zip(asks, proposals, strict=True):
            assert list(proposal.token_ids) == model.expected(sequences[ask.key], ask.num_tokens)
            held = draw.randint(0, ask.num_tokens)
            sequences[ask.key] += [*proposal.token_ids[:held], draw.randrange(97)]
        if draw.random() < 0.2:
            over = draw.randrange(5)
            draft.forget(over)
            sequences[over] = [draw.randrange(97)]
    for key in range(5):
        draft.forget(key)
    assert draft.num_blocks_used == 0


def test_a_long_prompt_is_caught_up_with_over_several_calls() -> None:
    model = PagedModel(num_blocks=400)
    draft = InProcessDraft(model)
    prompt = [at % 90 for at in range(600)]
    ask = Ask(0, prompt, 3)
    assert [draft.propose([ask])[0].reason for _ in range(2)] == [Fallback.BEHIND] * 2
    assert list(draft.propose([ask])[0].token_ids) == model.expected(prompt, 3)
    assert max(model.batch_sizes) == 256


def test_little_memory_serves_the_sequences_asked_about_last() -> None:
    model = PagedModel(num_blocks=8)
    draft = InProcessDraft(model)
    first, second, third = ([start, *range(12)] for start in (1, 2, 3))
    for key, token_ids in enumerate((first, second, third, first)):
        (proposal,) = draft.propose([Ask(key % 3, token_ids, 2)])
        assert list(proposal.token_ids) == model.expected(token_ids, 2)
        draft.check_integrity()
    together = draft.propose([Ask(0, first, 2), Ask(1, second, 2), Ask(2, third, 2)])
    assert sum(bool(proposal.token_ids) for proposal in together) == 2, "eight blocks hold two of them"
    for token_ids, proposal in zip((first, second, third), together, strict=True):
        assert not proposal.token_ids or list(proposal.token_ids) == model.expected(token_ids, 2)


def test_a_sequence_longer_than_the_drafts_context_gets_nothing() -> None:
    draft = InProcessDraft(PagedModel(max_context_tokens=16))
    assert len(draft.propose([Ask(0, [1] * 14, 8)])[0].token_ids) == 3
    assert draft.propose([Ask(0, [1] * 17, 8)]) == [NOTHING]


@pytest.mark.parametrize("lookahead", [None, 4])
def test_an_engine_with_its_own_twin_as_draft_answers_the_same_in_fewer_steps(lookahead: int | None) -> None:
    draw = Random(5)
    prompts = [[draw.randrange(97) for _ in range(draw.randint(1, 20))] for _ in range(12)]
    ticks = count()
    draft = InProcessDraft(PagedModel(num_blocks=64))
    speculation = Speculation(draft, vocab_size=97, clock=lambda: float(next(ticks)), lookahead=lookahead)
    model = PagedModel(num_blocks=40)
    engine = Engine(model, limits=EngineLimits(max_batch_tokens=64), speculation=speculation)
    for number, prompt in enumerate(prompts):
        engine.add(str(number), prompt, GenerateRequest(max_tokens=30))
    answers: list[list[int]] = [[] for _ in prompts]
    while engine.has_work:
        for output in engine.step():
            answers[int(output.request_id)] += output.token_ids
        draft.check_integrity()
        engine.check_integrity()
    assert answers == [model.expected(prompt, 30) for prompt in prompts]
    assert draft.num_blocks_used == 0
    assert engine.stats().accepted_tokens > (50 if lookahead is None else 100)
