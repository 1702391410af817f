"""A cluster in a dict, for tests and dry runs: server-side apply, generations, preconditions, garbage collection.

Does what the API server and the garbage collector do, at once and without validation; runs no pods. Other actors (a
controller that reports readiness, a user who edits) come in through `edit` and `remove`.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from flash_api import names
from flash_operator.announcements import Announcement
from flash_operator.cluster.protocol import ClusterError, Conflict, Key, Manifest

Identity = tuple[str, str, str]
"""Kind, namespace, name."""


class MemoryCluster:
    """Implements `Cluster`. `writes` lists every change made through it, as `verb Kind/name`."""

    def __init__(self) -> None:
        self.writes: list[str] = []
        self.regions: dict[str, str] | None = {}
        """By node."""
        self.kinds: set[tuple[str, str]] = set()
        """Version and kind of what is served beyond the built-in kinds."""
        self.gateways: list[str] = []
        """URLs of gateway pods, set by whoever plays them."""
        self.news: list[Announcement] = []
        self._objects: dict[Identity, dict[str, Any]] = {}
        self._applied: dict[str, Manifest] = {}  # by uid: what our field manager last applied
        self._version = 0

    # What the reconcile loop calls

    async def deployment(self, key: Key) -> Manifest | None:
        found = self._objects.get((names.KIND, key.namespace, key.name))
        return copy.deepcopy(found) if found is not None else None

    async def owned(self, key: Key) -> tuple[Manifest, ...]:
        return tuple(
            copy.deepcopy(manifest)
            for (_, namespace, _), manifest in sorted(self._objects.items())
            if namespace == key.namespace
            and manifest["metadata"].get("labels", {}).get(names.LABEL_DEPLOYMENT) == key.name
            and manifest["kind"] != "Pod"
        )

    async def model(self, key: Key) -> Manifest | None:
        return self.get(names.MODEL_KIND, key)

    async def of_model(self, key: Key) -> tuple[Manifest, ...]:
        return tuple(found for found in self._labelled(key, names.LABEL_MODEL) if found["kind"] != "Pod")

    async def pods_of_model(self, key: Key) -> tuple[Manifest, ...]:
        return tuple(found for found in self._labelled(key, names.LABEL_MODEL) if found["kind"] == "Pod")

    async def users_of_model(self, key: Key) -> tuple[Manifest, ...]:
        users = (found for found in self._labelled(key, names.LABEL_USES_MODEL) if found["kind"] == "Deployment")
        mounting = (names.COMPONENT_ENGINE, names.COMPONENT_DRAFT)
        return tuple(user for user in users if user["metadata"]["labels"][names.LABEL_COMPONENT] in mounting)

    async def write_model_status(self, key: Key, status: Manifest) -> None:
        self._write_status(names.MODEL_KIND, key, status)

    def pulls_by_pod(self) -> bool:
        return False

    def _labelled(self, key: Key, label: str) -> list[Manifest]:
        return [
            copy.deepcopy(manifest)
            for (_, namespace, _), manifest in sorted(self._objects.items())
            if namespace == key.namespace and manifest["metadata"].get("labels", {}).get(label) == key.name
        ]

    async def pods(self, key: Key) -> tuple[Manifest, ...]:
        return tuple(
            copy.deepcopy(manifest)
            for (kind, namespace, _), manifest in sorted(self._objects.items())
            if (kind, namespace) == ("Pod", key.namespace)
            and manifest["metadata"].get("labels", {}).get(names.LABEL_DEPLOYMENT) == key.name
        )

    async def node_regions(self) -> Mapping[str, str] | None:
        return self.regions

    async def serves(self, api_version: str, kind: str) -> bool:
        return (api_version, kind) in self.kinds

    async def apply(self, manifest: Manifest) -> None:
        identity = _identity(manifest)
        present = self._objects.get(identity)
        if present is None:
            stored = self._create(manifest)
        else:
            if _controller(present) != _controller(manifest):
                raise ClusterError(f"{identity[0]} {identity[2]} exists and belongs to someone else")
            merged = _merge(present, self._applied.get(present["metadata"]["uid"], {}), manifest)
            stored = self._store(identity, merged)
        self._applied[stored["metadata"]["uid"]] = copy.deepcopy(manifest)
        self.writes.append(f"apply {identity[0]}/{identity[2]}")

    async def apply_scaled(self, manifest: Manifest) -> None:
        present = self._objects.get(_identity(manifest), {})
        number = present.get("spec", {}).get("replicas") or manifest["spec"]["replicas"]
        await self.apply({**manifest, "spec": {**manifest["spec"], "replicas": number}})

    async def delete(self, manifest: Manifest) -> None:
        present = self._objects.get(_identity(manifest))
        if present is None:
            return
        for precondition in ("uid", "resourceVersion"):
            if present["metadata"][precondition] != manifest["metadata"].get(precondition):
                raise Conflict(f"{precondition} of {manifest['kind']} {manifest['metadata']['name']} differs")
        self._remove(_identity(manifest))
        self.writes.append(f"delete {manifest['kind']}/{manifest['metadata']['name']}")

    async def write_status(self, key: Key, status: Manifest) -> None:
        self._write_status(names.KIND, key, status)

    def _write_status(self, kind: str, key: Key, status: Manifest) -> None:
        identity = (kind, key.namespace, key.name)
        if identity in self._objects:
            self._store(identity, {**self._objects[identity], "status": copy.deepcopy(status)})
            self.writes.append(f"status {key.name}")

    async def gateway_urls(self, key: Key, port: int) -> tuple[str, ...]:
        del key, port
        return tuple(self.gateways)

    async def announce(self, live: Manifest, news: Announcement, at: datetime) -> None:
        del live, at
        if news.identity not in {told.identity for told in self.news}:
            self.news.append(news)

    def endpoint_url(self, key: Key, port: int, *, tls: bool = False) -> str:
        host = names.service_host(names.gateway_name(key.name), key.namespace)
        return f"{'https' if tls else 'http'}://{host}:{port}"

    def ignored_fields(self, spec: Manifest) -> tuple[str, ...]:
        del spec
        return ()

    # What everyone else does to the cluster

    def create(self, manifest: Manifest) -> Manifest:
        """What a user's `kubectl create` does. Returns the object as stored."""
        return copy.deepcopy(self._create(manifest))

    def edit(self, kind: str, key: Key, change: Callable[[dict[str, Any]], None]) -> None:
        """Change an object in place, as another client would."""
        identity = (kind, key.namespace, key.name)
        edited = copy.deepcopy(self._objects[identity])
        change(edited)
        self._store(identity, edited)

    def remove(self, kind: str, key: Key) -> None:
        """Delete an object and, as the garbage collector does, everything that it owns."""
        self._remove((kind, key.namespace, key.name))

    def get(self, kind: str, key: Key) -> Manifest | None:
        """A copy of an object."""
        return copy.deepcopy(self._objects.get((kind, key.namespace, key.name)))

    def contents(self) -> dict[str, Any]:
        """Everything but versions and uids, to compare the end states of two histories."""
        transient = ("uid", "resourceVersion", "generation", "ownerReferences")
        return {
            f"{kind}/{name}": {
                **manifest,
                "metadata": {k: v for k, v in manifest["metadata"].items() if k not in transient},
            }
            for (kind, _, name), manifest in sorted(copy.deepcopy(self._objects).items())
        }

    def _create(self, manifest: Manifest) -> dict[str, Any]:
        identity = _identity(manifest)
        if identity in self._objects:
            raise Conflict(f"{identity[0]} {identity[2]} exists already")
        self._version += 1
        body = copy.deepcopy(dict(manifest))
        body["metadata"] = {
            **body["metadata"],
            "namespace": identity[1],
            "uid": f"uid-{self._version}",
            "generation": 1,
        }
        body["metadata"]["resourceVersion"] = str(self._version)
        self._objects[identity] = body
        return body

    def _store(self, identity: Identity, changed: Mapping[str, Any]) -> dict[str, Any]:
        before = self._objects[identity]
        if changed == before:
            return before
        self._version += 1
        meta = {**changed["metadata"], "resourceVersion": str(self._version)}
        if changed.get("spec") != before.get("spec"):
            meta["generation"] = before["metadata"]["generation"] + 1
        self._objects[identity] = {**changed, "metadata": meta}
        return self._objects[identity]

    def _remove(self, identity: Identity) -> None:
        gone = self._objects.pop(identity, None)
        if gone is None:
            return
        uid = gone["metadata"]["uid"]
        owned = [other for other, manifest in self._objects.items() if _controller(manifest) == uid]
        for other in owned:
            self._remove(other)


def _identity(manifest: Manifest) -> Identity:
    return manifest["kind"], manifest["metadata"].get("namespace", "default"), manifest["metadata"]["name"]


def _controller(manifest: Manifest) -> str | None:
    references = manifest["metadata"].get("ownerReferences") or ()
    return next((str(reference["uid"]) for reference in references if reference.get("controller")), None)


def _merge(live: Mapping[str, Any], before: Mapping[str, Any], desired: Mapping[str, Any]) -> dict[str, Any]:
    """What server-side apply makes of it: our fields as desired, fields that we gave up removed, others kept."""
    merged = {key: value for key, value in live.items() if key not in before or key in desired}
    for key, value in desired.items():
        present, former = merged.get(key), before.get(key, {})
        if isinstance(value, Mapping) and isinstance(present, Mapping):
            merged[key] = _merge(present, former if isinstance(former, Mapping) else {}, value)
        else:
            merged[key] = copy.deepcopy(value)
    return merged
