"""Proposals change how fast an answer comes and nothing else about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from itertools import count
from random import Random

import numpy as np
import pytest
from fakes.draft_links import BadLink
from fakes.paged_model import PagedModel
from fakes.proposers import Always, Liar, Oracle
from numpy.typing import NDArray

from flash_runtime.engine.errors import NonFiniteLogits
from flash_runtime.engine.lookup import PromptLookup
from flash_runtime.engine.loop import Engine, EngineLimits, Output
from flash_runtime.engine.proposals import MAX_LOOKAHEAD, Fallback, Proposer
from flash_runtime.engine.remote import RemoteDraft
from flash_runtime.engine.speculation import Speculation
from flash_runtime.wire import FinishReason, GenerateRequest, TokenLogprobs

VOCAB = 97
REQUESTS = 1200
PROMPT = [5, 6, 7, 8, 9, 10]

Answer = tuple[list[int], list[TokenLogprobs], FinishReason | None, str | None]


def speculation(
    proposer: Proposer,
    lookahead: int | None = None,
    seconds: Callable[[], float] | None = None,
    beside: Proposer | None = None,
):
    ticks = count()
    clock = seconds or (lambda: float(next(ticks)))
    return Speculation(proposer, vocab_size=VOCAB, clock=clock, lookahead=lookahead, beside=beside)


class Residues:
    """A grammar that knows what may follow what: tokens whose remainder is not that of the one before."""

    def __init__(self, modulus: int) -> None:
        self._modulus = modulus
        self._last = 0

    def allowed(self) -> NDArray[np.bool_]:
        return np.arange(VOCAB) % self._modulus != self._last % self._modulus

    def advance(self, token_id: int) -> None:
        assert self.count_allowed([token_id]) == 1
        self._last = token_id

    def count_allowed(self, token_ids: Sequence[int]) -> int:
        last = self._last
        for at, token in enumerate(token_ids):
            if token % self._modulus == last % self._modulus:
                return at
            last = token
        return len(token_ids)


def run(engine: Engine) -> dict[str, Answer]:
    """Everything until the engine is idle: tokens, logprobs, why it ended and the error, per request."""
    outputs: dict[str, list[Output]] = {}
    while engine.has_work:
        for output in engine.step():
            outputs.setdefault(output.request_id, []).append(output)
        engine.check_integrity()
    assert engine.stats().kv_blocks_used == 0
    return {
        name: (
            [token for output in some for token in output.token_ids],
            [one for output in some for one in output.logprobs],
            some[-1].finish_reason,
            None if some[-1].error is None else str(some[-1].error),
        )
        for name, some in outputs.items()
    }


def a_request(draw: Random) -> tuple[list[int], GenerateRequest, int | None]:
    """A prompt, of which many share their beginning, a request that uses anything, and sometimes a grammar."""
    prompt = [draw.randrange(3) for _ in range(draw.randint(1, 18))]
    request = GenerateRequest(
        max_tokens=draw.randint(1, 24),
        temperature=draw.choice([0.0, 0.0, 0.7, 1.5]),
        top_p=draw.choice([1.0, 0.9]),
        top_k=draw.choice([0, 20]),
        min_p=draw.choice([0.0, 0.0, 0.1]),
        frequency_penalty=draw.choice([0.0, 0.0, 0.5]),
        presence_penalty=draw.choice([0.0, 0.0, -0.5]),
        repetition_penalty=draw.choice([1.0, 1.0, 1.2]),
        logit_bias=draw.choice([{}, {}, {1: 2.0, 2: 2.0}]),
        logprobs=draw.choice([None, None, 2]),
        stop_token_ids=draw.choice([(), (7, 8), tuple(range(60, 75))]),
        ignore_eos=draw.random() < 0.5,
        seed=draw.randrange(4),
        cache_salt=draw.choice(["", "tenant"]),
    )
    return prompt, request, draw.choice([None, None, None, 5])


def add_all(engine: Engine, requests: Sequence[tuple[list[int], GenerateRequest, int | None]]) -> None:
    for number, (prompt, request, modulus) in enumerate(requests):
        engine.add(str(number), prompt, request, mask=None if modulus is None else Residues(modulus))


def test_more_than_a_thousand_requests_get_the_same_answers_whatever_is_proposed() -> None:
    totals: Counter[str] = Counter()
    for round_number in count():
        if totals["requests"] >= REQUESTS:
            break
        draw = Random(round_number)
        requests = [a_request(draw) for _ in range(draw.randint(1, 24))]
        window = draw.choice([None, None, 6])
        plain = Engine(PagedModel(num_blocks=256, window=window), limits=EngineLimits(), eos_token_ids=(3,))
        add_all(plain, requests)
        expected = run(plain)

        # Few blocks and small budgets: preemption, chunked prefill and prefix hits.
        known = [prompt + expected[str(number)][0] for number, (prompt, _, _) in enumerate(requests)]
        kind = draw.choice([Oracle, Oracle, Liar])
        proposer: Proposer = kind(
            known, accuracy=draw.choice([0.0, 0.5, 0.9, 1.0]), vocab_size=VOCAB, seed=round_number
        )
        if draw.random() < 0.1:
            proposer = PromptLookup()
        elif draw.random() < 0.4:
            link = BadLink(PagedModel(num_blocks=draw.choice([30, 400]), window=window), seed=round_number)
            proposer = RemoteDraft(link, clock=partial(next, count()))
        drafts = speculation(
            proposer,
            draw.choice([None, None, 1, 3, MAX_LOOKAHEAD]),
            beside=None if proposer.is_free else draw.choice([None, PromptLookup()]),
        )
        engine = Engine(
            PagedModel(num_blocks=draw.randint(12, 40), window=window),
            limits=EngineLimits(max_running=draw.randint(1, 16), max_batch_tokens=draw.randint(4, 64)),
            eos_token_ids=(3,),
            speculation=drafts,
        )
        add_all(engine, requests)
        assert run(engine) == expected, f"round {round_number}"
        stats = engine.stats()
        assert stats.accepted_tokens <= stats.proposed_tokens
        assert stats.generated_tokens == plain.stats().generated_tokens
        totals["requests"] += len(requests)
        totals["proposed"] += stats.proposed_tokens
        totals["accepted"] += stats.accepted_tokens
        totals["preempted"] += stats.preemptions
        totals["cached"] += stats.cached_prompt_tokens
        totals.update({f"fallback {reason}": number for reason, number in stats.fallbacks})
    print(", ".join(f"{number} {what}" for what, number in sorted(totals.items())))
    for what in ("proposed", "accepted", "preempted", "cached", *(f"fallback {reason}" for reason in Fallback)):
        assert totals[what] > 10, f"hardly any {what}: the rounds test too little"


def test_a_right_proposal_saves_steps_and_is_counted() -> None:
    expected = PagedModel().expected(PROMPT, 40)
    engine = Engine(
        PagedModel(),
        limits=EngineLimits(),
        speculation=speculation(Oracle([PROMPT + expected], accuracy=1.0, vocab_size=VOCAB), 4),
    )
    engine.add("a", PROMPT, GenerateRequest(max_tokens=40))
    assert run(engine)["a"][0] == expected
    stats = engine.stats()
    assert stats.steps == stats.answers == 9, "the prompt's, seven of five tokens, one of the last four"
    assert stats.proposed_tokens == stats.accepted_tokens == 31


def test_a_wrong_proposal_leaves_no_block_behind() -> None:
    engine = Engine(PagedModel(), limits=EngineLimits(), speculation=speculation(Always(96), 8))
    engine.add("a", PROMPT, GenerateRequest(max_tokens=40))
    engine.step()
    engine.step()
    engine.check_integrity()
    assert engine.stats().proposed_tokens == 8
    assert engine.stats().kv_blocks_used == 2, "eight tokens in blocks of four"


class Contaminated(PagedModel):
    """One sequence's rows are NaN all together as soon as one of its tokens in the step is poison."""

    def step(self, batch):
        answers = super().step(batch)
        return answers._replace(best=np.full_like(answers.best, -1)) if 96 in batch.token_ids else answers


