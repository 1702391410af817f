"""The history of revisions under rolling updates."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flash_api import names
from flash_api.v1alpha1.status_details import HISTORY_MAX, REPLACING, RolloutStatus
from flash_operator.plan.rollout_record import recorded, rolled
from flash_operator.rollouts import rolling_update

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)


def roll(
    former: RolloutStatus | None, target: str, *, settled: bool = False, minutes: int = 0, **rest: Any
) -> RolloutStatus:
    how = {"stuck": None, "paused": False, **rest}
    return rolled(former, target, settled=settled, now=NOON + timedelta(minutes=minutes), **how)


def results(record: RolloutStatus) -> list[tuple[str, str]]:
    return [(event.revision, event.result) for event in record.history]


def test_a_revision_is_replaced_by_the_next_one() -> None:
    first = roll(None, "a")
    assert (first.step, results(first)) == (REPLACING, [("a", "InProgress")])
    done = roll(first, "a", settled=True, minutes=1)
    assert (done.step, results(done)) == ("", [("a", "Complete")])
    assert (done.history[0].start_time, done.history[0].end_time) == ("2026-01-01T12:00:00Z", "2026-01-01T12:01:00Z")
    second = roll(done, "b", minutes=2)
    assert (second.previous_revision, results(second)) == ("a", [("b", "InProgress"), ("a", "Complete")])


def test_nothing_is_written_anew_while_nothing_changes() -> None:
    under_way = roll(None, "a")
    assert roll(under_way, "a", minutes=5) == under_way
    done = roll(under_way, "a", settled=True, minutes=6)
    assert roll(done, "a", settled=True, minutes=7) == done
    assert roll(done, "a", settled=False, minutes=8) == done  # more pods of it are wanted: that is no rollout


def test_one_that_is_overtaken_or_taken_back_in_the_middle_is_superseded() -> None:
    record = roll(roll(None, "a"), "a", settled=True)
    back = roll(roll(record, "b"), "a", minutes=3)
    assert results(back) == [("a", "InProgress"), ("b", "Superseded"), ("a", "Complete")]
    assert "revision a" in back.history[1].message


def test_one_that_is_stuck_failed_until_its_pods_are_ready_after_all() -> None:
    stuck = roll(roll(None, "a"), "a", stuck="has timed out progressing.")
    assert (results(stuck), stuck.history[0].message) == ([("a", "Failed")], "has timed out progressing.")
    assert roll(stuck, "a", stuck="has timed out progressing.", minutes=5) == stuck
    assert results(roll(stuck, "a", settled=True)) == [("a", "Complete")]


def test_a_pause_is_said_and_ends() -> None:
    paused = roll(roll(None, "a"), "a", paused=True)
    assert paused.paused is True
    assert roll(paused, "a").paused is None


@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40))
def test_the_history_is_bounded_and_only_its_head_is_under_way(steps: list[tuple[str, bool]]) -> None:
    record: RolloutStatus | None = None
    for minute, (target, settled) in enumerate(steps):
        record = roll(record, target, settled=settled, minutes=minute)
        assert record.revision == target == record.history[0].revision
        assert len(record.history) <= HISTORY_MAX
        assert all(event.result != "InProgress" and event.end_time for event in record.history[1:])
        wire = record.model_dump(mode="json", by_alias=True, exclude_none=True)
        assert recorded({"rollout": wire}) == record


def an_engine(revision: str, **status: int) -> dict[str, Any]:
    counts = {"observedGeneration": 1, "replicas": 1, "readyReplicas": 1, "updatedReplicas": 1, **status}
    meta = {"name": "chat-engine", "generation": 1, "labels": {names.LABEL_REVISION: revision}}
    return {"kind": "Deployment", "metadata": meta, "spec": {"replicas": 1}, "status": counts}


def test_a_deployment_that_could_not_be_changed_has_not_arrived() -> None:
    def seen(live: dict[str, Any]) -> list[tuple[str, str]]:
        record = rolling_update([an_engine("b")], [live], {}, name="chat", paused=False, now=NOON)
        assert record is not None
        return results(record)

    assert seen(an_engine("a")) == [("b", "InProgress")]
    assert seen(an_engine("b", updatedReplicas=0)) == [("b", "InProgress")]
    assert seen(an_engine("b")) == [("b", "Complete")]


def test_what_was_written_stays_while_a_spec_is_refused() -> None:
    written = {"rollout": roll(None, "a").model_dump(mode="json", by_alias=True, exclude_none=True)}
    assert rolling_update([], [an_engine("a")], written, name="chat", paused=False, now=NOON) == recorded(written)
