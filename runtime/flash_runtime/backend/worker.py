"""The one thread that owns an Engine: takes requests in, steps, posts what came of it. Knows no tritonserver.

tritonserver's calls arrive on its own thread and only queue; tokens leave on the deliveries' thread. So nothing that
a client or the server does slows a step down.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from flash_runtime.backend.delivery import Deliveries, Stream, StreamClosed
from flash_runtime.engine.errors import EngineError, QueueFull
from flash_runtime.engine.loop import Engine, EngineStats, Output
from flash_runtime.wire import Failure, FinishReason, GenerateRequest

STATS_SECONDS: Final = 0.5
IDLE_SECONDS: Final = 1.0
LAST_WORDS_SECONDS: Final = 5.0
"""How long a failed engine waits for its clients to be told."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Submission:
    """A request on its way into the engine."""

    prompt_ids: list[int]
    request: GenerateRequest
    stream: Stream


@dataclass(frozen=True)
class _Gone:
    """A request that nobody listens to any more."""

    request_id: str


class EngineWorker:
    """Runs an Engine on a thread of its own until stopped."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Callable[[], float],
        on_stats: Callable[[EngineStats], None],
        on_crash: Callable[[BaseException], None],
        vocabulary: str = "",
        on_busy: Callable[[bool], None] = lambda _: None,
        is_orphaned: Callable[[], bool] = lambda: False,
        on_orphaned: Callable[[], None] = lambda: None,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._vocabulary = vocabulary
        self._on_crash = on_crash
        self._is_orphaned = is_orphaned
        self._on_orphaned = on_orphaned
        self._inbox: queue.SimpleQueue[Submission | _Gone | None] = queue.SimpleQueue()
        self._door = threading.Lock()
        """Held to put a submission into the inbox or to close it, so that no request is left in a closed one."""
        self._is_over = False
        self._num_submitted = 0
        self._stopping = False
        self._next_stats = 0.0
        self._reported: EngineStats | None = None
        self._deliveries = Deliveries(
            clock=clock,
            on_gone=lambda request_id: self._inbox.put(_Gone(request_id)),
            on_stats=on_stats,
            on_busy=on_busy,
            on_crash=on_crash,
        )
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        """Begin taking requests."""
        self._deliveries.start()
        self._thread.start()

    def submit(self, submission: Submission) -> None:
        """Queue a request; callable from any thread, returns at once."""
        if submission.request.vocabulary not in ("", self._vocabulary or submission.request.vocabulary):
            why = "the engine has another tokenizer than whoever made this prompt"
        else:
            with self._door:
                if not self._is_over:
                    self._inbox.put(submission)
                    return
            why = "the engine has ended"
        try:
            submission.stream.fail(Failure.UNAVAILABLE, why)
        except StreamClosed:
            _log.info("a client left before it could be told: %s", why)

    def stop(self, timeout_seconds: float) -> bool:
        """End every open stream and both threads. False when they did not end in time."""
        self._stopping = True
        self._inbox.put(None)  # wakes it
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive() and self._deliveries.join(timeout_seconds)

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._take_in()
                if self._engine.has_work:
                    self._deliveries.post(self._engine.step())
                self._report()
                if self._is_orphaned():
                    self._on_orphaned()
            self._end(Failure.UNAVAILABLE, "the engine is shutting down")
        except Exception as error:
            _log.exception("the engine failed")
            self._end(Failure.INTERNAL, f"the engine failed: {type(error).__name__}: {error}")
            self._deliveries.join(LAST_WORDS_SECONDS)
            self._on_crash(error)

    def _take_in(self) -> None:
        """Everything that has arrived; with nothing to do, wait for the next."""
        try:
            item = self._inbox.get(block=not self._engine.has_work, timeout=IDLE_SECONDS)
            while True:
                match item:
                    case Submission():
                        self._add(item)
                    case _Gone():
                        self._engine.cancel(item.request_id)
                item = self._inbox.get(block=False)
        except queue.Empty:
            pass

    def _add(self, submission: Submission) -> None:
        request_id = str(self._num_submitted)
        self._num_submitted += 1
        self._deliveries.open(request_id, submission.stream)
        try:
            self._engine.add(request_id, submission.prompt_ids, submission.request)
        except QueueFull:
            self._deliveries.post([Output(request_id, finish_reason=FinishReason.OVERLOADED)])
        except EngineError as error:
            self._deliveries.post([Output(request_id, error=error)])

    def _report(self) -> None:
        """Publish the numbers now and then, and whenever the engine falls idle."""
        if self._engine.has_work and self._clock() < self._next_stats:
            return
        stats = self._engine.stats()
        if stats != self._reported:
            self._next_stats = self._clock() + STATS_SECONDS
            self._reported = stats
            self._deliveries.report(stats)

    def _end(self, failure: Failure, message: str) -> None:
        with self._door:
            self._is_over = True
        while not self._inbox.empty():
            item = self._inbox.get()
            if isinstance(item, Submission):
                self._deliveries.open(f"late-{id(item)}", item.stream)
        self._deliveries.close(failure, message)
