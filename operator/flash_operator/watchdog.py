"""Whether events still arrive. An idle cluster and a dead watch look the same from within the watch, so we compare what
it last delivered with a fresh list: an object that stays behind its listed version for two looks is a dead watch.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from flash_operator.cluster.protocol import Key

Versions = Mapping[Key, str]


def behind(listed: Versions, delivered: Versions) -> dict[Key, str]:
    """Objects whose listed version the watch has not delivered, with the version that it has (empty = none)."""
    return {key: delivered.get(key, "") for key, version in listed.items() if delivered.get(key) != version}


def vanished(listed: Versions, delivered: Versions) -> frozenset[Key]:
    """Objects that the watch delivered once and that are gone: a deletion that a relist swallowed."""
    return frozenset(delivered.keys() - listed.keys())


def stale(before: Versions, now: Versions) -> frozenset[Key]:
    """Objects that were behind at both looks without any event between them."""
    return frozenset(key for key, version in now.items() if before.get(key) == version)


class Watchdog:
    """The memory between looks. `delivered` is told of events, `look` of lists."""

    def __init__(self) -> None:
        self._delivered: dict[Key, str] = {}
        self._behind: dict[Key, str] = {}
        self._stale: frozenset[Key] = frozenset()

    def delivered(self, key: Key, version: str, *, deleted: bool) -> None:
        """The watch brought an event."""
        if deleted:
            self._delivered.pop(key, None)
        else:
            self._delivered[key] = version

    def look(self, listed: Versions) -> Iterable[Key]:
        """Compare with a list. Returns the objects that deserve a pass although no event said so."""
        gone = vanished(listed, self._delivered)
        for key in gone:
            del self._delivered[key]
        now = behind(listed, self._delivered)
        self._stale = stale(self._behind, now)
        self._behind = now
        return gone | now.keys()

    @property
    def is_stale(self) -> bool:
        """The watch is dead."""
        return bool(self._stale)
