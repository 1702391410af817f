"""Who leads: one replica of the operator acts, by a Lease that it renews. Timing as in controller-runtime.

The decision is pure. Time is measured by the local monotonic clock since a change was *seen*, never by comparing the
time stamps that another machine wrote.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import Enum
from typing import Any, Final, Protocol

from flash_operator.cluster.protocol import ClusterError, Conflict

_MICRO_TIME: Final = "%Y-%m-%dT%H:%M:%S.%fZ"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LeaseTimes:
    """How long a silent leader is trusted, how long a leader tries to renew, and how often anyone tries."""

    duration_seconds: float = 15.0
    renew_deadline_seconds: float = 10.0
    retry_seconds: float = 2.0


@dataclass(frozen=True)
class LeaseRecord:
    """What a Lease says."""

    holder: str = ""
    duration_seconds: int = 15
    acquire_time: str = ""
    renew_time: str = ""
    transitions: int = 0
    resource_version: str = ""

    @classmethod
    def from_manifest(cls, manifest: Mapping[str, Any]) -> LeaseRecord:
        spec = manifest.get("spec") or {}
        return cls(
            holder=spec.get("holderIdentity") or "",
            duration_seconds=int(spec.get("leaseDurationSeconds") or 15),
            acquire_time=spec.get("acquireTime") or "",
            renew_time=spec.get("renewTime") or "",
            transitions=int(spec.get("leaseTransitions") or 0),
            resource_version=manifest["metadata"].get("resourceVersion", ""),
        )

    def to_manifest(self, namespace: str, name: str) -> dict[str, Any]:
        meta = {"name": name, "namespace": namespace}
        if self.resource_version:
            meta["resourceVersion"] = self.resource_version
        return {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": meta,
            "spec": {
                "holderIdentity": self.holder,
                "leaseDurationSeconds": self.duration_seconds,
                "acquireTime": self.acquire_time,
                "renewTime": self.renew_time,
                "leaseTransitions": self.transitions,
            },
        }


class LeaseStore(Protocol):
    """Where the Lease lives."""

    async def read(self) -> LeaseRecord | None:
        """The Lease, None when there is none. Raises ClusterError."""

    async def write(self, record: LeaseRecord) -> LeaseRecord:
        """Create it (no resource version) or replace exactly the version read. Raises Conflict if that changed."""


class Move(Enum):
    """What to do about the Lease now."""

    TAKE = "take"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True)
class Sighting:
    """The Lease as last read, and since when it has looked like that."""

    record: LeaseRecord | None
    unchanged_since: float


def sight(before: Sighting | None, record: LeaseRecord | None, now: float) -> Sighting:
    """The sighting after one more look."""
    if before is not None and before.record == record:
        return before
    return Sighting(record, now)


def decide(seen: Sighting, identity: str, now: float) -> Move:
    """Renew what is ours, take what is free or was left, leave the rest."""
    record = seen.record
    if record is None or not record.holder:
        return Move.TAKE
    if record.holder == identity:
        return Move.RENEW
    return Move.TAKE if now - seen.unchanged_since >= record.duration_seconds else Move.WAIT


def claim(record: LeaseRecord | None, identity: str, duration_seconds: float, now: datetime) -> LeaseRecord:
    """The record that says `identity` leads as of now."""
    stamp = now.strftime(_MICRO_TIME)
    before = record if record is not None else LeaseRecord()
    held = before.holder == identity
    return replace(
        before,
        holder=identity,
        duration_seconds=max(1, round(duration_seconds)),
        renew_time=stamp,
        acquire_time=before.acquire_time if held else stamp,
        transitions=before.transitions + (not held and bool(before.holder)),
    )


class Elector:
    """The thin loop around the decision. `acquire` returns when this process leads, `hold` when it no longer does."""

    def __init__(
        self,
        store: LeaseStore,
        identity: str,
        *,
        clock: Callable[[], float],
        wall: Callable[[], datetime],
        times: LeaseTimes | None = None,
    ) -> None:
        self._store = store
        self._identity = identity
        self._clock = clock
        self._wall = wall
        self._times = times if times is not None else LeaseTimes()
        self._seen: Sighting | None = None

    async def acquire(self) -> None:
        """Wait until the Lease is ours."""
        waiting = False
        while not await self._attempt():
            if not waiting and self._seen is not None and self._seen.record is not None:
                log.info("waiting for the lease held by %s", self._seen.record.holder)
                waiting = True
            await asyncio.sleep(self._times.retry_seconds)
        log.info("leading as %s", self._identity)

    async def hold(self) -> None:
        """Renew until that has failed for the whole deadline, or someone else leads."""
        deadline_seconds = self._times.renew_deadline_seconds
        renewed = self._clock()
        cause = f"it could not be renewed within {deadline_seconds:g} s"
        while (left := renewed + deadline_seconds - self._clock()) > 0:
            await asyncio.sleep(min(self._times.retry_seconds, left))
            try:
                # A request that hangs must not outlast the lease that it was to renew.
                async with asyncio.timeout(max(renewed + deadline_seconds - self._clock(), 0.0)):
                    leading = await self._attempt()
            except TimeoutError:
                break
            if leading:
                renewed = self._clock()
            elif self._lost():
                cause = "someone else holds it"
                break
        log.error("the lease is lost: %s", cause)

    async def release(self) -> None:
        """Let go at once, so that a successor need not wait. Best effort: an old lease runs out by itself."""
        record = self._seen.record if self._seen is not None else None
        if record is None or record.holder != self._identity:
            return
        try:
            await self._store.write(replace(record, holder="", renew_time=self._wall().strftime(_MICRO_TIME)))
        except ClusterError as error:
            log.warning("could not release the lease: %s", error)

    def _lost(self) -> bool:
        record = self._seen.record if self._seen is not None else None
        return record is not None and record.holder not in ("", self._identity)

    async def _attempt(self) -> bool:
        try:
            # While it is ours, the version that we wrote last is the one to replace: no need to read it first.
            if self._seen is None or self._seen.record is None or self._seen.record.holder != self._identity:
                self._seen = sight(self._seen, await self._store.read(), self._clock())
            if decide(self._seen, self._identity, self._clock()) is Move.WAIT:
                return False
            wanted = claim(self._seen.record, self._identity, self._times.duration_seconds, self._wall())
            self._seen = Sighting(await self._store.write(wanted), self._clock())
        except Conflict:
            # Someone was faster: look at what they wrote, from now on.
            self._seen = None
            return False
        except ClusterError as error:
            log.warning("the lease could not be read or written: %s", error)
            return False
        return True
