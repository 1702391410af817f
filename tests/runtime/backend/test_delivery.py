"""When tokens leave, and in what company: deliveries with a clock that the test moves."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator, Sequence

import pytest

from flash_runtime.backend.delivery import HOLD_SECONDS, SIGN_OF_LIFE_SECONDS, Deliveries, StreamClosed
from flash_runtime.engine.errors import NonFiniteLogits, RequestRefused
from flash_runtime.engine.loop import Output
from flash_runtime.wire import Failure, FinishReason, StreamEvent, TokenLogprobs

SECONDS = 10.0
Told = tuple[tuple[int, ...], StreamEvent] | tuple[Failure, str]


SIGN_OF_LIFE: Told = ((), StreamEvent())


class Clock:
    """Stands still until moved; a response with tokens takes `cost` seconds of it."""

    def __init__(self) -> None:
        self.now = 100.0
        self.cost = 0.002

    def __call__(self) -> float:
        return self.now


class ToldStream:
    """Puts what it is told where the test waits for it."""

    def __init__(self, clock: Clock, *, closed: bool = False) -> None:
        self.told: queue.Queue[Told] = queue.Queue()
        self.cancelled = False
        self._clock = clock
        self._closed = closed

    def send(self, token_ids: Sequence[int], event: StreamEvent) -> None:
        if self._closed:
            raise StreamClosed("gone")
        if token_ids:
            self._clock.now += self._clock.cost
        self.told.put((tuple(token_ids), event))

    def fail(self, failure: Failure, message: str) -> None:
        self.told.put((failure, message))

    def is_cancelled(self) -> bool:
        return self.cancelled

    def next(self) -> Told:
        """What it is told next, signs of life apart."""
        while (told := self.told.get(timeout=SECONDS)) == SIGN_OF_LIFE:
            pass
        return told


class Post:
    """Deliveries, and what they said to the engine."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.gone: queue.Queue[str] = queue.Queue()
        self.busy: list[bool] = []
        self.crashes: list[BaseException] = []
        self.deliveries = Deliveries(
            clock=self.clock,
            on_gone=self.gone.put,
            on_stats=lambda _: None,
            on_busy=self.busy.append,
            on_crash=self.crashes.append,
        )

    def open(self, request_id: str, *, closed: bool = False) -> ToldStream:
        stream = ToldStream(self.clock, closed=closed)
        self.deliveries.open(request_id, stream)
        return stream


@pytest.fixture
def post() -> Iterator[Post]:
    post = Post()
    post.deliveries.start()
    yield post
    post.deliveries.close(Failure.UNAVAILABLE, "the test is over")
    assert post.deliveries.join(SECONDS)
    assert post.crashes == []
    assert post.busy == ([True, False] * 8)[: len(post.busy)]


def a_token(request_id: str, token: int) -> Output:
    return Output(request_id, (token,), logprobs=(TokenLogprobs(-float(token)),))


def test_a_first_token_leaves_at_once_and_those_made_in_the_pause_leave_together(post: Post) -> None:
    stream, other = post.open("a"), post.open("b")
    post.deliveries.post([a_token("a", 1)])
    assert stream.next() == ((1,), StreamEvent(logprobs=(TokenLogprobs(-1.0),)))
    # The pause after that round: nothing of "a" may leave, the first token of "b" must.
    post.deliveries.post([a_token("a", 2)])
    post.deliveries.post([a_token("a", 3), a_token("b", 9)])
    assert other.next() == ((9,), StreamEvent(logprobs=(TokenLogprobs(-9.0),)))
    assert stream.told.empty()
    post.clock.now += HOLD_SECONDS
    post.deliveries.post([a_token("a", 4)])
    assert stream.next() == (
        (2, 3, 4),
        StreamEvent(logprobs=(TokenLogprobs(-2.0), TokenLogprobs(-3.0), TokenLogprobs(-4.0))),
    )


def test_an_end_does_not_wait_and_takes_along_what_did(post: Post) -> None:
    stream = post.open("a")
    post.deliveries.post([Output("a", (1,))])
    assert stream.next() == ((1,), StreamEvent())
    post.deliveries.post([Output("a", (2,))])
    post.deliveries.post([Output("a", (3,), finish_reason=FinishReason.LENGTH, cached_tokens=4)])
    assert stream.next() == ((2, 3), StreamEvent(finish_reason=FinishReason.LENGTH, cached_tokens=4))