def test_a_proposal_that_spoils_the_step_costs_the_request_nothing() -> None:
    model = Contaminated()
    engine = Engine(model, limits=EngineLimits(), speculation=speculation(Always(96), 1))
    expected = PagedModel().expected(PROMPT, 12)
    assert 96 not in expected
    engine.add("a", PROMPT, GenerateRequest(max_tokens=12))
    assert run(engine)["a"][0] == expected
    assert engine.stats().proposed_tokens == 1, "after that it is left alone"


def test_logits_that_are_not_finite_fail_the_request_with_proposals_too() -> None:
    model = PagedModel()
    model.poisoned_token = 11
    expected = model.expected([*PROMPT], 6)
    model.poisoned_token = expected[2]
    engine = Engine(
        model,
        limits=EngineLimits(),
        speculation=speculation(Oracle([PROMPT + expected], accuracy=1.0, vocab_size=VOCAB), 2),
    )
    engine.add("a", PROMPT, GenerateRequest(max_tokens=6))
    tokens, _, reason, error = run(engine)["a"]
    assert (tokens, reason) == (expected[:3], None)
    assert error == str(NonFiniteLogits(error or ""))
    assert "position 9" in str(error)


def test_a_sequence_that_is_over_is_forgotten() -> None:
    oracle = Oracle([], accuracy=1.0, vocab_size=VOCAB)
    engine = Engine(PagedModel(), limits=EngineLimits(), speculation=speculation(oracle, 2))
    for name in ("a", "b"):
        engine.add(name, PROMPT, GenerateRequest(max_tokens=8))
    engine.step()
    engine.step()
    engine.cancel("a")
    assert oracle.forgotten == {0}
    run(engine)
    assert oracle.forgotten == {0, 1}


def test_prompts_are_computed_without_proposals_beside_them() -> None:
    model = PagedModel()
    oracle = Oracle([PROMPT + model.expected(PROMPT, 40)], accuracy=1.0, vocab_size=VOCAB)
    engine = Engine(model, limits=EngineLimits(max_batch_tokens=8), speculation=speculation(oracle, 4))
    engine.add("a", PROMPT, GenerateRequest(max_tokens=40))
    engine.step()
    engine.add("b", [1] * 60, GenerateRequest(max_tokens=1))
    while engine.stats().prompt_tokens < 66:
        engine.step()
        assert model.batch_sizes[-1] <= 8
    assert dict(engine.stats().fallbacks)[Fallback.PROMPTS] > 5
    assert engine.stats().proposed_tokens == 0


@pytest.mark.parametrize("lookahead", [0, 9])
def test_a_lookahead_out_of_range_is_refused(lookahead: int) -> None:
    with pytest.raises(ValueError, match=rf"lookahead \({lookahead}\) must be from 1 to 8"):
        speculation(PromptLookup(), lookahead)
