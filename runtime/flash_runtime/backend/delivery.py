"""Hands tokens to clients on a thread of its own, so that the engine steps on while they leave. Decides nothing.

Every call of a stream, and of the metrics, happens on this one thread: tritonserver's objects bear no second one. A
response costs tritonserver, its Python process and the gateway about 0.3 ms of CPU together, whatever is in it. So the
tokens of a stream that were made since its last response leave in one: with few streams that is each token by itself,
with many the thread pauses between rounds for as long as keeps its own share small. A stream's first token and its end
never wait. Knows streams and outputs, not the engine.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, Protocol

from flash_runtime.engine.errors import EngineError, RequestRefused
from flash_runtime.engine.loop import EngineStats, Output
from flash_runtime.wire import Failure, FinishReason, StreamEvent, TokenLogprobs

DELIVERY_SHARE: Final = 0.05
"""Of this thread's time, what rounds of responses may take: the CPU they cost is taken from the kernels."""
HOLD_SECONDS: Final = 0.05
"""Longest pause between rounds: twenty responses a second still look like a flow."""
CANCEL_POLL_SECONDS: Final = 0.1
"""Asking a stream whether its client left costs as much as half a response."""
SIGN_OF_LIFE_SECONDS: Final = 2.0
"""Longest silence of a stream, give or take a step: less than any deadline that its other side may have."""

_log = logging.getLogger(__name__)


class StreamClosed(Exception):
    """The other side of a stream is gone."""


class Stream(Protocol):
    """Where one request's tokens go. Every method may raise StreamClosed."""

    def send(self, token_ids: Sequence[int], event: StreamEvent) -> None:
        """Deliver tokens; an event with a finish reason ends the stream."""

    def fail(self, failure: Failure, message: str) -> None:
        """End the stream with an error."""

    def is_cancelled(self) -> bool:
        """Whether the client has lost interest."""


@dataclass
class _Outbox:
    """What one open stream has not been told yet."""

    stream: Stream
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprobs] = field(default_factory=list)
    end: Output | None = None
    has_begun: bool = False
    """Whether a token has left."""
    quiet_until: float = float("-inf")
    """When it must hear something again, on the clock."""

    @property
    def is_pending(self) -> bool:
        return bool(self.token_ids) or self.end is not None

    @property
    def is_urgent(self) -> bool:
        return self.end is not None or (not self.has_begun and bool(self.token_ids))


@dataclass(frozen=True)
class _Opened:
    request_id: str
    stream: Stream


@dataclass(frozen=True)
class _Closing:
    failure: Failure
    message: str


