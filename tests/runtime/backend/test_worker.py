"""The engine's thread, with streams that record what they are told."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import count

import pytest
from fakes.paged_model import PagedModel

from flash_runtime.backend.delivery import StreamClosed
from flash_runtime.backend.worker import EngineWorker, Submission
from flash_runtime.engine.batch import Answers, Batch
from flash_runtime.engine.loop import Engine, EngineLimits, EngineStats
from flash_runtime.wire import Failure, FinishReason, GenerateRequest, StreamEvent

PROMPT = [5, 6, 7]
FOREVER = 90_000
"""Tokens: more than are made in any test."""
SECONDS = 10.0


class RecordingStream:
    """A client that remembers everything."""

    def __init__(self, *, closed: bool = False) -> None:
        self.tokens: list[int] = []
        self.events: list[StreamEvent] = []
        self.failure: tuple[Failure, str] | None = None
        self.cancelled = False
        self.ended = threading.Event()
        self.began = threading.Event()
        self.may_go_on = threading.Event()
        self.may_go_on.set()
        self.threads: set[str] = set()
        self._closed = closed

    def send(self, token_ids: Sequence[int], event: StreamEvent) -> None:
        self.threads.add(threading.current_thread().name)
        self.began.set()
        assert self.may_go_on.wait(SECONDS)
        if self._closed:
            raise StreamClosed("gone")
        self.tokens += token_ids
        self.events.append(event)
        if event.finish_reason is not None:
            self.ended.set()

    def fail(self, failure: Failure, message: str) -> None:
        self.failure = (failure, message)
        self.ended.set()

    def is_cancelled(self) -> bool:
        self.threads.add(threading.current_thread().name)
        return self.cancelled


class SteppedModel(PagedModel):
    """Steps as often as the test allows; without a limit, as often as it is asked."""

    def __init__(self, *, steps: int | None, fatal_token: int | None) -> None:
        super().__init__(num_blocks=25_000, max_context_tokens=100_000, fatal_token=fatal_token)
        self.allowed = None if steps is None else threading.Semaphore(steps)

    def step(self, batch: Batch) -> Answers:
        if self.allowed is not None:
            assert self.allowed.acquire(timeout=SECONDS)
        return super().step(batch)


class Bench:
    """A worker over a PagedModel, with what it reported."""

    def __init__(self, model: SteppedModel, limits: EngineLimits, clock: Callable[[], float]) -> None:
        self.model = model
        self.stats: list[EngineStats] = []
        self.crashes: list[BaseException] = []
        self.threads: set[str] = set()
        self.engine = Engine(model, limits=limits)
        self.worker = EngineWorker(
            self.engine,
            clock=clock,
            on_stats=self._note,
            on_crash=self.crashes.append,
        )

    def _note(self, stats: EngineStats) -> None:
        self.threads.add(threading.current_thread().name)
        self.stats.append(stats)

    def let_step(self, steps: int) -> None:
        """Allow so many more steps."""
        assert self.model.allowed is not None
        self.model.allowed.release(steps)

    def submit(self, prompt: list[int], *, max_tokens: int, closed: bool = False) -> RecordingStream:
        stream = RecordingStream(closed=closed)
        self.worker.submit(Submission(prompt, GenerateRequest(max_tokens=max_tokens), stream))
        return stream


MakeBench = Callable[..., Bench]


def eventually(condition: Callable[[], bool]) -> None:
    """Look until it holds; fail when it does not in time."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"not within {SECONDS} s"
        time.sleep(0.001)


@pytest.fixture
def make_bench() -> Iterator[MakeBench]:
    benches: list[Bench] = []

    def make(
        *,
        fatal_token: int | None = None,
        steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
        started: bool = True,
        **limits: int,
    ) -> Bench:
        bench = Bench(SteppedModel(steps=steps, fatal_token=fatal_token), EngineLimits(**limits), clock)
        benches.append(bench)
        if started:
            bench.worker.start()
        return bench

    yield make
    for bench in benches:
        assert bench.worker.stop(SECONDS)


