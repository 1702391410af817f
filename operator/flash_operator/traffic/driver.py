"""Clients that ask again and again, each answer compared with the one that its prompt got before.

    with Driver(endpoint, questions, concurrency=4) as traffic:
        traffic.mark("rolling update")
        …
    assert traffic.flawless

Before the first window each prompt is asked once, in peace: those answers are what the later ones are compared with.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Final, Self

from flash_operator.traffic.stream import Ending, Endpoint, Question, Stream, TrafficError, ask
from flash_operator.traffic.tally import Window, judge

FIRST_WINDOW: Final = "steady"
PAUSE_AFTER_FAILURE_SECONDS: Final = 0.2
"""A client that is refused at once would otherwise ask thousands of times a second."""

Goldens = Mapping[Question, str]
Ask = Callable[[Endpoint, Question, Callable[[], float]], Stream]


class Driver:
    """A number of clients on threads of their own. Results may be read at any time."""

    def __init__(
        self,
        endpoint: Endpoint,
        questions: Sequence[Question],
        *,
        concurrency: int,
        max_streams: int | None = None,
        goldens: Goldens | None = None,
        clock: Callable[[], float] = time.perf_counter,
        ask: Ask = ask,
    ) -> None:
        self._endpoint = endpoint
        self._questions = tuple(dict.fromkeys(questions))
        self._concurrency = concurrency
        self._max_streams = max_streams
        self._goldens = dict(goldens or {})
        self._clock = clock
        self._ask = ask
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._leave = threading.Event()
        self._windows: list[Window] = []
        self._numbers = itertools.count()
        self._clients: list[threading.Thread] = []
        self._num_running = 0

    def __enter__(self) -> Self:
        self.learn()
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()

    @property
    def goldens(self) -> Goldens:
        """The digest of each prompt's answer."""
        return dict(self._goldens)

    def learn(self) -> None:
        """Ask what has no golden answer yet, each once. Raises TrafficError if one does not come through."""
        unknown = [question for question in self._questions if question not in self._goldens]
        with ThreadPoolExecutor(min(self._concurrency, 8)) as clients:
            answers = list(clients.map(lambda question: self._ask(self._endpoint, question, self._clock), unknown))
        for question, stream in zip(unknown, answers, strict=True):
            if stream.ending is not Ending.WHOLE:
                raise TrafficError(
                    f"prompt {self._questions.index(question) + 1} of {len(self._questions)} was not answered before "
                    f"the traffic began ({stream.cause}): the endpoint must serve first"
                )
            self._goldens[question] = stream.digest

    def start(self) -> None:
        """Begin with the first window."""
        self._windows = [Window(FIRST_WINDOW, self._clock())]
        self._num_running = self._concurrency
        self._clients = [threading.Thread(target=self._run, daemon=True) for _ in range(self._concurrency)]
        for client in self._clients:
            client.start()

    def mark(self, name: str) -> None:
        """A new window begins."""
        with self._lock:
            now = self._clock()
            self._windows[-1].ended = now
            self._windows.append(Window(name, now))

    def stop(self) -> None:
        """Ask no more; what is open may end."""
        self._leave.set()
        for client in self._clients:
            client.join()
        with self._lock:
            if self._windows and self._windows[-1].ended is None:
                self._windows[-1].ended = self._clock()

    def wait(self, seconds: float | None = None) -> bool:
        """Until every client has left, as they do after the last stream that was wanted. False = not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._num_running == 0, seconds)

    def wait_for_streams(self, count: int, seconds: float) -> bool:
        """Until so many streams have ended in the current window. False = not in time."""
        with self._changed:
            return self._changed.wait_for(lambda: self._windows[-1].num_streams >= count, seconds)

    def look(self, view: Callable[[Sequence[Window], float], object]) -> None:
        """Show the windows as they are at one moment."""
        with self._lock:
            view(self._windows, self._clock())

    @property
    def windows(self) -> tuple[Window, ...]:
        """The windows; they stand still once the driver has stopped."""
        with self._lock:
            return tuple(self._windows)

    @property
    def flawless(self) -> bool:
        """Whether every stream of every window came through unchanged, and there were any."""
        windows = self.windows
        return any(window.num_streams for window in windows) and all(window.flawless for window in windows)

    def _run(self) -> None:
        try:
            while not self._leave.is_set():
                number = next(self._numbers)
                if self._max_streams is not None and number >= self._max_streams:
                    return
                self._one(self._questions[number % len(self._questions)])
        finally:
            with self._changed:
                self._num_running -= 1
                self._changed.notify_all()

    def _one(self, question: Question) -> None:
        stream = self._ask(self._endpoint, question, self._clock)
        with self._changed:
            self._windows[-1].add(stream, judge(stream, self._goldens[question]))
            self._changed.notify_all()
        if stream.ending is Ending.FAILED:
            self._leave.wait(PAUSE_AFTER_FAILURE_SECONDS)
