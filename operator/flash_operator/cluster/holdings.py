"""What a watch has told of one kind: every object that carries our label, packed, by the FlashDeployment it belongs to.

Events may come late, twice and in the wrong order: the newest version wins, and what is gone stays gone until a list
says otherwise. Knows no API, no clock and no namespace borders.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Collection, Iterable
from typing import Final, NamedTuple

from flash_api import names
from flash_operator.cluster.protocol import Key, Manifest

_LEVEL: Final = 1
"""Of compression: the first step takes most of what there is to take."""


class _Held(NamedTuple):
    """One object, or the memory of one."""

    version: int
    owner: Key
    packed: bytes | None
    """None = it is gone, and older news of it is wrong."""


class Holdings:
    """The objects of one kind. Each change returns the FlashDeployments that it is news for."""

    def __init__(self, api_version: str, kind: str, label: str = names.LABEL_DEPLOYMENT) -> None:
        self._label = label
        self._kind = {"apiVersion": api_version, "kind": kind}
        self._held: dict[tuple[str, str], _Held] = {}  # by namespace and name
        self._names: dict[Key, tuple[str, ...]] = {}
        """Of the objects that each FlashDeployment has."""

    def __len__(self) -> int:
        """Of the objects that are there."""
        return sum(map(len, self._names.values()))

    def of(self, owner: Key) -> tuple[Manifest, ...]:
        """Copies, in the order of their names."""
        found = (self._held[owner.namespace, name].packed for name in self._names.get(owner, ()))
        return tuple({**self._kind, **json.loads(zlib.decompress(packed))} for packed in found if packed is not None)

    def put(self, manifest: Manifest) -> frozenset[Key]:
        """The object is, or was, like this."""
        meta = manifest["metadata"]
        identity, version = (str(meta["namespace"]), str(meta["name"])), version_of(manifest)
        before = self._held.get(identity)
        if before is not None and before.version >= version:
            return frozenset()
        # Who wrote which field is half of an object, and nothing here asks for it.
        kept = {
            **{key: value for key, value in manifest.items() if key not in ("apiVersion", "kind")},
            "metadata": {key: value for key, value in meta.items() if key != "managedFields"},
        }
        packed = zlib.compress(json.dumps(kept, separators=(",", ":")).encode(), _LEVEL)
        return self._store(identity, _Held(version, owner_of(manifest, self._label), packed))

    def drop(self, manifest: Manifest) -> frozenset[Key]:
        """The object, as it was at this version, is gone."""
        meta = manifest["metadata"]
        identity, version = (str(meta["namespace"]), str(meta["name"])), version_of(manifest)
        before = self._held.get(identity)
        if before is not None and before.version > version:
            return frozenset()
        return self._store(identity, _Held(version, owner_of(manifest, self._label), None))

    def retain(self, listed: Collection[tuple[str, str]], version: int) -> frozenset[Key]:
        """A complete list at this version held these (namespace, name) and no others."""
        news: set[Key] = set()
        for identity, held in list(self._held.items()):
            if identity in listed or held.version > version:
                continue
            if held.packed is not None:
                news |= self._store(identity, held._replace(packed=None))
            del self._held[identity]
        return frozenset(news)

    def _store(self, identity: tuple[str, str], held: _Held) -> frozenset[Key]:
        before = self._held.get(identity)
        self._held[identity] = held
        was = before.owner if before is not None and before.packed is not None else None
        now = held.owner if held.packed is not None else None
        if was is not None and was != now:
            self._index(was, (name for name in self._names[was] if name != identity[1]))
        if now is not None and was != now:
            self._index(now, (*self._names.get(now, ()), identity[1]))
        return frozenset(owner for owner in (was, now) if owner is not None)

    def _index(self, owner: Key, found: Iterable[str]) -> None:
        listed = tuple(sorted(found))
        if listed:
            self._names[owner] = listed
        else:
            del self._names[owner]


def owner_of(manifest: Manifest, label: str) -> Key:
    """Which object of ours the label names."""
    meta = manifest["metadata"]
    return Key(str(meta["namespace"]), str(meta["labels"][label]))


def version_of(manifest: Manifest) -> int:
    """Resource versions of one API server grow."""
    return int(manifest["metadata"]["resourceVersion"])
