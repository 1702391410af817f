"""What the teacher thinks of text, written down once: its likeliest next tokens at every position.

The teacher runs in the native engine, which is several times faster here than a training framework; a student then
learns from the files and the teacher need not run again. The teacher also writes text of its own: what a draft must
foresee is what is served. No torch.

Legend: N sequences, L tokens of each, K likeliest tokens kept of each position, S sequences at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from flash_runtime.engine.batch import Batch, FloatArray, IntArray, Provider

KEPT: Final = 16
"""Together they hold nearly all of the probability at most positions."""
_BLOCK: Final = 64
_AT_ONCE: Final = 32
"""Sequences that the teacher writes side by side."""

OnTokens = Callable[[int], None]


@dataclass(frozen=True)
class Lessons:
    """Sequences and what the teacher expects after each of their tokens."""

    token_ids: IntArray  # [N, L], padded with 0
    lengths: IntArray  # [N] tokens that something is expected after; an end token behind them is not among them
    prompts: IntArray  # [N] tokens at the start of each that nobody need foresee
    top_ids: IntArray  # [N, L, K], likeliest first
    top_logprobs: NDArray[np.float16]  # [N, L, K]

    @classmethod
    def joined(cls, parts: Sequence[Lessons]) -> Lessons:
        """All sequences of the parts, in their order."""
        return cls(*(np.concatenate([getattr(part, name) for part in parts]) for name in cls.__dataclass_fields__))

    def chosen(self, rows: NDArray[np.intp] | slice) -> Lessons:
        """Some of the sequences."""
        return Lessons(*(getattr(self, name)[rows] for name in self.__dataclass_fields__))


def read_lessons(provider: Provider, windows: Sequence[IntArray], *, on_tokens: OnTokens) -> Lessons:
    """The teacher reads windows of equal length."""
    return Lessons.joined([_read(provider, window, on_tokens) for window in windows])


def write_lessons(
    provider: Provider,
    prompts: Sequence[IntArray],
    *,
    length: int,
    end_tokens: Sequence[int],
    temperatures: Sequence[float],
    seed: int,
    on_tokens: OnTokens,
) -> Lessons:
    """The teacher answers prompts, each at the next of the temperatures in turn; sequences are cut at `length`."""
    writer = _Writer(provider, length, frozenset(end_tokens), np.random.default_rng(seed))
    queue = iter([(prompt, temperatures[i % len(temperatures)]) for i, prompt in enumerate(prompts)])
    return Lessons.joined(list(writer.run(queue, on_tokens)))


def likeliest(logits: FloatArray) -> tuple[IntArray, FloatArray]:
    """The KEPT likeliest tokens of each row [R, V] and their log-probabilities, likeliest first.

    The best of a row lie in the blocks of tokens with the highest maxima, so only those are sorted.
    """
    rows, vocabulary = logits.shape
    padded = np.pad(logits, ((0, 0), (0, -vocabulary % _BLOCK)), constant_values=-np.inf)
    blocks = padded.reshape(rows, -1, _BLOCK)
    maxima = blocks.max(axis=2)
    highest = maxima.max(axis=1, keepdims=True)
    best = np.argsort(-maxima, axis=1, kind="stable")[:, :KEPT]
    values = np.take_along_axis(blocks, best[:, :, None], axis=1).reshape(rows, -1)
    ids = (best[:, :, None] * _BLOCK + np.arange(_BLOCK)).reshape(rows, -1)
    order = np.lexsort((ids, -values), axis=1)[:, :KEPT]
    totals = highest + np.log(np.exp(logits - highest).sum(axis=1, keepdims=True))
    found = np.take_along_axis(ids, order, axis=1).astype(np.int32)
    return found, np.take_along_axis(values, order, axis=1) - totals


def _read(provider: Provider, window: IntArray, on_tokens: OnTokens) -> Lessons:
    length = len(window)
    blocks = -(-length // provider.block_size)
    answers = provider.step(
        Batch(
            token_ids=window.astype(np.int32),
            positions=np.arange(length, dtype=np.int32),
            query_starts=np.array([0, length], dtype=np.int32),
            block_tables=np.arange(blocks, dtype=np.int32)[None],
            logit_rows=np.arange(length, dtype=np.int32),
        )
    )
    ids, logprobs = likeliest(answers.logits)
    on_tokens(length)
    return Lessons(
        window[None].astype(np.int32),
        np.array([length], np.int32),
        np.zeros(1, np.int32),
        ids[None],
        logprobs[None].astype(np.float16),
    )


class _Slot:
    """One sequence that is being written."""

    def __init__(self, prompt: IntArray, temperature: float, length: int) -> None:
        self.temperature = temperature
        self.prompt = len(prompt)
        self.tokens = [int(token) for token in prompt]
        self.read = 0
        """Tokens in the cache."""
        kept = KEPT
        self.ids = np.zeros((length, kept), np.int32)
        self.logprobs = np.full((length, kept), -np.inf, np.float16)


class _Writer:
    """Keeps every slot busy until the prompts run out."""

    def __init__(
        self, provider: Provider, length: int, end_tokens: frozenset[int], random: np.random.Generator
    ) -> None:
        self._provider = provider
        self._length = length
        self._ends = end_tokens
        self._random = random
        self._blocks = -(-length // provider.block_size)
        if (room := provider.num_blocks // self._blocks) < 1:
            raise ValueError(f"the teacher's cache holds no sequence of {length} tokens")
        self._slots: list[_Slot | None] = [None] * min(_AT_ONCE, room)

    def run(self, queue: Iterator[tuple[IntArray, float]], on_tokens: OnTokens) -> Iterator[Lessons]:
        while True:
            for index, slot in enumerate(self._slots):
                if slot is None and (item := next(queue, None)) is not None:
                    self._slots[index] = _Slot(item[0][: self._length - 1], item[1], self._length)
            busy = [(index, slot) for index, slot in enumerate(self._slots) if slot is not None]
            if not busy:
                return
            on_tokens(self._step(busy))
            for index, slot in busy:
                if slot.read >= self._length or (slot.read > slot.prompt and slot.tokens[-1] in self._ends):
                    yield self._finished(slot)
                    self._slots[index] = None

    def _step(self, busy: list[tuple[int, _Slot]]) -> int:
        """Feed what each slot has not read yet, and choose its next token."""
        counts = [len(slot.tokens) - slot.read for _, slot in busy]
        tables = [np.arange(index * self._blocks, (index + 1) * self._blocks, dtype=np.int32) for index, _ in busy]
        total = sum(counts)
        logits = self._provider.step(
            Batch(
                token_ids=np.array([token for _, slot in busy for token in slot.tokens[slot.read :]], np.int32),
                positions=np.concatenate([np.arange(slot.read, len(slot.tokens), dtype=np.int32) for _, slot in busy]),
                query_starts=np.cumsum([0, *counts], dtype=np.int32),
                block_tables=np.stack(tables),
                logit_rows=np.arange(total, dtype=np.int32),
            )
        ).logits
        ids, logprobs = likeliest(logits)
        start = 0
        for (_, slot), count in zip(busy, counts, strict=True):
            rows = slice(slot.read, slot.read + count)
            slot.ids[rows], slot.logprobs[rows] = ids[start : start + count], logprobs[start : start + count]
            slot.read += count
            start += count
            if slot.read < self._length:
                slot.tokens.append(self._choose(ids[start - 1], logprobs[start - 1], slot.temperature))
        return total

    def _choose(self, ids: IntArray, logprobs: FloatArray, temperature: float) -> int:
        if temperature == 0:
            return int(ids[0])
        weights = np.exp((logprobs - logprobs[0]).astype(np.float64) / temperature)
        return int(self._random.choice(ids, p=weights / weights.sum()))

    def _finished(self, slot: _Slot) -> Lessons:
        tokens = np.zeros(self._length, np.int32)
        length = min(len(slot.tokens), self._length)
        tokens[:length] = slot.tokens[:length]
        return Lessons(
            tokens[None],
            np.array([min(length, slot.read)], np.int32),
            np.array([slot.prompt], np.int32),
            slot.ids[None],
            slot.logprobs[None],
        )
