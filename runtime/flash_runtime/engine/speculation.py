"""Which sequences of a step get proposals, and how many tokens each; learns from what came of them.

A step that also computes prompts gets none, and proposals take only budget and blocks that nobody else wants, so they
are never in the way. Knows no model and no transport.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Final

from flash_runtime.engine.batch import Answers, Batch, Provider
from flash_runtime.engine.lookahead import Acceptance, StepCosts, patience, plan
from flash_runtime.engine.proposals import (
    MAX_LOOKAHEAD,
    NOTHING,
    Ask,
    Fallback,
    Proposal,
    Proposer,
    ProposerError,
)
from flash_runtime.engine.record import Record, SpeculationStats
from flash_runtime.engine.scheduler import Chunk, Scheduler
from flash_runtime.engine.sequence import Sequence

_FIRST_GUESS: Final = 0.6
"""How often proposals hold before any was tried."""
_GUESS_WEIGHT: Final = 10.0
"""Trials that this guess is worth: an engine decides for long, so a few misses at its beginning settle nothing."""
_PRIOR_WEIGHT: Final = 8.0
"""Trials of one sequence that what is known of all is worth."""
_SLOW_MEMORY: Final = 0.998
"""Of what is known of all sequences together."""
_PATIENCE: Final = (16, 512)
"""Steps without proposals before a proposer that costs time is tried again: at first, and at most."""
_TRIAL: Final = 1
"""Tokens of such a trial: one tells how often they hold, and costs the least where they do not."""
_FIRST_ASK: Final = 2
"""Tokens to ask for at most while it is not known what asking takes."""
_ASKED_SLOPE: Final = 0.25
"""What each token more that is asked for is taken to cost until it was measured, as a share: proposers guess one token
after the other."""
_LATER: Final = 1.25
"""Times as long as it was waited for is what an answer takes that did not come meanwhile."""
_TRIAL_SHARE: Final = 0.5
"""Of a plain step's time, what a trial may wait for its answer at least."""
_MOST_PATIENCE_SECONDS: Final = 0.05
"""While nothing is known of what pays."""
_BESIDE_KIND: Final = 1
"""Kinds of the proposer beside come after the one of the proposer itself."""


@dataclass(slots=True)
class _Track:
    """What is known of one sequence."""

    key: int
    kinds: dict[int, Acceptance] = field(default_factory=dict)
    proposal: Proposal = NOTHING
    idle_steps: int = 0
    patience: int = _PATIENCE[0]
    is_given_up: bool = False


_NOT_ASKED: Final = Proposal((), reason=Fallback.BELOW_BREAK_EVEN)


