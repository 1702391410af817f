"""A target and a draft on processors of their own, in a time that only their steps and the way between them take."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf
from random import Random

import numpy as np
from fakes.paged_model import PagedModel

from flash_runtime.draft_wire import Guesses, News
from flash_runtime.engine.batch import Answers, Batch
from flash_runtime.engine.draft_server import DraftServer


class Clock:
    """Seconds, moved by whoever works."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TimedTarget(PagedModel):
    """A step takes what its number of tokens takes."""

    def __init__(self, clock: Clock, seconds: Callable[[int], float]) -> None:
        super().__init__(num_blocks=400, max_context_tokens=4096)
        self._clock = clock
        self._seconds = seconds

    def step(self, batch: Batch) -> Answers:
        self._clock.now += self._seconds(len(batch.token_ids))
        return super().step(batch)


class TimedDraft(PagedModel):
    """The same model, made wrong now and then; every step takes the same time."""

    def __init__(self, clock: Clock, *, seconds: float, acceptance: float) -> None:
        super().__init__(num_blocks=400, max_context_tokens=4096)
        self._clock = clock
        self._step_seconds = seconds
        self._acceptance = acceptance
        self._random = Random(0)

    def step(self, batch: Batch) -> Answers:
        self._clock.now += self._step_seconds
        answers = super().step(batch)
        best = [token ^ (self._random.random() >= self._acceptance) for token in answers.best.tolist()]
        return answers._replace(best=np.array(best, dtype=np.int32))


class TimedLink:
    """Implements `flash_runtime.engine.remote.Link`: the draft works while the target does."""

    epoch = 1

    def __init__(self, clock: Clock, *, round_trip: float, draft_seconds: float, acceptance: float) -> None:
        self._clock = clock
        self._way = round_trip / 2
        self._there = Clock()
        model = TimedDraft(self._there, seconds=draft_seconds, acceptance=acceptance)
        self._server = DraftServer(model, max_sequences=64, clock=self._there)
        self._server.open("1")
        self._under_way: deque[tuple[float, Sequence[News]]] = deque()
        self._arriving: deque[tuple[float, list[Guesses]]] = deque()

    def send(self, news: Sequence[News]) -> None:
        told = [entry._replace(token_ids=tuple(entry.token_ids)) for entry in news]
        self._under_way.append((self._clock.now + self._way, told))

    def receive(self, timeout_seconds: float) -> list[Guesses] | None:
        deadline = self._clock.now + timeout_seconds
        self._work_until(self._clock.now)
        while not self._arriving and self._there.now < deadline and self._work_once(deadline):
            pass
        if not self._arriving or self._arriving[0][0] > deadline:
            self._clock.now = max(self._clock.now, deadline if deadline < inf else self._clock.now)
            return None
        at, guesses = self._arriving.popleft()
        self._clock.now = max(self._clock.now, at)
        return guesses

    def _work_until(self, when: float) -> None:
        while self._there.now < when and self._work_once(when):
            pass

    def _work_once(self, when: float) -> bool:
        """Hear what has arrived and step, or pass the time until something arrives; False when nothing will by then."""
        while self._under_way and self._under_way[0][0] <= self._there.now:
            self._server.hear("1", object(), self._under_way.popleft()[1])
        if not self._server.has_work:
            self._there.now = min(when, self._under_way[0][0]) if self._under_way else when
            return bool(self._under_way)
        for answer in self._server.step():
            self._arriving.append((self._there.now + self._way, answer.guesses))
        return True