class Deliveries:
    """The streams that are open, and the thread that serves them. Its methods return at once."""

    def __init__(
        self,
        *,
        clock: Callable[[], float],
        on_gone: Callable[[str], None],
        on_stats: Callable[[EngineStats], None],
        on_busy: Callable[[bool], None],
        on_crash: Callable[[BaseException], None],
    ) -> None:
        """All callbacks are called on this object's thread; `on_gone` with a request that nobody listens to now."""
        self._clock = clock
        self._on_gone = on_gone
        self._on_stats = on_stats
        self._on_busy = on_busy
        self._on_crash = on_crash
        self._inbox: queue.SimpleQueue[_Opened | list[Output] | EngineStats | _Closing] = queue.SimpleQueue()
        self._outboxes: dict[str, _Outbox] = {}
        self._closing: _Closing | None = None
        self._stepped = False
        self._is_busy = False
        self._next_round = self._next_poll = float("-inf")
        self._thread = threading.Thread(target=self._run, name="deliveries", daemon=True)

    def start(self) -> None:
        """Begin to deliver."""
        self._thread.start()

    def open(self, request_id: str, stream: Stream) -> None:
        """From now on the stream hears of this request, and its cancellation is heard."""
        self._inbox.put(_Opened(request_id, stream))

    def post(self, outputs: list[Output]) -> None:
        """What a step brought, in the order of steps; also without outputs a sign that the engine lives."""
        self._inbox.put(outputs)

    def report(self, stats: EngineStats) -> None:
        """Numbers to publish."""
        self._inbox.put(stats)

    def close(self, failure: Failure, message: str) -> None:
        """Deliver what was posted, end every open stream with this failure, then the thread."""
        self._inbox.put(_Closing(failure, message))

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the end that `close` asked for. False when it did not come in time."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while self._closing is None:
                self._take_in()
                self._tell_busy()
                self._deliver()
                self._show_life()
                self._poll_cancellations()
                self._tell_busy()
            self._end_all(self._closing)
            self._tell_busy()
        except Exception as error:
            _log.exception("responses cannot be delivered")
            self._on_crash(error)

    def _take_in(self) -> None:
        """Everything that was posted; with nothing to do before, wait for the next."""
        try:
            item = self._inbox.get(timeout=self._patience_seconds())
            while True:
                match item:
                    case list():
                        self._stepped = True
                        for output in item:
                            self._sort(output)
                    case _Opened():
                        self._outboxes[item.request_id] = _Outbox(item.stream)
                    case EngineStats():
                        self._on_stats(item)
                    case _Closing():
                        self._closing = item
                        return
                item = self._inbox.get(block=False)
        except queue.Empty:
            pass

    def _patience_seconds(self) -> float | None:
        if not self._outboxes:
            return None
        is_pending = any(outbox.is_pending for outbox in self._outboxes.values())
        next_at = min(self._next_poll, self._next_round) if is_pending else self._next_poll
        return max(0.0, next_at - self._clock())

    def _sort(self, output: Output) -> None:
        outbox = self._outboxes.get(output.request_id)
        if outbox is None:
            return  # its client left, and the engine did not know yet
        outbox.token_ids += output.token_ids
        outbox.logprobs += output.logprobs
        if output.is_final:
            outbox.end = output

    def _deliver(self) -> None:
        """Send what is urgent and, when the pause after the last round is over, everything."""
        begun = self._clock()
        is_round = begun >= self._next_round
        due = [
            (request_id, outbox)
            for request_id, outbox in self._outboxes.items()
            if (outbox.is_pending if is_round else outbox.is_urgent)
        ]
        for request_id, outbox in due:
            self._send(request_id, outbox)
        if due and is_round:
            ended = self._clock()
            self._next_round = ended + min((ended - begun) / DELIVERY_SHARE, HOLD_SECONDS)

    def _send(self, request_id: str, outbox: _Outbox) -> None:
        end = outbox.end
        try:
            if end is None or end.error is None:
                outbox.stream.send(outbox.token_ids, _event(outbox, end))
            else:
                if outbox.token_ids:
                    outbox.stream.send(outbox.token_ids, _event(outbox, None))
                outbox.stream.fail(_failure(end.error), str(end.error))
        except StreamClosed:
            self._forget(request_id)
            return
        if end is not None:
            del self._outboxes[request_id]
            return
        outbox.token_ids, outbox.logprobs, outbox.has_begun = [], [], True
        outbox.quiet_until = self._clock() + SIGN_OF_LIFE_SECONDS

    def _show_life(self) -> None:
        """Tell streams without news that their requests wait or are being computed: silence means a dead engine."""
        if not self._stepped:
            return
        self._stepped = False
        now = self._clock()
        for request_id, outbox in tuple(self._outboxes.items()):
            if now < outbox.quiet_until or outbox.is_pending:
                continue
            outbox.quiet_until = now + SIGN_OF_LIFE_SECONDS
            try:
                outbox.stream.send((), StreamEvent())
            except StreamClosed:
                self._forget(request_id)

    def _poll_cancellations(self) -> None:
        if self._clock() < self._next_poll:
            return
        for request_id, outbox in tuple(self._outboxes.items()):
            try:
                if not outbox.stream.is_cancelled():
                    continue
                outbox.stream.send((), StreamEvent(finish_reason=FinishReason.CANCELLED))
            except StreamClosed:
                pass  # gone already: the same to us
            self._forget(request_id)
        self._next_poll = self._clock() + CANCEL_POLL_SECONDS

    def _forget(self, request_id: str) -> None:
        del self._outboxes[request_id]
        self._on_gone(request_id)

    def _tell_busy(self) -> None:
        if bool(self._outboxes) != self._is_busy:
            self._is_busy = not self._is_busy
            self._on_busy(self._is_busy)

    def _end_all(self, closing: _Closing) -> None:
        for outbox in self._outboxes.values():
            try:
                if outbox.token_ids:
                    outbox.stream.send(outbox.token_ids, _event(outbox, None))
                outbox.stream.fail(closing.failure, closing.message)
            except StreamClosed:
                _log.info("a client left before it could be told: %s", closing.message)
        self._outboxes.clear()


def _event(outbox: _Outbox, end: Output | None) -> StreamEvent:
    if end is None:
        return StreamEvent(logprobs=tuple(outbox.logprobs)) if outbox.logprobs else _PLAIN
    return StreamEvent(
        finish_reason=end.finish_reason, cached_tokens=end.cached_tokens, logprobs=tuple(outbox.logprobs)
    )


_PLAIN: Final = StreamEvent()


def _failure(error: EngineError) -> Failure:
    match error:
        case RequestRefused():
            return Failure.INVALID
        case _:
            return Failure.INTERNAL
