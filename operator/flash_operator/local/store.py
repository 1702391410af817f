"""Objects on disk: one JSON file each, written whole or not at all. Has one writer, the daemon.

Keeps what an API server keeps (uid, generation, resourceVersion, owner references) and knows nothing of processes.
"""

from __future__ import annotations

import copy
import json
import os
import tempfile
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flash_api.names import LABEL_DEPLOYMENT

Manifest = Mapping[str, Any]


class StoreError(Exception):
    """A stored object cannot be read or written."""


@dataclass(frozen=True, order=True)
class Ref:
    """Which object."""

    kind: str
    namespace: str
    name: str


def ref_of(manifest: Manifest) -> Ref:
    metadata = manifest["metadata"]
    return Ref(manifest["kind"], metadata.get("namespace", "default"), metadata["name"])


def write_atomically(path: Path, content: bytes, *, mode: int = 0o600) -> None:
    """A reader sees the old content or the new one. (No fsync: after a power cut the last writes may be missing.)"""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            os.fchmod(file.fileno(), mode)
        os.replace(temporary, path)
    except BaseException:
        os.unlink(temporary)
        raise


class Store:
    """The objects of one state directory, in memory and on disk."""

    def __init__(
        self,
        root: Path,
        *,
        now: Callable[[], str],
        new_uid: Callable[[], str] = lambda: str(uuid.uuid4()),
    ) -> None:
        self._root = root
        self._now = now
        self._new_uid = new_uid
        self._objects: dict[Ref, dict[str, Any]] = {}
        self._listeners: list[Callable[[Ref], None]] = []
        self._load()
        self._version = max((int(held["metadata"]["resourceVersion"]) for held in self._objects.values()), default=0)

    def on_change(self, listener: Callable[[Ref], None]) -> None:
        """Call `listener` after each change, with the object that changed. It carries no facts: look again."""
        self._listeners.append(listener)

    def get(self, ref: Ref) -> Manifest | None:
        held = self._objects.get(ref)
        return copy.deepcopy(held) if held is not None else None

    def list(self, kind: str, *, namespace: str | None = None) -> tuple[Manifest, ...]:
        return tuple(
            copy.deepcopy(self._objects[ref])
            for ref in sorted(self._objects)
            if ref.kind == kind and namespace in (None, ref.namespace)
        )

    def belonging_to(self, namespace: str, deployment: str) -> tuple[Manifest, ...]:
        """Every object labelled with this FlashDeployment's name."""
        return tuple(
            copy.deepcopy(self._objects[ref])
            for ref in sorted(self._objects)
            if ref.namespace == namespace
            and self._objects[ref]["metadata"].get("labels", {}).get(LABEL_DEPLOYMENT) == deployment
        )

    def apply(self, manifest: Manifest) -> Manifest:
        """Make the object read as written. What the store itself fills in (uid, status …) stays."""
        ref = ref_of(manifest)
        live = self._objects.get(ref)
        wanted = {key: copy.deepcopy(value) for key, value in manifest.items() if key != "status"}
        metadata = dict(wanted["metadata"])
        metadata["namespace"] = ref.namespace
        if live is None:
            metadata |= {"uid": self._new_uid(), "generation": 1, "creationTimestamp": self._now()}
        else:
            changed = _content(live) != _content(wanted)
            metadata |= {key: live["metadata"][key] for key in ("uid", "creationTimestamp")}
            metadata["generation"] = live["metadata"]["generation"] + int(changed)
            metadata["resourceVersion"] = live["metadata"]["resourceVersion"]
            if "status" in live:
                wanted["status"] = live["status"]
        wanted["metadata"] = metadata
        return self._put(ref, wanted)

    def write_status(self, ref: Ref, status: Manifest) -> None:
        """Replace the status; gone already is no error, an equal status is no write."""
        if (live := self._objects.get(ref)) is not None:
            self._put(ref, {**live, "status": copy.deepcopy(dict(status))})

    def delete(self, ref: Ref) -> None:
        """Remove the object and, as the garbage collector does, everything that it owns."""
        gone = self._objects.pop(ref, None)
        if gone is None:
            return
        self._path(ref).unlink(missing_ok=True)
        for owned, held in list(self._objects.items()):
            owners = held["metadata"].get("ownerReferences", ())
            if any(owner.get("uid") == gone["metadata"]["uid"] for owner in owners):
                self.delete(owned)
        self._tell(ref)

    def is_empty(self, kind: str) -> bool:
        return not any(ref.kind == kind for ref in self._objects)

    def _put(self, ref: Ref, manifest: dict[str, Any]) -> Manifest:
        if manifest != self._objects.get(ref):
            self._version += 1
            manifest = {**manifest, "metadata": {**manifest["metadata"], "resourceVersion": str(self._version)}}
            write_atomically(self._path(ref), json.dumps(manifest, indent=1).encode())
            self._objects[ref] = manifest
            self._tell(ref)
        return copy.deepcopy(manifest)

    def _path(self, ref: Ref) -> Path:
        return self._root / ref.namespace / ref.kind / f"{ref.name}.json"

    def _load(self) -> None:
        for path in sorted(self._root.glob("*/*/[!.]*.json")):
            try:
                manifest = json.loads(path.read_bytes())
                int(manifest["metadata"]["resourceVersion"])
                self._objects[ref_of(manifest)] = manifest
            except (OSError, ValueError, KeyError, TypeError) as error:
                raise StoreError(f"{path} does not hold an object: {error}; remove the file and try again") from error

    def _tell(self, ref: Ref) -> None:
        for listener in self._listeners:
            listener(ref)


def _content(manifest: Manifest) -> dict[str, Any]:
    """What a generation counts: everything but metadata and status."""
    return {key: value for key, value in manifest.items() if key not in ("metadata", "status")}