def test_responses_that_cost_nothing_leave_with_every_step(post: Post) -> None:
    post.clock.cost = 0.0
    stream = post.open("a")
    for token in range(5):
        post.deliveries.post([Output("a", (token,))])
        assert stream.next() == ((token,), StreamEvent())


def test_the_last_tokens_before_an_error_arrive_before_it(post: Post) -> None:
    stream = post.open("a")
    post.deliveries.post([Output("a", (1,))])
    stream.next()
    post.deliveries.post([Output("a", (2,))])
    post.deliveries.post([Output("a", error=NonFiniteLogits("no finite logits"))])
    assert stream.next() == ((2,), StreamEvent())
    assert stream.next() == (Failure.INTERNAL, "no finite logits")


def test_a_stream_without_news_shows_life_at_once_and_again_when_it_was_quiet_for_long(post: Post) -> None:
    waits, computed = post.open("waits"), post.open("computed")
    for _ in range(3):
        post.deliveries.post([])
    assert waits.told.get(timeout=SECONDS) == computed.told.get(timeout=SECONDS) == SIGN_OF_LIFE
    post.clock.now += SIGN_OF_LIFE_SECONDS
    post.deliveries.post([])
    assert waits.told.get(timeout=SECONDS) == computed.told.get(timeout=SECONDS) == SIGN_OF_LIFE
    post.deliveries.post([Output("waits", (1,)), Output("computed", (1,))])
    assert waits.told.get(timeout=SECONDS) == computed.told.get(timeout=SECONDS) == ((1,), StreamEvent())


def test_an_engine_that_steps_no_more_shows_no_life(post: Post) -> None:
    stream, other = post.open("a"), post.open("b")
    post.clock.now += 10 * SIGN_OF_LIFE_SECONDS
    other.cancelled = True
    assert post.gone.get(timeout=SECONDS) == "b", "a round has passed, so there was time for a sign"
    assert stream.told.empty()


def test_a_refusal_is_the_callers_fault(post: Post) -> None:
    stream = post.open("a")
    post.deliveries.post([Output("a", error=RequestRefused(field="x", value=1, rule="must be 2"))])
    assert stream.next() == (Failure.INVALID, "x (1) must be 2")


def test_a_closed_stream_is_reported_and_what_comes_for_it_is_dropped(post: Post) -> None:
    gone, stays = post.open("gone", closed=True), post.open("stays")
    post.deliveries.post([Output("gone", (1,)), Output("stays", (2,))])
    assert post.gone.get(timeout=SECONDS) == "gone"
    post.deliveries.post([Output("gone", (1,)), Output("stays", (3,), finish_reason=FinishReason.STOP)])
    assert stays.next() == ((2,), StreamEvent())
    assert stays.next() == ((3,), StreamEvent(finish_reason=FinishReason.STOP))
    assert gone.told.empty()


def test_a_cancelled_stream_is_ended_with_that_reason_and_reported(post: Post) -> None:
    stream = post.open("a")
    stream.cancelled = True
    post.clock.now += 1.0
    post.deliveries.post([])
    assert post.gone.get(timeout=SECONDS) == "a"
    assert stream.next() == ((), StreamEvent(finish_reason=FinishReason.CANCELLED))


def test_a_stream_that_breaks_in_an_unknown_way_is_a_crash() -> None:
    class Broken(ToldStream):
        def send(self, token_ids: Sequence[int], event: StreamEvent) -> None:
            raise OSError("no shared memory left")

    crashed = threading.Event()
    crashes: list[BaseException] = []

    def on_crash(error: BaseException) -> None:
        crashes.append(error)
        crashed.set()

    clock = Clock()
    deliveries = Deliveries(
        clock=clock, on_gone=lambda _: None, on_stats=lambda _: None, on_busy=lambda _: None, on_crash=on_crash
    )
    deliveries.start()
    deliveries.open("a", Broken(clock))
    deliveries.post([Output("a", (1,))])
    assert crashed.wait(SECONDS)
    assert [str(crash) for crash in crashes] == ["no shared memory left"]
