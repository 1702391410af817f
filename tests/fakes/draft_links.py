"""Ways to a draft in memory: one that is honest and prompt, and one that loses, delays, repeats and forges messages."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from random import Random

from fakes.paged_model import PagedModel

from flash_runtime.draft_wire import Guesses, News, Refusal, decode_guesses, decode_news, encode_guesses, encode_news
from flash_runtime.engine.draft_server import DraftServer
from flash_runtime.engine.proposals import Fallback, ProposerError


class MemoryLink:
    """A DraftServer in this process, over the real wire format. The draft works while its engine waits, and between."""

    def __init__(self, model: PagedModel, *, max_sequences: int = 64, steps_between: int = 12) -> None:
        self.epoch = 1
        self.now = 0.0
        self.server = DraftServer(model, max_sequences=max_sequences, clock=lambda: self.now)
        self.arrived: deque[list[Guesses]] = deque()
        self._steps_between = steps_between
        self.connect()

    def connect(self) -> None:
        self.server.open(str(self.epoch))

    def send(self, news: Sequence[News]) -> None:
        for _ in range(self._steps_between):
            self.work()
        flat = memoryview(encode_news(news)).cast("i").tolist()
        self.server.hear(str(self.epoch), object(), decode_news(flat))

    def receive(self, timeout_seconds: float) -> list[Guesses] | None:
        while timeout_seconds > 0 and not self.arrived and self.server.has_work:
            self.work()
        return self.arrived.popleft() if self.arrived else None

    def work(self) -> None:
        """One step of the draft."""
        self.now += 0.01
        for answer in self.server.step():
            self.arrived.append(decode_guesses(encode_guesses(answer.guesses).tobytes()))
        self.server.check_integrity()


class BadLink(MemoryLink):
    """Nothing that it does may change an answer."""

    def __init__(self, model: PagedModel, *, seed: int) -> None:
        draw = self._draw = Random(seed)
        super().__init__(model, max_sequences=draw.choice([3, 64]), steps_between=draw.choice([0, 3, 20]))
        self._held: list[list[Guesses]] = []
        self._is_cut = False

    def send(self, news: Sequence[News]) -> None:
        if self._draw.random() < 0.03:
            self.server.close(str(self.epoch))
            self._is_cut = True
        if self._is_cut:
            if self._draw.random() < 0.6:
                raise ProposerError("no draft is connected", Fallback.DISCONNECTED)
            self._is_cut = False
            self.epoch += 1
            self.connect()
        if self._draw.random() < 0.05:
            return  # lost on the way: what comes next has a gap
        super().send(news)

    def receive(self, timeout_seconds: float) -> list[Guesses] | None:
        if timeout_seconds > 0 and self._draw.random() < 0.1:
            return None  # it hangs
        if self._held and self._draw.random() < 0.3:
            return self._held.pop(0)  # too late
        guesses = super().receive(timeout_seconds)
        if guesses is None:
            return None
        if self._draw.random() < 0.1:
            self._held.append(guesses)
            return []
        return [self._forged(one) if self._draw.random() < 0.2 else one for one in guesses]

    def _forged(self, guesses: Guesses) -> Guesses:
        some = [self._draw.randrange(97) for _ in range(self._draw.randint(1, 4))]
        match self._draw.randrange(7):
            case 0:
                return guesses._replace(token_ids=some)
            case 1:
                return guesses._replace(token_ids=[*guesses.token_ids, *some * 30])
            case 2:
                return guesses._replace(token_ids=[*guesses.token_ids[:1], self._draw.choice([-1, 97, 2**31 - 1])])
            case 3:
                return guesses._replace(length=max(0, guesses.length + self._draw.choice([-3, -1, 1, 5, 10_000])))
            case 4:
                return guesses._replace(key=self._draw.randrange(20))
            case 5:
                return guesses._replace(token_ids=(), refusal=self._draw.choice(list(Refusal)))
            case _:
                return guesses._replace(token_ids=())
