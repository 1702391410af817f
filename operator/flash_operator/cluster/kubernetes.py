"""What the operator asks of the real Kubernetes API: objects of FlashDeployments, their versions, its Lease.

Imports the client, which is heavy: import this one late.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import AsyncIterator, Callable, Mapping
from datetime import datetime
from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.flashdeployment import REGION_LABEL
from flash_operator.announcements import Announcement
from flash_operator.cluster.api import KubernetesApi, Missing
from flash_operator.cluster.endpoint_slices import SERVICE_LABEL, base_urls
from flash_operator.cluster.events import EVENTS_API, event
from flash_operator.cluster.protocol import ClusterError, Conflict, Key, Manifest
from flash_operator.cluster.shared_lists import SharedLists
from flash_operator.cluster.watching import WatchedKind, WatchedObjects, WatchTimes
from flash_operator.lease import LeaseRecord

PAGE_ITEMS: Final = 500
"""Of one answer to a list of everything."""
OWNED_KINDS: Final = (
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "ServiceAccount"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("networking.k8s.io/v1", "Ingress"),
    ("policy/v1", "PodDisruptionBudget"),
    ("autoscaling/v2", "HorizontalPodAutoscaler"),
)
"""Every kind that a plan holds and that every cluster knows. We watch them."""
MODEL_OWNED_KINDS: Final = (
    ("batch/v1", "Job"),
    ("v1", "PersistentVolumeClaim"),
    ("v1", "ServiceAccount"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
)
"""Every kind that the plan of a FlashModel holds. We watch them."""
OPTIONAL_KINDS: Final = (
    ("cert-manager.io/v1", "Certificate"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("keda.sh/v1alpha1", "ScaledObject"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
)
"""Kinds that a plan may hold where the cluster knows them. A watch of an unknown kind would fail for ever, so what
happens to them is seen by the next pass."""
SCALED_TRIES: Final = 5
"""How often a Deployment that changes under our hands is read anew: its status does, while pods start."""
DISCOVERY_SECONDS: Final = 60.0
"""How long the kinds of an API group are taken for what they were."""

WATCHED_KINDS: Final = (*OWNED_KINDS, ("v1", "Pod"))
DEPLOYMENT_FAMILY: Final = (names.LABEL_DEPLOYMENT, WATCHED_KINDS)
"""The label by which all that belongs to a FlashDeployment is found, and its kinds."""
MODEL_FAMILY: Final = (names.LABEL_MODEL, (*MODEL_OWNED_KINDS, ("v1", "Pod")))
"""The same of a FlashModel."""

PLURALS: Final = {
    "Deployment": "deployments",
    "Service": "services",
    "ConfigMap": "configmaps",
    "ServiceAccount": "serviceaccounts",
    "NetworkPolicy": "networkpolicies",
    "Ingress": "ingresses",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "Certificate": "certificates",
    "HTTPRoute": "httproutes",
    "HorizontalPodAutoscaler": "horizontalpodautoscalers",
    "ScaledObject": "scaledobjects",
    "PodMonitor": "podmonitors",
    "Pod": "pods",
    "Event": "events",
    "Lease": "leases",
    "Job": "jobs",
    "PersistentVolumeClaim": "persistentvolumeclaims",
    names.KIND: names.PLURAL,
    names.MODEL_KIND: names.MODEL_PLURAL,
}
METADATA_ONLY: Final = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}

__all__ = [
    "MODEL_FAMILY",
    "MODEL_OWNED_KINDS",
    "OPTIONAL_KINDS",
    "OWNED_KINDS",
    "PLURALS",
    "WATCHED_KINDS",
    "KubernetesApi",
    "KubernetesCluster",
    "KubernetesInventory",
    "KubernetesLeases",
    "watched_objects",
]

log = logging.getLogger(__name__)


class KubernetesCluster:
    """Implements `Cluster` on the Kubernetes API. What is `watched` is read from there while it is known."""

    def __init__(
        self,
        api: KubernetesApi,
        *,
        watched: WatchedObjects | None = None,
        of_models: WatchedObjects | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._api = api
        self._watched = watched if watched is not None else WatchedObjects(())
        self._of_models = of_models if of_models is not None else WatchedObjects(())
        self._lists = SharedLists(self._select)
        self._clock = clock
        self._served: dict[str, tuple[float, frozenset[str]]] = {}  # by group and version

    async def deployment(self, key: Key) -> Manifest | None:
        return await self._get(_path(names.API_VERSION, names.KIND, key.namespace, key.name))

    async def owned(self, key: Key) -> tuple[Manifest, ...]:
        optional = [found for found in OPTIONAL_KINDS if await self.serves(*found)]
        lists = await asyncio.gather(*(self._list(version, kind, key) for version, kind in (*OWNED_KINDS, *optional)))
        return tuple(manifest for found in lists for manifest in found)

    async def model(self, key: Key) -> Manifest | None:
        return await self._get(_path(names.API_VERSION, names.MODEL_KIND, key.namespace, key.name))

    async def of_model(self, key: Key) -> tuple[Manifest, ...]:
        lists = await asyncio.gather(*(self._list_of_model(*kind, key) for kind in MODEL_OWNED_KINDS))
        return tuple(manifest for found in lists for manifest in found)

    async def pods_of_model(self, key: Key) -> tuple[Manifest, ...]:
        return await self._list_of_model("v1", "Pod", key)

    async def _list_of_model(self, api_version: str, kind: str, key: Key) -> tuple[Manifest, ...]:
        known = self._of_models.of(kind, key)
        if known is not None:
            return known
        return await self._select(api_version, kind, key.namespace, f"{names.LABEL_MODEL}={key.name}")

    async def users_of_model(self, key: Key) -> tuple[Manifest, ...]:
        components = f"{names.LABEL_COMPONENT} in ({names.COMPONENT_ENGINE}, {names.COMPONENT_DRAFT})"
        chosen = f"{names.LABEL_USES_MODEL}={key.name},{components}"
        return await self._select("apps/v1", "Deployment", key.namespace, chosen)

    async def write_model_status(self, key: Key, status: Manifest) -> None:
        await self._write_status(names.MODEL_KIND, key, status)

    def pulls_by_pod(self) -> bool:
        return False

    async def pods(self, key: Key) -> tuple[Manifest, ...]:
        return await self._list("v1", "Pod", key)

    async def node_regions(self) -> Mapping[str, str] | None:
        # Only metadata: a node's status holds the names of all its images.
        answer = await self._api.request("get", "/api/v1/nodes", header_params=METADATA_ONLY)
        nodes = [item["metadata"] for item in answer["items"] or ()]
        return {meta["name"]: (meta.get("labels") or {}).get(REGION_LABEL, "") for meta in nodes}

    async def serves(self, api_version: str, kind: str) -> bool:
        asked, kinds = self._served.get(api_version, (-DISCOVERY_SECONDS, frozenset()))
        now = self._clock()
        if now - asked >= DISCOVERY_SECONDS:
            root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
            try:
                answer = await self._api.request("get", root)
                kinds = frozenset(str(resource["kind"]) for resource in answer["resources"] or ())
            except Missing:
                kinds = frozenset()
            self._served[api_version] = (now, kinds)
        return kind in kinds

    async def apply(self, manifest: Manifest) -> None:
        await self._apply(manifest, await self._get(_path_of(manifest)))

    async def apply_scaled(self, manifest: Manifest) -> None:
        for last in (False,) * (SCALED_TRIES - 1) + (True,):
            present = await self._get(_path_of(manifest))
            number = (present or {}).get("spec", {}).get("replicas")
            if not present or not number:
                await self._apply(manifest, present)
                return
            version = present["metadata"]["resourceVersion"]
            followed = {
                **manifest,
                "metadata": {**manifest["metadata"], "resourceVersion": version},
                "spec": {**manifest["spec"], "replicas": number},
            }
            try:
                await self._apply(followed, present)
                return
            except Conflict:
                if last:
                    raise

    async def _apply(self, manifest: Manifest, present: Manifest | None) -> None:
        path = _path_of(manifest)
        if present is not None and _controller(present) != _controller(manifest):
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            raise ClusterError(
                f"{kind} {name} exists and does not belong to this {_owner_kind(manifest)}; rename either of them"
            )
        if present is not None:
            # The uid makes sure that a namesake made in between is not taken over.
            manifest = {**manifest, "metadata": {**manifest["metadata"], "uid": present["metadata"]["uid"]}}
        stored = await self._api.request(
            "patch",
            path,
            manifest,
            content_type="application/apply-patch+yaml",
            field_manager=names.FIELD_MANAGER,
            # What is ours stays ours: drift by another manager is taken back.
            force_conflicts=present is not None,
        )
        self._watched.wrote(stored)
        self._of_models.wrote(stored)

    async def delete(self, manifest: Manifest) -> None:
        meta = manifest["metadata"]
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
        }
        with contextlib.suppress(Missing):
            await self._api.request("delete", _path_of(manifest), options)
        self._watched.deleted(manifest)
        self._of_models.deleted(manifest)

    async def write_status(self, key: Key, status: Manifest) -> None:
        await self._write_status(names.KIND, key, status)

    async def _write_status(self, kind: str, key: Key, status: Manifest) -> None:
        path = _path(names.API_VERSION, kind, key.namespace, key.name)
        body = {
            "apiVersion": names.API_VERSION,
            "kind": kind,
            "metadata": {"name": key.name, "namespace": key.namespace},
            "status": status,
        }
        try:
            await self._api.request(
                "patch",
                f"{path}/status",
                body,
                content_type="application/apply-patch+yaml",
                field_manager=names.FIELD_MANAGER,
                force_conflicts=True,
            )
        except Missing:
            return

    async def announce(self, live: Manifest, news: Announcement, at: datetime) -> None:
        try:
            await self._api.request(
                "post", _path(EVENTS_API, "Event", live["metadata"]["namespace"]), event(live, news, at)
            )
        except Conflict:
            return  # told already
        except ClusterError as error:
            log.warning("an Event (%s) could not be written: %s", news.reason, error)

    async def gateway_urls(self, key: Key, port: int) -> tuple[str, ...]:
        del port  # the pods have one of their own
        path = f"/apis/discovery.k8s.io/v1/namespaces/{key.namespace}/endpointslices"
        answer = await self._api.request("get", path, label_selector=f"{SERVICE_LABEL}={names.gateway_name(key.name)}")
        return base_urls(answer["items"] or ())

    def endpoint_url(self, key: Key, port: int, *, tls: bool = False) -> str:
        host = names.service_host(names.gateway_name(key.name), key.namespace)
        return f"{'https' if tls else 'http'}://{host}:{port}"

    def ignored_fields(self, spec: Manifest) -> tuple[str, ...]:
        del spec
        return ()

    async def _get(self, path: str) -> Manifest | None:
        try:
            found: Manifest = await self._api.request("get", path)
        except Missing:
            return None
        return found

    async def _list(self, api_version: str, kind: str, key: Key) -> tuple[Manifest, ...]:
        known = self._watched.of(kind, key)
        return known if known is not None else await self._lists.of(api_version, kind, key)

    async def _select(self, api_version: str, kind: str, namespace: str, selector: str) -> tuple[Manifest, ...]:
        answer = await self._api.request("get", _path(api_version, kind, namespace), label_selector=selector)
        # A list's items come without the kind that they have in common.
        return tuple({"apiVersion": api_version, "kind": kind, **item} for item in answer["items"] or ())


def watched_objects(
    api: KubernetesApi,
    namespaces: tuple[str, ...],
    times: WatchTimes,
    *,
    family: tuple[str, tuple[tuple[str, str], ...]] = DEPLOYMENT_FAMILY,
    clock: Callable[[], float] = time.monotonic,
) -> WatchedObjects:
    """Watches of all that belongs to one kind of ours in these namespaces, none = all; run them."""
    label, kinds = family
    return WatchedObjects(
        [
            (space, WatchedKind(api, _path(version, kind, space), version, kind, times=times, clock=clock, label=label))
            for version, kind in kinds
            for space in (namespaces or (None,))
        ]
    )


class KubernetesInventory:
    """Which objects of one of our kinds there are, and at which version: only their metadata is fetched."""

    def __init__(self, api: KubernetesApi, namespaces: tuple[str, ...], kind: str = names.KIND) -> None:
        self._api = api
        self._kind = kind
        root, plural = f"/apis/{names.API_VERSION}", PLURALS[kind]
        self._paths = [f"{root}/namespaces/{space}/{plural}" for space in namespaces] or [f"{root}/{plural}"]

    async def versions(self) -> dict[Key, str]:
        """Resource versions by key. Raises ClusterError, not retryable, when the CRD is not installed."""
        found: dict[Key, str] = {}
        for path in self._paths:
            async for item in self._items(path):
                meta = item["metadata"]
                found[Key(meta["namespace"], meta["name"])] = meta["resourceVersion"]
        return found

    async def _items(self, path: str) -> AsyncIterator[Manifest]:
        """By pages: of thousands of objects, even the metadata is many megabytes."""
        more: dict[str, Any] = {}
        while True:
            try:
                answer = await self._api.request("get", path, header_params=METADATA_ONLY, limit=PAGE_ITEMS, **more)
            except Missing as error:
                hint = "install the CRD: flash crds -f - | kubectl apply --server-side -f -"
                raise ClusterError(f"the API server knows no {self._kind}; {hint}", retryable=False) from error
            for item in answer["items"] or ():
                yield item
            token = (answer.get("metadata") or {}).get("continue")
            if not token:
                return
            more = {"_continue": token}


class KubernetesLeases:
    """Implements `LeaseStore` by one coordination.k8s.io Lease."""

    def __init__(self, api: KubernetesApi, *, namespace: str, name: str) -> None:
        self._api = api
        self._namespace = namespace
        self._name = name
        self._collection = _path("coordination.k8s.io/v1", "Lease", namespace)

    async def read(self) -> LeaseRecord | None:
        try:
            return LeaseRecord.from_manifest(await self._api.request("get", f"{self._collection}/{self._name}"))
        except Missing:
            return None

    async def write(self, record: LeaseRecord) -> LeaseRecord:
        body = record.to_manifest(self._namespace, self._name)
        if record.resource_version:
            return LeaseRecord.from_manifest(await self._api.request("put", f"{self._collection}/{self._name}", body))
        return LeaseRecord.from_manifest(await self._api.request("post", self._collection, body))


def _path(api_version: str, kind: str, namespace: str | None, name: str | None = None) -> str:
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    collection = f"{root}/namespaces/{namespace}/{PLURALS[kind]}" if namespace else f"{root}/{PLURALS[kind]}"
    return collection if name is None else f"{collection}/{name}"


def _path_of(manifest: Manifest) -> str:
    meta = manifest["metadata"]
    return _path(manifest["apiVersion"], manifest["kind"], meta["namespace"], meta["name"])


def _owner_kind(manifest: Manifest) -> str:
    references = manifest["metadata"].get("ownerReferences") or ()
    return next((str(reference["kind"]) for reference in references), names.KIND)


def _controller(manifest: Mapping[str, Any]) -> str | None:
    references = manifest["metadata"].get("ownerReferences") or ()
    return next((str(reference["uid"]) for reference in references if reference.get("controller")), None)
