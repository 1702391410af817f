"""One loop per object."""

import asyncio
import logging
from collections.abc import Callable

import pytest

from flash_operator.cluster.protocol import ClusterError, Key
from flash_operator.probe import TIMEOUT_SECONDS
from flash_operator.queue import Loops, QueueSettings, backoff_seconds, look_pause_seconds, pass_pause_seconds
from flash_operator.reconcile import Outcome, ReconcileSettings
from flash_operator.steady import Steady

A, B = Key("default", "a"), Key("default", "b")
SETTINGS = QueueSettings(settle_seconds=0.0, backoff_seconds=0.01, backoff_max_seconds=0.05)


@pytest.mark.parametrize(("failures", "pause"), [(1, 0.5), (2, 1.0), (4, 4.0), (8, 60.0), (10_000, 60.0)])
def test_the_pause_doubles_up_to_a_bound(failures: int, pause: float) -> None:
    assert backoff_seconds(failures, QueueSettings()) == pause


@pytest.mark.parametrize(
    ("wanted", "objects", "look", "unsteady_pass"),
    [
        (15.0, 1, 15.0, 15.0),
        (15.0, 750, 15.0, 15.0),
        (15.0, 5000, 20.0, 100.0),
        (2.0, 5000, 20.0, 100.0),
        (15.0, 100_000, 300.0, 300.0),
    ],
)
def test_the_looks_of_all_objects_together_have_a_bounded_rate(
    wanted: float, objects: int, look: float, unsteady_pass: float
) -> None:
    assert look_pause_seconds(wanted, objects, QueueSettings(), steady=True) == look
    assert look_pause_seconds(wanted, objects, QueueSettings(), steady=False) == unsteady_pass


def test_a_dead_route_of_any_of_5000_is_known_within_30_seconds() -> None:
    waits_seconds = look_pause_seconds(ReconcileSettings().ready_seconds, 5000, QueueSettings(), steady=True)
    assert waits_seconds + TIMEOUT_SECONDS <= 30.0


