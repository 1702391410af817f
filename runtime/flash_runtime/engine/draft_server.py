"""What a draft does with the messages of its engines: keeps their sequences, answers, guesses ahead. No transport.

Sequences of all engines share each step of the model. Who was answered may verify for a while: meanwhile it is assumed
that all guesses hold, and what comes after them is guessed and sent unasked. It is dropped where they did not.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Ids
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from flash_runtime.draft_wire import FORGET, Guesses, News, Refusal
from flash_runtime.engine.batch import Provider
from flash_runtime.engine.guesser import Guesser
from flash_runtime.engine.lookahead import AHEAD_TOKENS
from flash_runtime.engine.proposals import MAX_LOOKAHEAD

_TIMELY: Final = 0.9
"""Of the time that an engine usually leaves until it asks again, what guesses ahead may take."""
_PACE_MEMORY: Final = 0.8
"""Of what engines and steps take, what is left after one more."""
NEAR_TOKENS: Final = 32
"""An answer waits for a sequence that is behind by so many tokens; of one further behind it says so."""
IDLE_SECONDS: Final = 5.0
"""A sequence not heard of for so long makes room for others."""


class Answer(NamedTuple):
    """Guesses on their way out."""

    stream: str
    ticket: object | None
    """Of the ask that is answered; None = unasked."""
    guesses: list[Guesses]


@dataclass(frozen=True)
class DraftStats:
    """Gauges and counters since construction."""

    streams: int = 0
    sequences: int = 0
    kv_blocks_used: int = 0
    kv_blocks_total: int = 0
    steps: int = 0
    step_seconds: float = 0.0
    asks: int = 0
    proposed_tokens: int = 0
    """In answers."""
    ahead_tokens: int = 0
    """Sent unasked."""
    refused_sequences: int = 0


@dataclass(slots=True)
class _Sequence:
    """One engine's sequence."""

    stream: str
    key: int
    token_ids: list[int] = field(default_factory=list)
    wanted: int = 0
    """Guesses to make now."""
    ahead: int = 0
    """Guesses to make in idle time; 0 = they were sent."""
    heard_at: float = 0.0
    answered_at: float | None = None
    """Since the last news."""


class _Ask(NamedTuple):
    """An engine that waits."""

    stream: str
    ticket: object
    refused: list[Guesses]
    waiting: dict[int, int]
    """Guesses wanted, by our name of the sequence."""