def test_a_request_is_answered_in_pieces_of_which_the_last_says_why(make_bench: MakeBench) -> None:
    bench = make_bench()
    stream = bench.submit(PROMPT, max_tokens=5)
    assert stream.ended.wait(SECONDS)
    assert stream.tokens == bench.model.expected(PROMPT, 5)
    assert [event.finish_reason for event in stream.events[:-1]] == [None] * (len(stream.events) - 1)
    assert stream.events[-1].finish_reason == FinishReason.LENGTH


def test_a_client_that_takes_its_time_does_not_hold_up_the_engine(make_bench: MakeBench) -> None:
    bench = make_bench(steps=1)
    slow = bench.submit(PROMPT, max_tokens=100)
    assert slow.began.wait(SECONDS)
    slow.may_go_on.clear()
    bench.let_step(99)
    eventually(lambda: not bench.engine.has_work)
    assert not slow.ended.is_set()
    slow.may_go_on.set()
    assert slow.ended.wait(SECONDS)
    assert slow.tokens == bench.model.expected(PROMPT, 100)


def test_everything_that_touches_tritonserver_happens_on_one_thread(make_bench: MakeBench) -> None:
    bench = make_bench()
    streams = [bench.submit([number], max_tokens=20) for number in range(4)]
    for stream in streams:
        assert stream.ended.wait(SECONDS)
    assert bench.worker.stop(SECONDS)
    assert {name for stream in streams for name in stream.threads} | bench.threads == {"deliveries"}


def test_a_cancelled_stream_is_closed_and_another_takes_its_place(make_bench: MakeBench) -> None:
    bench = make_bench(max_running=1, steps=1)
    first = bench.submit(PROMPT, max_tokens=FOREVER)
    second = bench.submit(PROMPT, max_tokens=1)
    assert first.began.wait(SECONDS)
    first.cancelled = True
    assert first.ended.wait(SECONDS)
    assert first.events[-1].finish_reason == FinishReason.CANCELLED
    bench.let_step(2)
    assert second.ended.wait(SECONDS)
    assert len(first.tokens) == 1


def test_a_cancelled_request_that_still_waits_is_forgotten(make_bench: MakeBench) -> None:
    bench = make_bench(max_running=1, steps=1, started=False)
    bench.submit(PROMPT, max_tokens=50)
    second = bench.submit(PROMPT, max_tokens=FOREVER)
    bench.worker.start()
    assert second.began.wait(SECONDS), "it shows life"
    second.cancelled = True
    assert second.ended.wait(SECONDS)
    assert second.tokens == []
    bench.let_step(50)
    eventually(lambda: not bench.engine.has_work)
    assert bench.engine.stats().generated_tokens == 50


def test_a_client_that_is_gone_does_not_disturb_the_others(make_bench: MakeBench) -> None:
    bench = make_bench()
    gone = bench.submit(PROMPT, max_tokens=FOREVER, closed=True)
    stream = bench.submit([9, 9], max_tokens=5)
    assert gone.began.wait(SECONDS)
    assert stream.ended.wait(SECONDS)
    assert stream.tokens == bench.model.expected([9, 9], 5)


def test_a_request_that_can_never_run_is_told_so(make_bench: MakeBench) -> None:
    stream = make_bench().submit([], max_tokens=1)
    assert stream.ended.wait(SECONDS)
    assert stream.failure == (Failure.INVALID, "input_ids (0 tokens) must hold at least one token")


def test_a_request_too_many_is_told_to_try_elsewhere(make_bench: MakeBench) -> None:
    bench = make_bench(max_running=1, max_queued=0)
    first = bench.submit(PROMPT, max_tokens=FOREVER)
    assert first.began.wait(SECONDS)
    second = bench.submit(PROMPT, max_tokens=1)
    assert second.ended.wait(SECONDS)
    assert second.events == [StreamEvent(finish_reason=FinishReason.OVERLOADED)]


