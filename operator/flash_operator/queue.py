"""One loop per object: events wake it, passes of the same object never overlap, failures back off.

Knows keys and when to run, nothing of what a pass does (`step`).
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final

from flash_operator.cluster.protocol import ClusterError, Key
from flash_operator.reconcile import Outcome
from flash_operator.steady import Steady

Step = Callable[[Key], Awaitable[Outcome]]
Look = Callable[[Steady], Awaitable[bool]]
"""Whether an object still is as its last outcome says. Must not raise."""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class QueueSettings:
    """When a key runs."""

    concurrency: int = 32
    """Passes of different objects at the same time."""
    looks_per_second: float = 250.0
    """At steady objects, of all together: with up to 5,000 of them each is asked every 20 s, and an answer that does
    not come is waited for another 10 s."""
    unsteady_passes_per_second: float = 50.0
    """That no event asked for, over objects of which only a pass can tell: the more there are, the less often each."""
    passes_per_second: float = 10.0
    """The same, over objects that are steady."""
    settle_seconds: float = 0.05
    """One apply makes a burst of events: they are answered by one pass."""
    report_seconds: float = 1.0
    """After a pass that left its report to the next one."""
    backoff_seconds: float = 0.5
    backoff_max_seconds: float = 60.0
    resync_seconds: float = 300.0
    """A pass even if nothing asks for one: bounds how long a lost event can matter. More with thousands of objects."""


DEFAULTS: Final = QueueSettings()


def backoff_seconds(failures: int, settings: QueueSettings) -> float:
    """The pause after so many failures in a row."""
    # The exponent is bounded before it is used: a float has an end, an outage may not.
    return min(settings.backoff_max_seconds, settings.backoff_seconds * 2.0 ** min(failures - 1, 30))


def look_pause_seconds(wanted: float, objects: int, settings: QueueSettings, *, steady: bool) -> float:
    """The pause until the next look at one of so many objects, or until the next pass where a look is not enough."""
    rate = settings.looks_per_second if steady else settings.unsteady_passes_per_second
    return min(max(wanted, objects / rate), settings.resync_seconds)


def pass_pause_seconds(objects: int, settings: QueueSettings) -> float:
    """The time between two passes over a steady one of so many objects."""
    return max(settings.resync_seconds, objects / settings.passes_per_second)


async def never_steady(known: Steady) -> bool:
    """Only a pass can tell."""
    del known
    return False


class _Signals:
    """What has happened to one object since its last pass began."""

    def __init__(self) -> None:
        self.event = asyncio.Event()
        self.new_spec = asyncio.Event()
        self.generation: int | None = None
        self.wanted_since: float | None = None
        """When the first event came that no pass has answered yet."""


class Loops:
    """All running loops. `wake` may be called for any key at any time; a loop ends when its object is gone."""

    def __init__(
        self,
        step: Step,
        *,
        look: Look = never_steady,
        clock: Callable[[], float],
        settings: QueueSettings = DEFAULTS,
        waited: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        self._step = step
        self._look = look
        self._waited = waited
        self._clock = clock
        self._settings = settings
        self._slots = asyncio.Semaphore(settings.concurrency)
        self._signals: dict[Key, _Signals] = {}
        self._tasks: dict[Key, asyncio.Task[None]] = {}
        self._running_since: dict[Key, float] = {}
        self._queued: set[Key] = set()
        self._failing: set[Key] = set()
        self._closed = False

    def wake(self, key: Key, generation: int | None = None) -> None:
        """There is a reason to look at the object; an event of the object itself tells the generation of its spec."""
        if self._closed:
            return  # an event that was on its way: we may no longer act
        if key not in self._tasks:
            self._signals[key] = _Signals()
            self._tasks[key] = asyncio.create_task(self._loop(key), name=f"reconcile {key}")
        signals = self._signals[key]
        if not signals.event.is_set():
            signals.wanted_since = self._clock()
        signals.event.set()
        if generation is not None and generation != signals.generation:
            signals.generation = generation
            signals.new_spec.set()

    @property
    def keys(self) -> frozenset[Key]:
        """The objects that have a loop."""
        return frozenset(self._tasks)

    @property
    def failing(self) -> frozenset[Key]:
        """The objects whose last pass failed."""
        return frozenset(self._failing)

    @property
    def waiting(self) -> int:
        """How many objects wait for a pass: something has happened to them, and none that runs will answer it."""
        return sum(
            signals.event.is_set() or key in self._queued
            for key, signals in self._signals.items()
            if key not in self._running_since
        )

    def longest_pass_seconds(self) -> float:
        """How long the oldest pass that still runs has taken so far."""
        return max((self._clock() - since for since in self._running_since.values()), default=0.0)

    async def aclose(self) -> None:
        """Stop all loops, wherever they are, for good: a pass may be cut off at any point."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _loop(self, key: Key) -> None:
        signals = self._signals[key]
        failures = 0
        try:
            while True:
                await asyncio.sleep(self._settings.settle_seconds)
                signals.event.clear()
                signals.new_spec.clear()
                wanted_since, signals.wanted_since = signals.wanted_since, None
                outcome = await self._pass(key, wanted_since)
                if outcome is not None and outcome.gone and not signals.event.is_set():
                    return
                failed = outcome is None or outcome.error is not None
                failures = failures + 1 if failed else 0
                (self._failing.add if failed else self._failing.discard)(key)
                if failed:
                    # Only a new spec shortens this one: our own half-done writes make events too.
                    await _wait(signals.new_spec, backoff_seconds(failures, self._settings))
                elif outcome is not None and outcome.unreported:
                    # Not for its events, which are our own writes' and those that came of them.
                    await _wait(signals.new_spec, self._settings.report_seconds)
                elif outcome is not None:
                    wanted, known = outcome.requeue_after_seconds or self._settings.resync_seconds, outcome.steady
                    outcome = None  # it holds a whole status, and there are thousands of loops that wait
                    await self._rest(signals.event, wanted, known)
        finally:
            del self._tasks[key], self._signals[key]
            self._failing.discard(key)
            self._queued.discard(key)

    async def _rest(self, event: asyncio.Event, wanted_seconds: float, known: Steady | None) -> None:
        """Until there is a reason for a pass: an event, a look that finds something else, or so much time."""
        until = self._clock() + pass_pause_seconds(len(self._tasks), self._settings)
        while True:
            steady = known is not None
            await _wait(event, look_pause_seconds(wanted_seconds, len(self._tasks), self._settings, steady=steady))
            if event.is_set() or known is None or self._clock() >= until or not await self._look(known):
                return

    async def _pass(self, key: Key, wanted_since: float | None) -> Outcome | None:
        self._queued.add(key)
        async with self._slots:
            self._queued.discard(key)
            self._running_since[key] = self._clock()
            if wanted_since is not None:
                self._waited(self._clock() - wanted_since)
            try:
                outcome = await self._step(key)
            except ClusterError as error:
                log.warning("%s: %s", key, error)
                return None
            except Exception:
                # The outermost loop of one object: a mistake of ours must not take the other objects down.
                log.exception("%s: the pass failed", key)
                return None
            finally:
                del self._running_since[key]
        if outcome.error is not None:
            log.warning("%s: %s", key, outcome.error)
        return outcome


async def _wait(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return
