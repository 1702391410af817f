"""Whether events still arrive. An idle cluster and a dead watch look the same from within the watch, so we compare what
it last delivered with a fresh list: an object that stays behind its listed version for long enough, while nothing else
comes, is a dead watch. One that delivers something is alive, however much it has still to deliver.

FlashDeployments are listed for this; watches of what belongs to them are held against our own writes by
`cluster.watching`. No clock and no cluster: looks are told.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from flash_operator.cluster.protocol import Key

Id = TypeVar("Id")
Versions = Mapping[Id, str]


def behind(listed: Versions[Key], delivered: Versions[Key]) -> dict[Key, str]:
    """Objects whose listed version the watch has not delivered, with the version that it has (empty = none)."""
    return {key: delivered.get(key, "") for key, version in listed.items() if delivered.get(key) != version}


def vanished(listed: Versions[Key], delivered: Versions[Key]) -> frozenset[Key]:
    """Objects that the watch delivered once and that are gone: a deletion that a relist swallowed."""
    return frozenset(delivered.keys() - listed.keys())


def stale(before: Versions[Key], now: Versions[Key]) -> frozenset[Key]:
    """Objects that were behind at both looks without any event between them."""
    return frozenset(key for key, version in now.items() if before.get(key) == version)


class Watchdog:
    """The memory between looks. `delivered` is told of events, `look` of lists.

    `per_namespace`: each namespace has a watch of its own, so an event proves nothing for the other ones.
    """

    def __init__(self, *, per_namespace: bool = False) -> None:
        self._per_namespace = per_namespace
        self._heard: set[str] = set()
        self._delivered: dict[Key, str] = {}
        self._behind: dict[Key, str] = {}
        self._stale: frozenset[Key] = frozenset()

    def delivered(self, key: Key, version: str, *, deleted: bool) -> None:
        """The watch brought an event."""
        self._heard.add(key.namespace if self._per_namespace else "")
        if deleted:
            self._delivered.pop(key, None)
        else:
            self._delivered[key] = version

    def look(self, listed: Versions[Key]) -> Iterable[Key]:
        """Compare with a list. Returns the objects that deserve a pass although no event said so."""
        gone = vanished(listed, self._delivered)
        for key in gone:
            del self._delivered[key]
        now = behind(listed, self._delivered)
        self._stale = frozenset(
            key for key in stale(self._behind, now) if (key.namespace if self._per_namespace else "") not in self._heard
        )
        self._behind = now
        self._heard.clear()
        return gone | now.keys()

    def reset(self) -> None:
        """The watch has begun anew and will deliver everything once more."""
        self._delivered.clear()
        self._behind.clear()
        self._stale = frozenset()

    @property
    def is_stale(self) -> bool:
        """The watch is dead."""
        return bool(self._stale)
