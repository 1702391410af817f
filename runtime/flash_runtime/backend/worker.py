"""The one thread that owns an Engine: takes requests in, steps, hands tokens out. Knows streams, not tritonserver.

tritonserver's calls arrive on its own thread and only queue; everything else, metrics included, happens on this one.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from flash_runtime.engine.errors import EngineError, QueueFull, RequestRefused
from flash_runtime.engine.loop import Engine, EngineStats, Output
from flash_runtime.wire import Failure, FinishReason, GenerateRequest, StreamEvent

CANCEL_POLL_STEPS: Final = 8
"""Asking a stream whether its client left costs as much as half a response."""
CANCEL_POLL_SECONDS: Final = 0.05
SIGN_OF_LIFE_SECONDS: Final = 2.0
"""Longest silence of a stream, give or take a step: less than any deadline that its other side may have."""
STATS_SECONDS: Final = 0.5
IDLE_SECONDS: Final = 1.0

_log = logging.getLogger(__name__)


class StreamClosed(Exception):
    """The other side of a stream is gone."""


class Stream(Protocol):
    """Where one request's tokens go. Every method may raise StreamClosed."""

    def send(self, token_ids: tuple[int, ...], event: StreamEvent) -> None:
        """Deliver tokens; an event with a finish reason ends the stream."""

    def fail(self, failure: Failure, message: str) -> None:
        """End the stream with an error."""

    def is_cancelled(self) -> bool:
        """Whether the client has lost interest."""


@dataclass(frozen=True)
class Submission:
    """A request on its way into the engine."""

    prompt_ids: list[int]
    request: GenerateRequest
    stream: Stream


@dataclass
class _Open:
    """A stream that has not ended."""

    stream: Stream
    quiet_until: float = float("-inf")
    """When it must hear something again, on the clock."""


