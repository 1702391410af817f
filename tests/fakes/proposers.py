"""Proposers that know the answer, guess, lie or die."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from random import Random

from flash_runtime.engine.proposals import NOTHING, Ask, Fallback, Proposal, ProposerError

_EXCUSES = (
    Fallback.FAILED,
    Fallback.DISCONNECTED,
    Fallback.LATE,
    Fallback.OVERLOADED,
    Fallback.BEHIND,
    Fallback.TOKENIZER,
    Fallback.REVISION,
)


class Oracle:
    """Knows the sequences that will come, and says each next token rightly with a set probability."""

    def __init__(self, sequences: Sequence[list[int]], *, accuracy: float, vocab_size: int, seed: int = 0) -> None:
        self.is_free = seed % 2 == 0
        self.runs_ahead = seed % 3 == 0
        self.forgotten: set[int] = set()
        self._sequences = sequences
        self._accuracy = accuracy
        self._vocab_size = vocab_size
        self._random = Random(seed)

    def propose(self, asks: list[Ask], patience_seconds: float = inf) -> list[Proposal]:
        return [self._one(ask.token_ids, ask.num_tokens) for ask in asks]

    def forget(self, key: int) -> None:
        assert key not in self.forgotten
        self.forgotten.add(key)

    def _one(self, token_ids: Sequence[int], count: int) -> Proposal:
        length = len(token_ids)
        known = next((ids for ids in self._sequences if len(ids) > length and ids[:length] == list(token_ids)), [])
        coming = known[length : length + count]
        return Proposal(
            [
                token if self._random.random() < self._accuracy else self._random.randrange(self._vocab_size)
                for token in coming
            ],
            kind=length % 2,
        )


class Liar(Oracle):
    """Besides guesses: too many ids, ids that do not exist, answers for others, no answers, and errors."""

    def propose(self, asks: list[Ask], patience_seconds: float = inf) -> list[Proposal]:
        match self._random.randrange(9):
            case 0:
                raise ProposerError("the connection is gone", self._random.choice(_EXCUSES))
            case 6:
                return [Proposal((), reason=self._random.choice(_EXCUSES)) for _ in asks]
            case 1:
                return [*super().propose(asks), NOTHING]
            case 2:
                return []
            case 3:
                return [self._one(ask.token_ids, ask.num_tokens + 3) for ask in asks]
            case 4:
                outlier = self._random.choice([-1, self._vocab_size, 2**40])
                return [Proposal([*self._one(ask.token_ids, 1).token_ids, outlier]) for ask in asks]
            case 5:
                return [
                    Proposal([self._random.randrange(self._vocab_size) for _ in range(ask.num_tokens)]) for ask in asks
                ]
            case _:
                return super().propose(asks)


class Always:
    """Proposes one token, again and again."""

    is_free = True
    runs_ahead = False

    def __init__(self, token_id: int) -> None:
        self._token_id = token_id

    def propose(self, asks: list[Ask], patience_seconds: float = inf) -> list[Proposal]:
        return [Proposal([self._token_id] * ask.num_tokens) for ask in asks]

    def forget(self, key: int) -> None:
        pass