class Speculation:
    """A proposer, and the measured worth of its proposals."""

    def __init__(
        self,
        proposer: Proposer,
        *,
        vocab_size: int,
        clock: Callable[[], float],
        lookahead: int | None = None,
        beside: Proposer | None = None,
    ) -> None:
        """`lookahead`: tokens to propose for each sequence; None = what pays. `clock`: seconds, steadily rising.

        `beside`: a free proposer for sequences where it is right more often than the other one, which then is not
        asked, and for those where the other one has nothing.
        """
        if beside is not None and not beside.is_free:
            raise ValueError("beside must be a proposer that is free")
        if lookahead is not None and not 1 <= lookahead <= MAX_LOOKAHEAD:
            raise ValueError(f"lookahead ({lookahead}) must be from 1 to {MAX_LOOKAHEAD}, or unset for what pays")
        self.proposed_tokens = 0
        """Tokens that were verified."""
        self.accepted_tokens = 0
        self.fallbacks: Counter[Fallback] = Counter()
        self.costs = StepCosts()
        self._proposer = proposer
        self._beside = beside
        self._record = Record()
        self._vocab_size = vocab_size
        self._clock = clock
        self._lookahead = lookahead
        self._tracks: dict[Sequence, _Track] = {}
        self._kinds: dict[int, Acceptance] = {}
        """Of all sequences together: what a new one starts from."""
        self._num_keys = 0
        self._width = 0
        """Tokens of the step that was joined last; 0 = one that computes prompts, whose cost says nothing here."""
        self._asked_costs = StepCosts(_ASKED_SLOPE)
        """What calls of the proposer take, by the length of the longest proposal."""
        self._idle_steps, self._patience_steps = 0, _PATIENCE[0]
        """Steps since a proposer that costs time was asked, and how many of them until it is tried again."""
        self._last_plan: list[int] = []
        """What would have been asked for without trials."""
        self._asked_seconds = self._step_seconds = 0.0
        """Of the step that was joined last: what its proposals and its computing took."""
        self._num_chunks = self._num_verified = self._num_tokens = 0
        """Of that step: sequences, proposed tokens, tokens that came of it."""

    def join(self, chunks: list[Chunk], scheduler: Scheduler) -> list[Chunk]:
        """The step's chunks, with proposals to verify after those that decode."""
        self._take_note()
        self._width = 0
        if not all(chunk.is_decode for chunk in chunks):
            self._count(Counter(Fallback.PROMPTS for chunk in chunks if chunk.is_decode))
            return chunks
        tracks = [self._track(chunk.sequence) for chunk in chunks]
        most = self._lookahead or MAX_LOOKAHEAD
        limits = []
        for (sequence, _, _, _), track in zip(chunks, tracks, strict=True):
            # The token after the last proposal is sampled too, and must fit into the answer.
            room = sequence.max_total_tokens - len(sequence.token_ids) - 1
            limits.append(0 if track.is_given_up else most if room >= most else max(0, room))
        if self._proposer.is_free:
            proposals = self._ask(self._proposer, chunks, tracks, limits)
            counts = self._worth(tracks, proposals)
        else:
            proposals, counts = self._weighed(chunks, tracks, limits)
        self._width = self._num_chunks = len(chunks)
        spare = scheduler.max_batch_tokens - len(chunks)
        joined = []
        missed: Counter[Fallback] = Counter()
        for chunk, track, proposal, count, limit in zip(chunks, tracks, proposals, counts, limits, strict=True):
            track.proposal = proposal
            if limit and not count:
                missed[Fallback.BELOW_BREAK_EVEN if proposal.token_ids else proposal.reason] += 1
            room = self._fit(chunk.sequence, proposal.token_ids[:count], spare, scheduler) if count else 0
            if room:
                spare -= room
                self._num_verified += room
            joined.append(chunk._replace(proposed=tuple(proposal.token_ids[:room])) if room else chunk)
        self._width += self._num_verified
        self.proposed_tokens += self._num_verified
        self._count(missed)
        return joined

    def timed(self, provider: Provider, batch: Batch) -> Answers:
        """Run the step that was joined last, and learn what it costs."""
        began = self._clock()
        answers = provider.step(batch)
        if self._width:
            self._step_seconds = self._clock() - began
            self.costs.observe(self._width, self._step_seconds)
        return answers

    def learn(self, sequence: Sequence, num_proposed: int, token_ids: Ids[int]) -> None:
        """Tokens that the sequence got in this step; also of proposals that were not verified, the first is judged."""
        self._num_tokens += len(token_ids)
        track = self._tracks.get(sequence)
        if track is None or not track.proposal.token_ids:
            return
        (guessed, kind, *_), track.proposal = track.proposal, NOTHING
        held = 0
        for guess, token in zip(guessed, token_ids, strict=False):
            if guess != token:
                break
            held += 1
        missed = held < len(guessed) and held < len(token_ids)
        if num_proposed:
            accepted = min(held, num_proposed)
            self.accepted_tokens += accepted
            self._record.verified(sequence.num_prompt_tokens, num_proposed, accepted)
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
            if self._beside is not None:
                self._beside.forget(track.key)

    def stats(self) -> SpeculationStats:
        """What came of proposals so far."""
        return self._record.stats()

    def _track(self, sequence: Sequence) -> _Track:
        track = self._tracks.get(sequence)
        if track is None:
            track = self._tracks[sequence] = _Track(self._num_keys)
            self._num_keys += 1
        return track

    def _take_note(self) -> None:
        """Of the step before, now that it is over."""
        if self._width:
            base = self.costs.seconds(self._num_chunks)
            plain = None if base is None else base * self._num_tokens / self._num_chunks
            took = self._asked_seconds + self._step_seconds
            self._record.stepped(plain_seconds=plain, took_seconds=took, num_verified=self._num_verified)
        self._asked_seconds = self._step_seconds = 0.0
        self._num_verified = self._num_tokens = 0

    def _count(self, missed: Counter[Fallback]) -> None:
        if missed:
            self.fallbacks.update(missed)
            self._record.missed(missed)

    def _weighed(
        self, chunks: list[Chunk], tracks: list[_Track], limits: list[int]
    ) -> tuple[list[Proposal], list[int]]:
        """Proposals of a proposer that costs time, and of the one beside it where that is better or alone."""
        found = [NOTHING] * len(chunks)
        if self._beside is not None:
            answers = self._ask(self._beside, chunks, tracks, limits)
            found = [answer._replace(kind=answer.kind + _BESIDE_KIND) for answer in answers]
        probabilities, is_free, most = [], [], []
        for track, free, limit in zip(tracks, found, limits, strict=True):
            probability = self._probability(track, 0)
            likely = self._probability(track, free.kind) if free.token_ids else 0.0
            is_free.append(bool(free.token_ids) and likely >= probability)
            probabilities.append(likely if is_free[-1] else probability)
            most.append(len(free.token_ids) if is_free[-1] else limit)
        planned = most if self._lookahead else self._planned(tracks, probabilities, most, is_free)
        wanted = [0 if free else count for free, count in zip(is_free, planned, strict=True)]
        at_hand = [0] * len(chunks) if self._lookahead else most
        own = self._ask(self._proposer, chunks, tracks, wanted, self._patience(probabilities, planned), at_hand)
        proposals = [
            mine if mine.token_ids else free if free.token_ids else mine for mine, free in zip(own, found, strict=True)
        ]
        worth = self._worth(tracks, proposals)
        # What was asked for is verified, so that a trial tells something; of what else is at hand, what pays.
        return proposals, [
            max(min(len(mine.token_ids), asked), count) for mine, asked, count in zip(own, wanted, worth, strict=True)
        ]

    def _patience(self, probabilities: list[float], counts: list[int]) -> float:
        """How long the proposer may let this step wait."""
        base = self.costs.seconds(len(counts))
        if base is None:
            return _MOST_PATIENCE_SECONDS
        if self._lookahead or counts != self._last_plan:  # asked for whatever it pays, or a trial
            hopeful = [max(_FIRST_GUESS, probability) for probability in probabilities]
            return max(_TRIAL_SHARE * base, patience(hopeful, counts, self.costs.seconds))
        return patience(probabilities, counts, self.costs.seconds)

    def _ask(
        self,
        proposer: Proposer,
        chunks: list[Chunk],
        tracks: list[_Track],
        counts: list[int],
        patience_seconds: float = 0.0,
        at_hand: Ids[int] = (),
    ) -> list[Proposal]:
        """One proposal for each chunk, of ids that exist and no longer than asked for."""
        at_hand = at_hand or counts
        asks = [
            Ask(track.key, chunk.sequence.token_ids, count, more)
            for chunk, track, count, more in zip(chunks, tracks, counts, at_hand, strict=True)
            if count > 0
        ]
        if not asks:
            return [_NOT_ASKED] * len(chunks)
        began = self._clock()
        reason = None
        answers: list[Proposal] = []
        try:
            answers = proposer.propose(asks, patience_seconds)
        except ProposerError as error:
            reason = error.reason
            if reason is Fallback.DISCONNECTED:
                self._asked_costs = StepCosts(_ASKED_SLOPE)  # the next one is met without prejudice
        seconds = self._clock() - began
        self._asked_seconds += seconds
        if not proposer.is_free:
            self._record.proposed(seconds)
            # Whoever lacks an answer may have been busy catching up; who was waited for in vain takes longer than that.
            if reason is Fallback.LATE or (
                reason is None
                and all(answer.token_ids for answer in answers)
                and not all(answer.was_at_hand for answer in answers)
            ):
                longest = max(ask.num_tokens for ask in asks)
                self._asked_costs.observe(longest, seconds * (_LATER if reason is Fallback.LATE else 1.0))
        if reason is None and len(answers) != len(asks):
            reason = Fallback.INVALID
        if reason is not None:
            return [Proposal((), reason=reason if count > 0 else Fallback.BELOW_BREAK_EVEN) for count in counts]
        found = iter(answers)
        return [
            self._checked(next(found), max(count, more)) if count > 0 else _NOT_ASKED
            for count, more in zip(counts, at_hand, strict=True)
        ]

    def _checked(self, proposal: Proposal, count: int) -> Proposal:
        token_ids = proposal.token_ids
        if not token_ids:
            return proposal
        if len(token_ids) <= count and min(token_ids) >= 0 and max(token_ids) < self._vocab_size:
            return proposal
        self._count(Counter([Fallback.INVALID]))
        good: list[int] = []
        for token in token_ids[:count]:
            if not 0 <= token < self._vocab_size:
                break
            good.append(token)
        return Proposal(good, proposal.kind, Fallback.INVALID)

    def _fit(self, sequence: Sequence, token_ids: Ids[int], spare: int, scheduler: Scheduler) -> int:
        """How many of these proposed tokens the grammar, the step and the cache let in; takes blocks for them."""
        count = len(token_ids)
        if sequence.adjuster is not None:
            count = sequence.adjuster.count_allowed(token_ids)
            if count < len(token_ids):
                self._count(Counter([Fallback.GRAMMAR]))
        room = scheduler.reserve(sequence, min(count, spare))
        if room < count:
            self._count(Counter([Fallback.NO_ROOM]))
        return room

    def _worth(self, tracks: list[_Track], proposals: list[Proposal]) -> list[int]:
        """How much of proposals that are there is worth verifying."""
        limits = [len(proposal.token_ids) for proposal in proposals]
        if self._lookahead or not any(limits):
            return limits
        probabilities = [
            self._probability(track, proposal.kind) if limit else 0.0
            for track, proposal, limit in zip(tracks, proposals, limits, strict=True)
        ]
        return plan(probabilities, limits, self.costs.seconds)

    def _planned(
        self, tracks: list[_Track], probabilities: list[float], limits: list[int], is_free: list[bool]
    ) -> list[int]:
        """How much to ask a proposer for whose work costs time. What does not pay is tried again now and then."""
        asked_seconds, runs_ahead = self._asked_costs.seconds, self._proposer.runs_ahead
        if asked_seconds(MAX_LOOKAHEAD) is None:
            limits = [limit if free else min(limit, _FIRST_ASK) for limit, free in zip(limits, is_free, strict=True)]
        counts = plan(probabilities, limits, self.costs.seconds, asked_seconds, is_free, runs_ahead=runs_ahead)
        self._last_plan = list(counts)
        is_asked = any(count and not free for count, free in zip(counts, is_free, strict=True))
        # A trial lets the whole step wait, unless the step waits anyway.
        self._idle_steps = 0 if is_asked else self._idle_steps + 1
        is_due = is_asked or self._idle_steps >= self._patience_steps
        for index, track in enumerate(tracks):
            if is_free[index]:
                continue
            if counts[index]:
                track.idle_steps, track.patience = 0, _PATIENCE[0]
                continue
            track.idle_steps += 1
            if is_due and track.idle_steps >= track.patience:
                track.idle_steps, track.patience = 0, min(2 * track.patience, _PATIENCE[1])
                counts[index] = min(_TRIAL, limits[index])
        if is_asked:
            self._patience_steps = _PATIENCE[0]
        elif is_due:
            self._idle_steps, self._patience_steps = 0, min(2 * self._patience_steps, _PATIENCE[1])
        return counts

    def _probability(self, track: _Track, kind: int) -> float:
        of_all = self._kinds.get(kind)
        prior = _FIRST_GUESS if of_all is None else of_all.probability(_FIRST_GUESS, _GUESS_WEIGHT)
        own = track.kinds.get(kind)
        return prior if own is None else own.probability(prior, _PRIOR_WEIGHT)

    @staticmethod
    def _of_kind(kinds: dict[int, Acceptance], kind: int, memory: float = 0.97) -> Acceptance:
        acceptance = kinds.get(kind)
        if acceptance is None:
            acceptance = kinds[kind] = Acceptance(memory)
        return acceptance