def test_a_request_that_waits_shows_life(make_bench: MakeBench) -> None:
    bench = make_bench(max_running=1, steps=1, started=False)
    first = bench.submit(PROMPT, max_tokens=5)
    waits = bench.submit(PROMPT, max_tokens=1)
    bench.worker.start()
    assert waits.began.wait(SECONDS)
    assert waits.tokens == []
    bench.let_step(5)
    assert first.ended.wait(SECONDS)
    assert waits.ended.wait(SECONDS)
    assert waits.events[0] == StreamEvent()


def test_a_client_that_left_while_it_waited_is_found_by_the_sign_of_life(make_bench: MakeBench) -> None:
    hours = count(step=3600).__next__
    bench = make_bench(max_running=1, clock=hours, started=False)
    first = bench.submit(PROMPT, max_tokens=5)
    gone = bench.submit(PROMPT, max_tokens=FOREVER, closed=True)
    bench.worker.start()
    assert first.ended.wait(SECONDS)
    assert bench.worker.stop(SECONDS)
    assert gone.failure is None, "it was forgotten before the end, not told of it"
    assert bench.stats[-1].waiting == 0


def test_a_crash_fails_every_stream_and_is_reported(make_bench: MakeBench) -> None:
    bench = make_bench(fatal_token=96)
    bystander = bench.submit(PROMPT, max_tokens=FOREVER)
    assert bystander.began.wait(SECONDS)
    culprit = bench.submit([1, 96], max_tokens=1)
    for stream in (bystander, culprit):
        assert stream.ended.wait(SECONDS)
        assert stream.failure is not None
        assert stream.failure[0] == Failure.INTERNAL
    assert bench.worker.stop(SECONDS)
    assert [type(crash) for crash in bench.crashes] == [MemoryError]


def test_stopping_tells_open_streams(make_bench: MakeBench) -> None:
    bench = make_bench()
    stream = bench.submit(PROMPT, max_tokens=FOREVER)
    assert stream.began.wait(SECONDS)
    assert bench.worker.stop(SECONDS)
    assert stream.failure == (Failure.UNAVAILABLE, "the engine is shutting down")


def test_a_request_after_the_end_is_told_so(make_bench: MakeBench) -> None:
    bench = make_bench()
    assert bench.worker.stop(SECONDS)
    assert bench.submit(PROMPT, max_tokens=1).failure == (Failure.UNAVAILABLE, "the engine has ended")


def test_the_numbers_are_published_when_the_engine_falls_idle(make_bench: MakeBench) -> None:
    bench = make_bench()
    stream = bench.submit(PROMPT, max_tokens=5)
    assert stream.ended.wait(SECONDS)
    assert bench.worker.stop(SECONDS)
    assert bench.stats[-1].generated_tokens == 5
    assert (bench.stats[-1].running, bench.stats[-1].kv_blocks_used) == (0, 0)


@pytest.mark.parametrize(
    ("own", "said", "taken"), [("a", "a", True), ("a", "", True), ("", "a", True), ("a", "b", False)]
)
def test_a_prompt_of_another_tokenizer_is_sent_elsewhere(own: str, said: str, *, taken: bool) -> None:
    worker = EngineWorker(
        Engine(PagedModel(num_blocks=64), limits=EngineLimits()),
        clock=lambda: 0.0,
        on_stats=lambda stats: None,
        on_crash=lambda error: None,
        vocabulary=own,
    )
    worker.start()
    stream = RecordingStream()
    worker.submit(Submission([5, 6], GenerateRequest(max_tokens=2, vocabulary=said), stream))
    assert stream.ended.wait(SECONDS)
    assert worker.stop(SECONDS)
    assert (stream.failure is None) is taken
    if stream.failure is not None:
        assert stream.failure[0] is Failure.UNAVAILABLE, "which another replica may take"