class EngineWorker:
    """Runs an Engine on a thread of its own until stopped."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], float],
        on_stats: Callable[[EngineStats], None],
        on_crash: Callable[[BaseException], None],
        on_busy: Callable[[bool], None] = lambda _: None,
        is_orphaned: Callable[[], bool] = lambda: False,
        on_orphaned: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._on_stats = on_stats
        self._on_crash = on_crash
        self._on_busy = on_busy
        self._is_busy = False
        self._is_orphaned = is_orphaned
        self._on_orphaned = on_orphaned
        self._inbox: queue.SimpleQueue[Submission | None] = queue.SimpleQueue()
        self._door = threading.Lock()
        """Held to put into the inbox or to close it, so that no request is left in a closed one."""
        self._is_over = False
        self._streams: dict[str, _Open] = {}
        self._num_submitted = 0
        self._stopping = False
        self._steps_to_poll = CANCEL_POLL_STEPS
        self._next_poll = self._next_stats = 0.0
        self._reported: EngineStats | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin taking requests."""
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Queue a request; callable from any thread, returns at once."""
        with self._door:
            if not self._is_over:
                self._inbox.put(submission)
                return
        self._fail(submission.stream, Failure.UNAVAILABLE, "the engine has ended")

    def stop(self, timeout_seconds: float) -> bool:
        """End every open stream and the thread. False when it did not end in time."""
        self._stopping = True
        self._inbox.put(None)  # wakes it
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._take_in()
                self._tell_busy()
                self._step()
                self._poll_cancellations()
                self._show_life()
                self._tell_busy()
                self._report()
                if self._is_orphaned():
                    self._on_orphaned()
            self._fail_all(Failure.UNAVAILABLE, "the engine is shutting down")
        except Exception as error:
            _log.exception("the engine failed")
            self._fail_all(Failure.INTERNAL, f"the engine failed: {type(error).__name__}: {error}")
            self._on_crash(error)

    def _take_in(self) -> None:
        """Everything that has arrived; with nothing to do, wait for the next."""
        try:
            submission = self._inbox.get(block=not self._engine.has_work, timeout=IDLE_SECONDS)
            while True:
                if submission is not None:
                    self._add(submission)
                submission = self._inbox.get(block=False)
        except queue.Empty:
            pass

    def _add(self, submission: Submission) -> None:
        request_id = str(self._num_submitted)
        self._num_submitted += 1
        try:
            self._engine.add(request_id, submission.prompt_ids, submission.request)
        except QueueFull:
            with contextlib.suppress(StreamClosed):
                submission.stream.send((), StreamEvent(finish_reason=FinishReason.OVERLOADED))
        except EngineError as error:
            self._fail(submission.stream, _failure(error), str(error))
        else:
            self._streams[request_id] = _Open(submission.stream)

    def _step(self) -> None:
        outputs = self._engine.step()
        quiet_until = self._clock() + SIGN_OF_LIFE_SECONDS
        for output in outputs:
            open_ = self._streams[output.request_id]
            open_.quiet_until = quiet_until
            try:
                _deliver(open_.stream, output)
            except StreamClosed:
                self._forget(output.request_id)
            else:
                if output.is_final:
                    del self._streams[output.request_id]

    def _poll_cancellations(self) -> None:
        self._steps_to_poll -= 1
        if not self._streams or (self._steps_to_poll > 0 and self._clock() < self._next_poll):
            return
        self._steps_to_poll = CANCEL_POLL_STEPS
        self._next_poll = self._clock() + CANCEL_POLL_SECONDS
        for request_id, open_ in tuple(self._streams.items()):
            try:
                if not open_.stream.is_cancelled():
                    continue
                open_.stream.send((), StreamEvent(finish_reason=FinishReason.CANCELLED))
            except StreamClosed:
                pass  # gone already: the same to us
            self._forget(request_id)

    def _show_life(self) -> None:
        """Tell streams without news that their requests wait or are being computed: silence means a dead engine."""
        now = self._clock()
        for request_id, open_ in tuple(self._streams.items()):
            if now < open_.quiet_until:
                continue
            open_.quiet_until = now + SIGN_OF_LIFE_SECONDS
            try:
                open_.stream.send((), StreamEvent())
            except StreamClosed:
                self._forget(request_id)

    def _forget(self, request_id: str) -> None:
        self._engine.cancel(request_id)
        del self._streams[request_id]

    def _tell_busy(self) -> None:
        if bool(self._streams) != self._is_busy:
            self._is_busy = not self._is_busy
            self._on_busy(self._is_busy)

    def _report(self) -> None:
        """Publish the numbers now and then, and whenever the engine falls idle."""
        if self._engine.has_work and self._clock() < self._next_stats:
            return
        stats = self._engine.stats()
        if stats != self._reported:
            self._next_stats = self._clock() + STATS_SECONDS
            self._reported = stats
            self._on_stats(stats)

    def _fail_all(self, failure: Failure, message: str) -> None:
        for open_ in self._streams.values():
            self._fail(open_.stream, failure, message)
        self._streams.clear()
        with self._door:
            self._is_over = True
        while not self._inbox.empty():
            submission = self._inbox.get()
            if submission is not None:
                self._fail(submission.stream, failure, message)

    def _fail(self, stream: Stream, failure: Failure, message: str) -> None:
        try:
            stream.fail(failure, message)
        except StreamClosed:
            _log.info("a client left before it could be told: %s", message)


def _deliver(stream: Stream, output: Output) -> None:
    if output.error is not None:
        stream.fail(_failure(output.error), str(output.error))
    else:
        stream.send(
            output.token_ids,
            StreamEvent(
                finish_reason=output.finish_reason, cached_tokens=output.cached_tokens, logprobs=output.logprobs
            ),
        )


def _failure(error: EngineError) -> Failure:
    match error:
        case RequestRefused():
            return Failure.INVALID
        case _:
            return Failure.INTERNAL
