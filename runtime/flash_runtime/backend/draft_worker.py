"""The one thread that owns a draft's model: takes messages in, steps, answers. Knows no tritonserver.

Everything that tritonserver is told happens on this thread too: its objects bear no second one.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import threading
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from flash_runtime.backend.delivery import StreamClosed
from flash_runtime.draft_wire import PROTOCOL, DraftWireError, Hello, Welcome, decode_news, encode_guesses
from flash_runtime.engine.draft_server import Answer, DraftServer, DraftStats

LOOK_SECONDS: Final = 0.5
"""Between looks at who is gone, and between reports."""

_log = logging.getLogger(__name__)


class Line(Protocol):
    """Where answers to one request go. Every method may raise StreamClosed."""

    def welcome(self, welcome: Welcome, *, is_last: bool) -> None:
        """The answer to a hello."""

    def guesses(self, flat: array[int], *, is_last: bool) -> None:
        """Guesses, as draft_wire has them."""

    def is_cancelled(self) -> bool:
        """Whether the engine has left."""


@dataclass(frozen=True)
class _Hello:
    stream: str
    hello: Hello
    line: Line


@dataclass(frozen=True)
class _News:
    stream: str
    flat: Sequence[int]
    line: Line


class DraftWorker:
    """Runs a DraftServer on a thread of its own until stopped."""

    def __init__(
        self,
        server: DraftServer,
        *,
        tokenizer: str,
        revision: str,
        max_streams: int,
        clock: Callable[[], float],
        on_stats: Callable[[DraftStats], None],
        on_crash: Callable[[BaseException], None],
        is_stopping: Callable[[], bool] = lambda: False,
        is_orphaned: Callable[[], bool] = lambda: False,
        on_orphaned: Callable[[], None] = lambda: None,
    ) -> None:
        self._server = server
        self._own = Hello(protocol=PROTOCOL, tokenizer=tokenizer, revision=revision)
        self._max_streams = max_streams
        self._clock = clock
        self._on_stats = on_stats
        self._on_crash = on_crash
        self._is_stopping = is_stopping
        self._is_orphaned = is_orphaned
        self._on_orphaned = on_orphaned
        self._inbox: queue.SimpleQueue[_Hello | _News | None] = queue.SimpleQueue()
        self._streams: dict[str, Line] = {}
        self._is_ending = False
        self._next_look = float("-inf")
        self._reported: DraftStats | None = None
        self._thread = threading.Thread(target=self._run, name="draft", daemon=True)

    def start(self) -> None:
        """Begin to propose."""
        self._thread.start()

    def hello(self, stream: str, hello: Hello, line: Line) -> None:
        """An engine wants proposals; callable from any thread, returns at once."""
        self._inbox.put(_Hello(stream, hello, line))

    def news(self, stream: str, flat: Sequence[int], line: Line) -> None:
        """An engine says what its sequences have become; callable from any thread, returns at once."""
        self._inbox.put(_News(stream, flat, line))

    def stop(self, timeout_seconds: float) -> bool:
        """End every stream and the thread. False when it did not end in time."""
        self._is_ending = True
        self._inbox.put(None)  # wakes it
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            while not self._is_ending:
                self._take_in()
                for answer in self._server.step():
                    self._send(answer)
                self._look()
            self._send_off()
        except Exception as error:
            _log.exception("the draft failed")
            self._on_crash(error)

    def _take_in(self) -> None:
        """Everything that has arrived; with nothing to do, wait for the next."""
        try:
            item = self._inbox.get(block=not self._server.has_work, timeout=LOOK_SECONDS)
            while True:
                match item:
                    case _Hello():
                        self._meet(item)
                    case _News():
                        self._hear(item)
                item = self._inbox.get(block=False)
        except queue.Empty:
            pass

    def _meet(self, item: _Hello) -> None:
        refused = ""
        for field in ("protocol", "tokenizer", "revision"):
            if getattr(item.hello, field) != getattr(self._own, field):
                refused = refused or field
        if not refused and len(self._streams) >= self._max_streams:
            refused = "overloaded"
        if self._is_stopping():
            refused = "ending"
        try:
            item.line.welcome(Welcome(**self._own.model_dump(), refused=refused), is_last=bool(refused))
        except StreamClosed:
            return
        if refused:
            _log.info("an engine was refused: %s", refused)
            return
        self._server.open(item.stream)
        self._streams[item.stream] = item.line

    def _hear(self, item: _News) -> None:
        try:
            self._server.hear(item.stream, item.line, decode_news(item.flat))
        except DraftWireError as error:
            _log.warning("news were not understood: %s", error)
            self._answer(item.line, encode_guesses([]), is_last=True)

    def _send(self, answer: Answer) -> None:
        flat = encode_guesses(answer.guesses)
        if answer.ticket is not None:
            self._answer(answer.ticket, flat, is_last=True)  # type: ignore[arg-type]
        elif (line := self._streams.get(answer.stream)) is not None:
            self._answer(line, flat, is_last=False)

    def _answer(self, line: Line, flat: array[int], *, is_last: bool) -> None:
        try:
            line.guesses(flat, is_last=is_last)
        except StreamClosed:
            _log.debug("an engine left before it was answered")

    def _look(self) -> None:
        """Now and then: who has left, is it time to end, what is there to report."""
        if self._clock() < self._next_look:
            return
        self._next_look = self._clock() + LOOK_SECONDS
        if self._is_orphaned():
            self._on_orphaned()
        if self._is_stopping():
            self._send_off()
        for stream, line in tuple(self._streams.items()):
            try:
                if not line.is_cancelled():
                    continue
                line.guesses(encode_guesses([]), is_last=True)
            except StreamClosed:
                pass  # gone already: the same to us
            self._close(stream)
        stats = self._server.stats()
        if stats != self._reported:
            self._reported = stats
            self._on_stats(stats)

    def _send_off(self) -> None:
        """Tell every engine to look elsewhere."""
        for stream, line in tuple(self._streams.items()):
            with contextlib.suppress(StreamClosed):
                line.welcome(Welcome(**self._own.model_dump(), refused="ending"), is_last=True)
            self._close(stream)

    def _close(self, stream: str) -> None:
        del self._streams[stream]
        self._server.close(stream)