class DraftServer:
    """Owned by one thread."""

    def __init__(self, provider: Provider, *, max_sequences: int, clock: Callable[[], float]) -> None:
        self._provider = provider
        self._guesser = Guesser(provider)
        self._max_sequences = max_sequences
        self._clock = clock
        self._sequences: dict[int, _Sequence] = {}
        self._names: dict[tuple[str, int], int] = {}
        self._streams: set[str] = set()
        self._asks: list[_Ask] = []
        self._num_named = 0
        self._stats = DraftStats()
        self._counts = [0, 0, 0, 0, 0]
        self._step_seconds = 0.0
        self._guess_seconds = 0.0
        """What a step lately took that read no prompt."""
        self._paces: dict[str, float] = {}
        """Seconds that an engine usually leaves from an answer to its next news of that sequence."""

    def open(self, stream: str) -> None:
        """An engine is there."""
        self._streams.add(stream)

    def close(self, stream: str) -> None:
        """An engine is gone, and with it its sequences."""
        self._streams.discard(stream)
        self._paces.pop(stream, None)
        self._asks = [ask for ask in self._asks if ask.stream != stream]
        for name in [name for name, sequence in self._sequences.items() if sequence.stream == stream]:
            self._forget(name)

    @property
    def has_work(self) -> bool:
        """Whether `step` would do something."""
        return bool(self._asks) or any(sequence.ahead for sequence in self._sequences.values())

    def hear(self, stream: str, ticket: object, news: Ids[News]) -> None:
        """What an engine says; `step` answers it."""
        refused: list[Guesses] = []
        waiting: dict[int, int] = {}
        now = self._clock()
        for entry in news:
            name = self._names.get((stream, entry.key))
            if entry.wanted == FORGET:
                if name is not None:
                    self._forget(name)
                continue
            if name is not None and entry.start == 0:
                self._forget(name)
                name = None
            known = 0 if name is None else len(self._sequences[name].token_ids)
            if stream not in self._streams or entry.start != known or not self._are_tokens(entry.token_ids):
                refused.append(Guesses(entry.key, known, (), Refusal.UNKNOWN))
                continue
            if name is None:
                if not self._make_room(now):
                    refused.append(Guesses(entry.key, known, (), Refusal.FULL))
                    self._counts[4] += 1
                    continue
                name = self._num_named
                self._num_named += 1
                self._names[stream, entry.key] = name
                self._sequences[name] = _Sequence(stream, entry.key)
            sequence = self._sequences[name]
            if sequence.answered_at is not None:
                pace = now - sequence.answered_at
                self._paces[stream] = pace + _PACE_MEMORY * (self._paces.get(stream, pace) - pace)
                sequence.answered_at = None
            sequence.token_ids.extend(entry.token_ids)
            sequence.heard_at = now
            sequence.wanted, sequence.ahead = min(entry.wanted, MAX_LOOKAHEAD), 0
            if not sequence.token_ids:
                continue
            self._guesser.tell(name, sequence.token_ids)
            if sequence.wanted:
                waiting[name] = sequence.wanted
        self._counts[1] += 1
        self._asks.append(_Ask(stream, ticket, refused, waiting))

    def step(self) -> list[Answer]:
        """One step of the model, or none where answers are there already."""
        answers = self._answered()
        wanted = {name: count for ask in self._asks for name, count in ask.waiting.items()}
        for name, sequence in self._sequences.items():
            if sequence.ahead and name not in wanted:
                wanted[name] = sequence.ahead
        if not wanted:
            return answers
        reads = any(name not in self._guesser or self._guesser.num_behind(name) > 1 for name in wanted)
        began = self._clock()
        if self._guesser.step(wanted, catch_up_tokens=NEAR_TOKENS if self._asks else 2 * NEAR_TOKENS):
            seconds = self._clock() - began
            self._counts[0] += 1
            self._step_seconds += seconds
            if not reads:
                self._guess_seconds = seconds + _PACE_MEMORY * ((self._guess_seconds or seconds) - seconds)
        else:
            self._give_up(wanted)
        return answers + self._answered() + self._sent_ahead()

    def stats(self) -> DraftStats:
        """What is going on, and what has happened since construction."""
        steps, asks, proposed, ahead, refused = self._counts
        return DraftStats(
            streams=len(self._streams),
            sequences=len(self._sequences),
            kv_blocks_used=self._guesser.num_blocks_used,
            kv_blocks_total=self._guesser.num_blocks,
            steps=steps,
            step_seconds=self._step_seconds,
            asks=asks,
            proposed_tokens=proposed,
            ahead_tokens=ahead,
            refused_sequences=refused,
        )

    def check_integrity(self) -> None:
        """Raise AssertionError unless sequences, names and blocks agree."""
        self._guesser.check_integrity()
        assert len(self._sequences) == len(self._names) <= self._max_sequences
        assert {sequence.stream for sequence in self._sequences.values()} <= self._streams
        assert len(self._guesser) <= len(self._sequences)

    def _answered(self) -> list[Answer]:
        """Answers that wait for nothing any more."""
        answers, still = [], []
        for ask in self._asks:
            if any(self._is_awaited(name, count) for name, count in ask.waiting.items()):
                still.append(ask)
                continue
            guesses = [self._guesses(name) for name in ask.waiting if name in self._sequences]
            self._counts[2] += sum(len(some.token_ids) for some in guesses)
            answers.append(Answer(ask.stream, ask.ticket, ask.refused + guesses))
        self._asks = still
        return answers

    def _is_awaited(self, name: int, count: int) -> bool:
        if name not in self._sequences or name not in self._guesser:
            return False
        count = min(count, self._guesser.room(name))
        return len(self._guesser.guesses(name)) < count and self._guesser.num_behind(name) <= NEAR_TOKENS

    def _guesses(self, name: int) -> Guesses:
        """What is guessed of a sequence; from now on it is guessed ahead."""
        sequence = self._sequences[name]
        length = len(sequence.token_ids)
        found = tuple(self._guesser.guesses(name)) if name in self._guesser else ()
        if name in self._guesser:
            # All that is sent now may be verified and hold: what comes after that, and after the engine's own token.
            most = max(sequence.wanted - len(found), 0) + 1 + max(AHEAD_TOKENS, sequence.wanted)
            ahead = len(found) + min(most, self._num_timely(sequence.stream))
            sequence.ahead = min(ahead, 3 * MAX_LOOKAHEAD, self._guesser.room(name))
            sequence.answered_at = self._clock()
        if len(found) >= sequence.ahead:
            sequence.ahead = 0
        return Guesses(sequence.key, length, found, None if found else Refusal.BEHIND)

    def _num_timely(self, stream: str) -> int:
        """Steps that end before this engine usually asks again: what is not sent by then lets it wait, too."""
        pace = self._paces.get(stream)
        if pace is None or not self._guess_seconds:
            return 3 * MAX_LOOKAHEAD
        return max(1, int(_TIMELY * pace / self._guess_seconds))

    def _sent_ahead(self) -> list[Answer]:
        """What was guessed in idle time and is complete."""
        by_stream: dict[str, list[Guesses]] = {}
        for name, sequence in self._sequences.items():
            if sequence.ahead and len(self._guesser.guesses(name)) >= sequence.ahead:
                sequence.ahead = 0
                guesses = Guesses(sequence.key, len(sequence.token_ids), tuple(self._guesser.guesses(name)))
                by_stream.setdefault(sequence.stream, []).append(guesses)
                self._counts[3] += max(0, len(guesses.token_ids) - sequence.wanted)
        return [Answer(stream, None, guesses) for stream, guesses in by_stream.items()]

    def _give_up(self, wanted: dict[int, int]) -> None:
        """Memory or context ends here for all of them: answer with what there is."""
        for name in wanted:
            self._sequences[name].ahead = 0
        for ask in self._asks:
            for name in ask.waiting:
                ask.waiting[name] = 0

    def _are_tokens(self, token_ids: Ids[int]) -> bool:
        return not token_ids or (min(token_ids) >= 0 and max(token_ids) < self._provider.vocab_size)

    def _make_room(self, now: float) -> bool:
        if len(self._sequences) < self._max_sequences:
            return True
        oldest = min(self._sequences, key=lambda name: self._sequences[name].heard_at)
        if now - self._sequences[oldest].heard_at < IDLE_SECONDS:
            return False
        self._forget(oldest)
        return True

    def _forget(self, name: int) -> None:
        sequence = self._sequences.pop(name)
        del self._names[sequence.stream, sequence.key]
        self._guesser.forget(name)
