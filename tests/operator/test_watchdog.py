"""Whether events still arrive."""

from flash_operator.cluster.protocol import Key
from flash_operator.watchdog import Watchdog

A, B = Key("default", "a"), Key("default", "b")


def test_a_watch_that_keeps_up_is_well() -> None:
    dog = Watchdog()
    dog.delivered(A, "1", deleted=False)
    for _ in range(3):
        assert list(dog.look({A: "1"})) == []
    assert not dog.is_stale


def test_a_late_event_is_no_fault_but_is_looked_after() -> None:
    dog = Watchdog()
    assert list(dog.look({A: "1"})) == [A]
    assert not dog.is_stale
    dog.delivered(A, "1", deleted=False)
    assert list(dog.look({A: "1"})) == []
    assert not dog.is_stale


def test_an_object_that_stays_behind_means_a_dead_watch() -> None:
    dog = Watchdog()
    dog.delivered(A, "1", deleted=False)
    dog.look({A: "2"})
    dog.look({A: "3"})
    assert dog.is_stale


def test_a_busy_object_that_is_behind_at_each_look_is_no_dead_watch() -> None:
    dog = Watchdog()
    for version in range(1, 6):
        dog.delivered(A, str(version), deleted=False)
        dog.look({A: str(version + 1)})
        assert not dog.is_stale


def test_a_swallowed_deletion_wakes_the_loop_once() -> None:
    dog = Watchdog()
    dog.delivered(A, "1", deleted=False)
    dog.delivered(B, "1", deleted=False)
    dog.delivered(B, "2", deleted=True)
    assert list(dog.look({})) == [A]
    assert list(dog.look({})) == []
    assert not dog.is_stale


def test_a_watch_that_recovers_is_well_again() -> None:
    dog = Watchdog()
    dog.look({A: "1"})
    dog.look({A: "1"})
    assert dog.is_stale
    dog.delivered(A, "1", deleted=False)
    dog.look({A: "1"})
    assert not dog.is_stale


def test_a_watch_that_brings_anything_is_alive_although_it_has_much_to_bring() -> None:
    dog = Watchdog()
    dog.look({A: "1", B: "1"})
    dog.delivered(B, "1", deleted=False)
    dog.look({A: "1", B: "1"})
    assert not dog.is_stale
    dog.look({A: "1", B: "1"})
    assert dog.is_stale


def test_with_a_watch_for_each_namespace_an_event_proves_nothing_for_the_others() -> None:
    other = Key("other", "b")
    dog = Watchdog(per_namespace=True)
    dog.look({A: "1", other: "1"})
    dog.delivered(other, "1", deleted=False)
    dog.look({A: "1", other: "1"})
    assert dog.is_stale


def test_a_watch_that_has_begun_anew_is_given_time() -> None:
    dog = Watchdog()
    dog.look({A: "1"})
    dog.look({A: "1"})
    dog.reset()
    assert not dog.is_stale
    dog.look({A: "1"})
    assert not dog.is_stale
