"""Which sequences of a step get proposals, and how many tokens each; learns from what came of them.

A step that also computes prompts gets none, and proposals take only budget and blocks that nobody else wants, so they
are never in the way. Knows no model and no transport.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from flash_runtime.engine.batch import Answers, Batch, Provider
from flash_runtime.engine.lookahead import Acceptance, StepCosts, plan
from flash_runtime.engine.proposals import MAX_LOOKAHEAD, NOTHING, Ask, Proposal, Proposer, ProposerError
from flash_runtime.engine.scheduler import Chunk, Scheduler
from flash_runtime.engine.sequence import Sequence

_FIRST_GUESS: Final = 0.6
"""How often proposals hold before any was tried."""
_SLOW_MEMORY: Final = 0.998
"""Of what is known of all sequences together."""
_PATIENCE: Final = (16, 512)
"""Steps without proposals before a proposer that costs time is tried again: at first, and at most."""
_TRIAL: Final = 2
"""Tokens of such a trial."""
_BLEND: Final = 0.2


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


@dataclass(slots=True)
class _Track:
    """What is known of one sequence."""

    key: int
    kinds: dict[int, Acceptance] = field(default_factory=dict)
    proposal: Proposal = NOTHING
    idle_steps: int = 0
    patience: int = _PATIENCE[0]
    is_given_up: bool = False


class Speculation:
    """A proposer, and the measured worth of its proposals."""

    def __init__(
        self, proposer: Proposer, *, vocab_size: int, clock: Callable[[], float], lookahead: int | None = None
    ) -> None:
        """`lookahead`: tokens to propose for each sequence; None = what pays. `clock`: seconds, steadily rising."""
        if lookahead is not None and not 1 <= lookahead <= MAX_LOOKAHEAD:
            raise ValueError(f"lookahead ({lookahead}) must be from 1 to {MAX_LOOKAHEAD}, or unset for what pays")
        self.proposed_tokens = 0
        """Tokens that were verified."""
        self.accepted_tokens = 0
        self.fallbacks: Counter[Fallback] = Counter()
        self.costs = StepCosts()
        self._proposer = proposer
        self._vocab_size = vocab_size
        self._clock = clock
        self._lookahead = lookahead
        self._tracks: dict[Sequence, _Track] = {}
        self._kinds: dict[int, Acceptance] = {}
        """Of all sequences together: what a new one starts from."""
        self._num_keys = 0
        self._width = 0
        """Tokens of the step that was joined last; 0 = one that computes prompts, whose cost says nothing here."""
        self._token_seconds = 0.0
        """What one more token of the longest proposal costs the proposer."""

    def join(self, chunks: list[Chunk], scheduler: Scheduler) -> list[Chunk]:
        """The step's chunks, with proposals to verify after those that decode."""
        self._width = 0
        if not all(chunk.is_decode for chunk in chunks):
            self.fallbacks.update(Fallback.PROMPTS for chunk in chunks if chunk.is_decode)
            return chunks
        tracks = [self._track(chunk.sequence) for chunk in chunks]
        most = self._lookahead or MAX_LOOKAHEAD
        limits = []
        for (sequence, _, _, _), track in zip(chunks, tracks, strict=True):
            # The token after the last proposal is sampled too, and must fit into the answer.
            room = sequence.max_total_tokens - len(sequence.token_ids) - 1
            limits.append(0 if track.is_given_up else most if room >= most else room)
        counts = limits if self._proposer.is_free or self._lookahead else self._planned(tracks, limits)
        proposals = self._ask(chunks, tracks, counts)
        if self._proposer.is_free and not self._lookahead:
            counts = self._worth(tracks, proposals)
        else:
            counts = [len(proposal.token_ids) for proposal in proposals]
        self._width = len(chunks)
        spare = scheduler.max_batch_tokens - len(chunks)
        joined = []
        for chunk, track, proposal, count in zip(chunks, tracks, proposals, counts, strict=True):
            track.proposal = proposal
            room = self._fit(chunk.sequence, proposal.token_ids[:count], spare, scheduler) if count else 0
            if room:
                spare -= room
                self._width += room
                self.proposed_tokens += room
            joined.append(chunk._replace(proposed=tuple(proposal.token_ids[:room])) if room else chunk)
        return joined

    def timed(self, provider: Provider, batch: Batch) -> Answers:
        """Run the step that was joined last, and learn what it costs."""
        began = self._clock()
        answers = provider.step(batch)
        if self._width:
            self.costs.observe(self._width, self._clock() - began)
        return answers

    def learn(self, sequence: Sequence, num_proposed: int, token_ids: Ids[int]) -> None:
        """Tokens that the sequence got in this step; also of proposals that were not verified, the first is judged."""
        track = self._tracks.get(sequence)
        if track is None or not track.proposal.token_ids:
            return
        (guessed, kind), track.proposal = track.proposal, NOTHING
        held = 0
        for guess, token in zip(guessed, token_ids, strict=False):
            if guess != token:
                break
            held += 1
        missed = held < len(guessed) and held < len(token_ids)
        if num_proposed:
            self.accepted_tokens += min(held, num_proposed)
        if held or missed:
            self._of_kind(self._kinds, kind, _SLOW_MEMORY).learn(held, missed)
            self._of_kind(track.kinds, kind).learn(held, missed)

    def give_up(self, sequence: Sequence) -> None:
        """No more proposals for this sequence."""
        self._track(sequence).is_given_up = True

    def forget(self, sequence: Sequence) -> None:
        """The sequence is over."""
        track = self._tracks.pop(sequence, None)
        if track is not None:
            self._proposer.forget(track.key)

    def _track(self, sequence: Sequence) -> _Track:
        track = self._tracks.get(sequence)
        if track is None:
            track = self._tracks[sequence] = _Track(self._num_keys)
            self._num_keys += 1
        return track

    def _ask(self, chunks: list[Chunk], tracks: list[_Track], counts: list[int]) -> list[Proposal]:
        """One proposal for each chunk, of ids that exist and no longer than asked for."""
        asks = [
            Ask(track.key, chunk.sequence.token_ids, count)
            for chunk, track, count in zip(chunks, tracks, counts, strict=True)
            if count > 0
        ]
        if not asks:
            return [NOTHING] * len(chunks)
        began = self._clock()
        try:
            answers = self._proposer.propose(asks)
        except ProposerError:
            self.fallbacks[Fallback.FAILED] += len(asks)
            return [NOTHING] * len(chunks)
        seconds = self._clock() - began
        if len(answers) != len(asks):
            self.fallbacks[Fallback.INVALID] += len(asks)
            return [NOTHING] * len(chunks)
        if all(answer.token_ids for answer in answers):  # otherwise it may have been busy catching up
            per_token = seconds / max(ask.num_tokens for ask in asks)
            self._token_seconds += _BLEND * (per_token - self._token_seconds) if self._token_seconds else per_token
        found = iter(answers)
        return [self._checked(next(found), count) if count > 0 else NOTHING for count in counts]

    def _checked(self, proposal: Proposal, count: int) -> Proposal:
        token_ids = proposal.token_ids
        if not token_ids:
            self.fallbacks[Fallback.NO_MATCH] += 1
            return NOTHING
        if len(token_ids) <= count and min(token_ids) >= 0 and max(token_ids) < self._vocab_size:
            return proposal
        self.fallbacks[Fallback.INVALID] += 1
        good: list[int] = []
        for token in token_ids[:count]:
            if not 0 <= token < self._vocab_size:
                break
            good.append(token)
        return Proposal(good, proposal.kind)

    def _fit(self, sequence: Sequence, token_ids: Ids[int], spare: int, scheduler: Scheduler) -> int:
        """How many of these proposed tokens the grammar, the step and the cache let in; takes blocks for them."""
        count = len(token_ids)
        if sequence.adjuster is not None:
            count = sequence.adjuster.count_allowed(token_ids)
            if count < len(token_ids):
                self.fallbacks[Fallback.GRAMMAR] += 1
        room = scheduler.reserve(sequence, min(count, spare))
        if room < count:
            self.fallbacks[Fallback.NO_ROOM] += 1
        return room

    def _worth(self, tracks: list[_Track], proposals: list[Proposal]) -> list[int]:
        """How much of proposals that cost nothing is worth verifying."""
        limits = [len(proposal.token_ids) for proposal in proposals]
        if not any(limits):
            return limits
        probabilities = [
            self._probability(track, proposal.kind) if limit else 0.0
            for track, proposal, limit in zip(tracks, proposals, limits, strict=True)
        ]
        counts = plan(probabilities, limits, self.costs.seconds)
        for limit, count in zip(limits, counts, strict=True):
            if limit and not count:
                self.fallbacks[Fallback.BELOW_BREAK_EVEN] += 1
        return counts

    def _planned(self, tracks: list[_Track], limits: list[int]) -> list[int]:
        """How much to ask a proposer for whose work costs time. What does not pay is tried again now and then."""
        probabilities = [self._probability(track, 0) for track in tracks]
        counts = plan(probabilities, limits, self.costs.seconds, self._token_seconds)
        for index, track in enumerate(tracks):
            if counts[index]:
                track.idle_steps, track.patience = 0, _PATIENCE[0]
                continue
            self.fallbacks[Fallback.BELOW_BREAK_EVEN] += 1
            track.idle_steps += 1
            if track.idle_steps >= track.patience:
                track.idle_steps, track.patience = 0, min(2 * track.patience, _PATIENCE[1])
                counts[index] = min(_TRIAL, limits[index])
        return counts

    def _probability(self, track: _Track, kind: int) -> float:
        of_all = self._kinds.get(kind)
        prior = _FIRST_GUESS if of_all is None else of_all.probability(_FIRST_GUESS)
        own = track.kinds.get(kind)
        return prior if own is None else own.probability(prior)

    @staticmethod
    def _of_kind(kinds: dict[int, Acceptance], kind: int, memory: float = 0.97) -> Acceptance:
        acceptance = kinds.get(kind)
        if acceptance is None:
            acceptance = kinds[kind] = Acceptance(memory)
        return acceptance
