"""Leader election: the decision by table, the loop by short stories."""

import asyncio
from datetime import UTC, datetime

import pytest

from flash_operator.cluster.protocol import ClusterError, Conflict
from flash_operator.lease import Elector, LeaseRecord, LeaseTimes, Move, Sighting, claim, decide, sight

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
MINE = LeaseRecord(holder="me", duration_seconds=15, resource_version="1")
THEIRS = LeaseRecord(holder="you", duration_seconds=15, resource_version="1")


@pytest.mark.parametrize(
    ("record", "age", "move"),
    [
        (None, 0, Move.TAKE),
        (LeaseRecord(), 0, Move.TAKE),
        (MINE, 0, Move.RENEW),
        (MINE, 100, Move.RENEW),
        (THEIRS, 0, Move.WAIT),
        (THEIRS, 14.9, Move.WAIT),
        (THEIRS, 15, Move.TAKE),
    ],
)
def test_the_move_follows_from_holder_and_age(record: LeaseRecord | None, age: float, move: Move) -> None:
    assert decide(Sighting(record, 100.0), "me", 100.0 + age) is move


def test_a_renewed_lease_is_young_again() -> None:
    first = sight(None, THEIRS, 0.0)
    assert sight(first, THEIRS, 9.0).unchanged_since == 0.0
    renewed = LeaseRecord(holder="you", renew_time="later", resource_version="2")
    assert sight(first, renewed, 9.0).unchanged_since == 9.0


def test_taking_over_counts_a_transition_and_renewing_does_not() -> None:
    taken = claim(THEIRS, "me", 15, NOON)
    assert (taken.holder, taken.transitions, taken.acquire_time) == ("me", 1, "2026-01-01T12:00:00.000000Z")
    assert claim(taken, "me", 15, NOON).transitions == 1
    assert claim(None, "me", 15, NOON).transitions == 0


def test_a_record_survives_its_manifest() -> None:
    record = claim(THEIRS, "me", 15, NOON)
    assert LeaseRecord.from_manifest(record.to_manifest("ns", "name")) == record


class Store:
    """A Lease in memory with the API server's optimistic locking."""

    def __init__(self, record: LeaseRecord | None = None) -> None:
        self.record = record
        self.down = False
        self.looks = 0
        self.looked_often = asyncio.Event()
        self._version = 1

    async def read(self) -> LeaseRecord | None:
        if self.down:
            raise ClusterError("down")
        self.looks += 1
        if self.looks >= 5:
            self.looked_often.set()
        return self.record

    async def write(self, record: LeaseRecord) -> LeaseRecord:
        if self.down:
            raise ClusterError("down")
        if record.resource_version != (self.record.resource_version if self.record is not None else ""):
            raise Conflict("changed")
        self._version += 1
        self.record = LeaseRecord(**{**vars(record), "resource_version": str(self._version)})
        return self.record


TIMES = LeaseTimes(duration_seconds=0.3, renew_deadline_seconds=0.2, retry_seconds=0.02)


def elector(store: Store, identity: str) -> Elector:
    return Elector(store, identity, clock=asyncio.get_running_loop().time, wall=lambda: NOON, times=TIMES)


async def test_one_of_two_leads_and_the_other_follows_after_a_release() -> None:
    store = Store()
    first = elector(store, "a")
    # No time passes for the second one, so that nothing but a release lets it lead.
    second = Elector(store, "b", clock=lambda: 0.0, wall=lambda: NOON, times=TIMES)
    await first.acquire()
    holding = asyncio.create_task(first.hold())
    waiting = asyncio.create_task(second.acquire())
    async with asyncio.timeout(5):
        await store.looked_often.wait()
    assert not waiting.done()
    holding.cancel()
    await first.release()
    async with asyncio.timeout(5):
        await waiting
    assert store.record is not None
    assert store.record.holder == "b"


async def test_leading_ends_when_the_lease_cannot_be_renewed() -> None:
    store = Store()
    leader = elector(store, "a")
    await leader.acquire()
    store.down = True
    async with asyncio.timeout(5):
        await leader.hold()


async def test_leading_ends_when_a_request_hangs(caplog: pytest.LogCaptureFixture) -> None:
    class Hanging(Store):
        async def write(self, record: LeaseRecord) -> LeaseRecord:
            if self.record is not None:
                await asyncio.Event().wait()
            return await super().write(record)

    leader = elector(Hanging(), "a")
    await leader.acquire()
    async with asyncio.timeout(5):
        await leader.hold()
    assert "could not be renewed" in caplog.text


async def test_leading_ends_when_someone_else_leads(caplog: pytest.LogCaptureFixture) -> None:
    store = Store()
    leader = elector(store, "a")
    await leader.acquire()
    store.record = LeaseRecord(holder="thief", resource_version="99")
    async with asyncio.timeout(5):
        await leader.hold()
    assert store.record.holder == "thief"
    assert "someone else holds it" in caplog.text