class Steps:
    """A step that plays back outcomes and can be watched."""

    def __init__(self, *script: Outcome | Exception) -> None:
        self.script = list(script)
        self.passes: list[Key] = []
        self.running: dict[Key, int] = {}
        self.most_at_once = 0
        self._changed = asyncio.Condition()

    async def __call__(self, key: Key) -> Outcome:
        self.running[key] = self.running.get(key, 0) + 1
        self.most_at_once = max(self.most_at_once, self.running[key])
        await asyncio.sleep(0)
        self.running[key] -= 1
        self.passes.append(key)
        async with self._changed:
            self._changed.notify_all()
        step = self.script.pop(0) if self.script else Outcome()
        if isinstance(step, Exception):
            raise step
        return step

    async def until(self, fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(5), self._changed:
            await self._changed.wait_for(fact)


def loops(steps: Steps) -> Loops:
    return Loops(steps, clock=asyncio.get_running_loop().time, settings=SETTINGS)


async def test_many_events_are_answered_by_few_passes_that_never_overlap() -> None:
    steps = Steps()
    running = loops(steps)
    for _ in range(100):
        running.wake(A)
    await steps.until(lambda: len(steps.passes) >= 1)
    for _ in range(100):
        running.wake(A)
    await steps.until(lambda: len(steps.passes) >= 2)
    await running.aclose()
    assert len(steps.passes) <= 4
    assert steps.most_at_once == 1


async def test_a_pass_is_repeated_when_its_outcome_asks_for_it() -> None:
    steps = Steps(Outcome(requeue_after_seconds=0.01), Outcome(requeue_after_seconds=0.01))
    running = loops(steps)
    running.wake(A)
    await steps.until(lambda: len(steps.passes) == 3)
    await running.aclose()


@pytest.mark.parametrize("failure", [ClusterError("no"), RuntimeError("a mistake of ours"), Outcome(error="quota")])
async def test_a_failure_is_tried_again_and_stops_nobody_else(
    failure: Outcome | Exception, caplog: pytest.LogCaptureFixture
) -> None:
    steps = Steps(failure)
    running = loops(steps)
    running.wake(A)
    await steps.until(lambda: len(steps.passes) == 2)
    running.wake(B)
    await steps.until(lambda: B in steps.passes)
    await running.aclose()
    assert any("default/a" in record.message for record in caplog.records if record.levelno >= logging.WARNING)


async def test_a_loop_ends_with_its_object_and_starts_anew_with_a_namesake() -> None:
    steps = Steps(Outcome(gone=True))
    running = loops(steps)
    running.wake(A)
    await steps.until(lambda: len(steps.passes) == 1)
    await asyncio.gather(*(task for task in asyncio.all_tasks() if task.get_name() == f"reconcile {A}"))
    assert running.keys == frozenset()
    running.wake(A)
    await steps.until(lambda: len(steps.passes) == 2)
    await running.aclose()
    assert running.keys == frozenset()


async def test_a_new_spec_ends_the_pause_after_a_failure() -> None:
    steps = Steps(Outcome(error="quota"))
    patient = QueueSettings(settle_seconds=0.0, backoff_seconds=3600.0, backoff_max_seconds=3600.0)
    running = Loops(steps, clock=asyncio.get_running_loop().time, settings=patient)
    running.wake(A, 1)
    await steps.until(lambda: len(steps.passes) == 1)
    running.wake(A, 2)
    await steps.until(lambda: len(steps.passes) == 2)
    await running.aclose()


async def test_an_event_of_the_same_spec_does_not_end_the_pause_after_a_failure() -> None:
    steps = Steps(Outcome(error="quota"))
    patient = QueueSettings(settle_seconds=0.0, backoff_seconds=3600.0, backoff_max_seconds=3600.0)
    running = Loops(steps, clock=asyncio.get_running_loop().time, settings=patient)
    running.wake(A, 1)
    await steps.until(lambda: len(steps.passes) == 1)
    running.wake(A, 1)
    running.wake(A)
    running.wake(B)
    await steps.until(lambda: B in steps.passes)
    await running.aclose()
    assert steps.passes == [A, B]


async def test_an_event_that_comes_after_the_end_starts_nothing() -> None:
    steps = Steps()
    running = loops(steps)
    await running.aclose()
    running.wake(A)
    assert running.keys == frozenset()


async def test_a_hanging_pass_can_be_seen() -> None:
    started = asyncio.Event()

    async def hang(key: Key) -> Outcome:
        started.set()
        await asyncio.Event().wait()
        raise AssertionError(key)

    now = 0.0
    running = Loops(hang, clock=lambda: now, settings=SETTINGS)
    assert running.longest_pass_seconds() == 0.0
    running.wake(A)
    async with asyncio.timeout(5):
        await started.wait()
    now = 200.0
    assert running.longest_pass_seconds() == 200.0
    await running.aclose()


async def test_an_object_whose_last_pass_failed_is_counted_until_one_succeeds() -> None:
    script = [Outcome(error="quota"), Outcome(requeue_after_seconds=0.001), Outcome(requeue_after_seconds=3600.0)]
    counted: list[frozenset[Key]] = []
    done = asyncio.Event()

    async def step(key: Key) -> Outcome:
        counted.append(running.failing)
        if len(script) == 1:
            done.set()
        return script.pop(0)

    running = Loops(step, clock=asyncio.get_running_loop().time, settings=SETTINGS)
    running.wake(A)
    async with asyncio.timeout(5):
        await done.wait()
    await running.aclose()
    assert counted == [frozenset(), {A}, frozenset()]


async def test_the_wait_is_told_from_the_first_reason_to_the_begin_of_the_pass() -> None:
    now = 100.0
    waits: list[float] = []
    began, go_on = asyncio.Event(), asyncio.Event()

    async def step(key: Key) -> Outcome:
        began.set()
        await go_on.wait()
        return Outcome()

    settings = QueueSettings(settle_seconds=0.0, concurrency=1)
    loops = Loops(step, clock=lambda: now, settings=settings, waited=waits.append)
    loops.wake(A)
    await began.wait()
    loops.wake(B)
    assert loops.waiting == 1
    now = 107.0
    loops.wake(B)
    began.clear()
    go_on.set()
    await began.wait()
    assert waits == [0.0, 7.0]
    assert loops.waiting == 0
    await loops.aclose()


KNOWN = Steady("http://chat/readyz", None)
STEADY = Outcome(requeue_after_seconds=0.01, steady=KNOWN)


async def test_a_steady_object_is_looked_at_and_a_pass_follows_when_it_is_not_as_it_was() -> None:
    answers = [True, True, False]
    asked: list[str] = []

    async def look(known: Steady) -> bool:
        asked.append(known.url)
        return answers.pop(0)

    steps = Steps(STEADY)
    running = Loops(steps, look=look, clock=asyncio.get_running_loop().time, settings=SETTINGS)
    running.wake(A)
    await steps.until(lambda: len(steps.passes) == 2)
    await running.aclose()
    assert asked == ["http://chat/readyz"] * 3


async def test_an_event_makes_a_pass_without_a_look() -> None:
    async def look(known: Steady) -> bool:
        raise AssertionError(f"looked at {known}")

    steps = Steps(Outcome(requeue_after_seconds=3600.0, steady=KNOWN))
    running = Loops(steps, look=look, clock=asyncio.get_running_loop().time, settings=SETTINGS)
    running.wake(A)
    await steps.until(lambda: len(steps.passes) == 1)
    running.wake(A)
    await steps.until(lambda: len(steps.passes) == 2)
    await running.aclose()


async def test_a_steady_object_gets_a_pass_after_the_resync_however_often_it_is_looked_at() -> None:
    async def look(known: Steady) -> bool:
        return True

    steps = Steps(STEADY)
    settings = QueueSettings(settle_seconds=0.0, resync_seconds=0.05)
    running = Loops(steps, look=look, clock=asyncio.get_running_loop().time, settings=settings)
    running.wake(A)
    await steps.until(lambda: len(steps.passes) == 2)
    await running.aclose()


async def test_a_pass_that_reported_nothing_is_followed_by_one_that_events_do_not_hasten() -> None:
    steps = Steps(Outcome(unreported=True))
    patient = QueueSettings(settle_seconds=0.0, report_seconds=3600.0)
    running = Loops(steps, clock=asyncio.get_running_loop().time, settings=patient)
    running.wake(A, 1)
    await steps.until(lambda: len(steps.passes) == 1)
    running.wake(A, 1)
    running.wake(B)
    await steps.until(lambda: B in steps.passes)
    assert steps.passes == [A, B]
    running.wake(A, 2)
    await steps.until(lambda: len(steps.passes) == 3)
    await running.aclose()


@pytest.mark.parametrize(("objects", "pause"), [(1, 300.0), (3000, 300.0), (5000, 500.0)])
def test_the_passes_over_steady_objects_have_a_bounded_rate(objects: int, pause: float) -> None:
    assert pass_pause_seconds(objects, QueueSettings()) == pause
