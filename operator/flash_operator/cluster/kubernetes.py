"""The real Kubernetes API. The only module that imports its client, which is heavy: import this one late.

Knows how to ask, not what to ask for: it turns requests into HTTP and HTTP errors into ClusterError.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

import aiohttp
from kubernetes.aio import config
from kubernetes.aio.client import ApiClient, Configuration
from kubernetes.aio.dynamic import DynamicClient
from kubernetes.aio.dynamic.exceptions import DynamicApiError
from yaml import YAMLError

from flash_api import names
from flash_api.v1alpha1.flashdeployment import REGION_LABEL
from flash_operator.announcements import Announcement
from flash_operator.cluster.endpoint_slices import SERVICE_LABEL, base_urls
from flash_operator.cluster.events import EVENTS_API, event
from flash_operator.cluster.protocol import ClusterError, Conflict, Forbidden, Key, Manifest
from flash_operator.lease import LeaseRecord

REQUEST_TIMEOUT_SECONDS: Final = 30.0
OWNED_KINDS: Final = (
    ("apps/v1", "Deployment"),
    ("v1", "Service"),
    ("v1", "ConfigMap"),
    ("v1", "ServiceAccount"),
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("networking.k8s.io/v1", "Ingress"),
    ("policy/v1", "PodDisruptionBudget"),
)
"""Every kind that a plan holds and that every cluster knows. We watch them."""
OPTIONAL_KINDS: Final = (
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
)
"""Kinds that a plan may hold where the cluster knows them. A watch of an unknown kind would fail for ever, so what
happens to them is seen by the next pass."""
DISCOVERY_SECONDS: Final = 60.0
"""How long the kinds of an API group are taken for what they were."""

PLURALS: Final = {
    "Deployment": "deployments",
    "Service": "services",
    "ConfigMap": "configmaps",
    "ServiceAccount": "serviceaccounts",
    "NetworkPolicy": "networkpolicies",
    "Ingress": "ingresses",
    "PodDisruptionBudget": "poddisruptionbudgets",
    "HTTPRoute": "httproutes",
    "PodMonitor": "podmonitors",
    "Pod": "pods",
    "Event": "events",
    "Lease": "leases",
    names.KIND: names.PLURAL,
}
METADATA_ONLY: Final = {"Accept": "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"}
_TERMINAL: Final = (400, 405, 422)
"""The request itself is wrong: sending it again cannot help."""

Called = Callable[[str, str, int, float], None]
"""Hears of a request: verb, resource, status code (0 = no answer) and seconds."""

log = logging.getLogger(__name__)


class KubernetesApi:
    """Requests to one API server. Close it by `aclose`."""

    def __init__(
        self, client: ApiClient, kubeconfig: str | None, timeout_seconds: float, *, context: str | None, called: Called
    ) -> None:
        self._client = client
        self._dynamic = DynamicClient(client)  # type: ignore[no-untyped-call]
        self._kubeconfig = kubeconfig
        self._timeout_seconds = timeout_seconds
        self._context = context
        self._called = called

    @classmethod
    async def connect(
        cls,
        kubeconfig: str | None,
        *,
        context: str | None = None,
        timeout_seconds: float = REQUEST_TIMEOUT_SECONDS,
        called: Called = lambda verb, resource, code, seconds: None,
    ) -> KubernetesApi:
        """By the kubeconfig file (its current context unless one is named), or inside a pod by its ServiceAccount.

        `called` hears of every request. Raises ClusterError when neither file nor account is usable.
        """
        configuration = Configuration()
        await _load(configuration, kubeconfig, context)
        return cls(ApiClient(configuration=configuration), kubeconfig, timeout_seconds, context=context, called=called)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.close()  # type: ignore[no-untyped-call]

    async def request(self, method: str, path: str, body: Manifest | None = None, **params: Any) -> Any:
        """The decoded answer, an object.

        Raises Conflict for 409, Forbidden for 403, Missing for 404, ClusterError for everything else.
        """
        try:
            return await self._request(method, path, body, params)
        except _Unauthorized:
            # Credentials are rotated under us: read them once more before giving up.
            await _load(self._client.configuration, self._kubeconfig, self._context)
            return await self._request(method, path, body, params)

    async def page(self, path: str) -> tuple[int, str]:
        """Status and text of what is no object, such as a page that the API server fetches from a pod.

        Raises ClusterError when there is no answer.
        """
        try:
            return 200, str(await self._answer("get", path, None, {}, decode=False))
        except ClusterError as error:
            if isinstance(error.__cause__, DynamicApiError):
                body = error.__cause__.body or ""
                return int(error.__cause__.status), body.decode(errors="replace") if isinstance(body, bytes) else body
            raise

    async def _request(self, method: str, path: str, body: Manifest | None, params: Mapping[str, Any]) -> Any:
        answer = await self._answer(method, path, body, params, decode=True)
        # Whatever stands between us and the API server may answer in its place.
        if not isinstance(answer, dict) or "kind" not in answer:
            raise ClusterError("the answer is not one of the Kubernetes API: it is no object with a kind")
        return answer

    async def _answer(
        self, method: str, path: str, body: Manifest | None, params: Mapping[str, Any], *, decode: bool
    ) -> Any:
        started, code = time.perf_counter(), 0
        try:
            response = await self._dynamic.request(
                method, path, body=body, serialize=False, _request_timeout=self._timeout_seconds, **params
            )
            code = int(response.status)
            return await (response.json() if decode else response.text())
        except DynamicApiError as error:
            code = int(error.status or 0)
            raise _failure(error) from error
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ClusterError(f"the Kubernetes API did not answer: {error or type(error).__name__}") from error
        except ValueError as error:
            raise ClusterError(f"the Kubernetes API did not answer in JSON: {error}") from error
        finally:
            self._called(*verb_and_resource(method, path), code, time.perf_counter() - started)


def context_namespace(kubeconfig: str, context: str | None) -> str:
    """The namespace that a context (None = the current one) names, else `default`. Raises ClusterError."""
    try:
        contexts, current = config.list_kube_config_contexts(config_file=kubeconfig)  # type: ignore[no-untyped-call]
    except (config.ConfigException, OSError, ValueError, YAMLError) as error:
        raise ClusterError(f"kubeconfig {kubeconfig}: {error}", retryable=False) from error
    if context is not None:
        current = next((each for each in contexts if each["name"] == context), None)
        if current is None:
            there = ", ".join(sorted(each["name"] for each in contexts))
            raise ClusterError(f"kubeconfig {kubeconfig} has no context {context}; there is: {there}", retryable=False)
    return str((current or {}).get("context", {}).get("namespace") or "default")


async def _load(configuration: Configuration, kubeconfig: str | None, context: str | None) -> None:
    try:
        if kubeconfig is None:
            config.load_incluster_config(client_configuration=configuration)  # type: ignore[no-untyped-call]
        else:
            await config.load_kube_config(  # type: ignore[no-untyped-call]
                config_file=kubeconfig, context=context, client_configuration=configuration
            )
    # A kubeconfig may be half-written when it is read.
    except (config.ConfigException, OSError, ValueError, YAMLError) as error:
        where = "no cluster around this process" if kubeconfig is None else f"kubeconfig {kubeconfig}"
        raise ClusterError(f"{where}: {error}", retryable=False) from error


def verb_and_resource(method: str, path: str) -> tuple[str, str]:
    """What a request asks for, in the API's own words, without names: `list`, `pods`."""
    parts = path.strip("/").split("/")
    rest = parts[3:] if parts[0] == "apis" else parts[2:]
    if rest[:1] == ["namespaces"] and len(rest) > 2:
        rest = rest[2:]
    resource = "/".join((rest[0], *rest[2:3])) if rest else "discovery"
    if method == "get":
        return ("get" if len(rest) > 1 or not rest else "list"), resource
    return {"post": "create", "put": "update"}.get(method, method), resource


class Missing(ClusterError):
    """There is no such object."""


class _Unauthorized(ClusterError):
    """The API server does not know us (any more)."""


class KubernetesCluster:
    """Implements `Cluster` on the Kubernetes API."""

    def __init__(self, api: KubernetesApi, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._api = api
        self._clock = clock
        self._served: dict[str, tuple[float, frozenset[str]]] = {}  # by group and version

    async def deployment(self, key: Key) -> Manifest | None:
        return await self._get(_path(names.API_VERSION, names.KIND, key.namespace, key.name))

    async def owned(self, key: Key) -> tuple[Manifest, ...]:
        optional = [found for found in OPTIONAL_KINDS if await self.serves(*found)]
        lists = await asyncio.gather(*(self._list(version, kind, key) for version, kind in (*OWNED_KINDS, *optional)))
        return tuple(manifest for found in lists for manifest in found)

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
        path = _path_of(manifest)
        present = await self._get(path)
        if present is not None and _controller(present) != _controller(manifest):
            kind, name = manifest["kind"], manifest["metadata"]["name"]
            raise ClusterError(f"{kind} {name} exists and does not belong to this {names.KIND}; rename either of them")
        if present is not None:
            # The uid makes sure that a namesake made in between is not taken over.
            manifest = {**manifest, "metadata": {**manifest["metadata"], "uid": present["metadata"]["uid"]}}
        await self._api.request(
            "patch",
            path,
            manifest,
            content_type="application/apply-patch+yaml",
            field_manager=names.FIELD_MANAGER,
            # What is ours stays ours: drift by another manager is taken back.
            force_conflicts=present is not None,
        )

    async def delete(self, manifest: Manifest) -> None:
        meta = manifest["metadata"]
        options = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": "Background",
            "preconditions": {"uid": meta["uid"], "resourceVersion": meta["resourceVersion"]},
        }
        try:
            await self._api.request("delete", _path_of(manifest), options)
        except Missing:
            return

    async def write_status(self, key: Key, status: Manifest) -> None:
        path = _path(names.API_VERSION, names.KIND, key.namespace, key.name)
        body = {
            "apiVersion": names.API_VERSION,
            "kind": names.KIND,
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

    async def gateway_urls(self, key: Key, port: int) -> tuple[str, ...]:
        del port  # the pods have one of their own
        path = f"/apis/discovery.k8s.io/v1/namespaces/{key.namespace}/endpointslices"
        answer = await self._api.request("get", path, label_selector=f"{SERVICE_LABEL}={names.gateway_name(key.name)}")
        return base_urls(answer["items"] or ())

    async def announce(self, live: Manifest, news: Announcement, at: datetime) -> None:
        try:
            await self._api.request(
                "post", _path(EVENTS_API, "Event", live["metadata"]["namespace"]), event(live, news, at)
            )
        except Conflict:
            return  # told already
        except ClusterError as error:
            log.warning("an Event (%s) could not be written: %s", news.reason, error)

    def endpoint_url(self, key: Key, port: int) -> str:
        return f"http://{names.service_host(names.gateway_name(key.name), key.namespace)}:{port}"

    def public_url(self, hostname: str) -> str | None:
        return f"https://{hostname}"

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
        selector = f"{names.LABEL_DEPLOYMENT}={key.name}"
        answer = await self._api.request("get", _path(api_version, kind, key.namespace), label_selector=selector)
        # A list's items come without the kind that they have in common.
        return tuple({"apiVersion": api_version, "kind": kind, **item} for item in answer["items"] or ())


class KubernetesInventory:
    """Which FlashDeployments there are, and at which version: only their metadata is fetched."""

    def __init__(self, api: KubernetesApi, namespaces: tuple[str, ...]) -> None:
        self._api = api
        root = f"/apis/{names.API_VERSION}"
        self._paths = [f"{root}/namespaces/{space}/{names.PLURAL}" for space in namespaces] or [
            f"{root}/{names.PLURAL}"
        ]

    async def versions(self) -> dict[Key, str]:
        """Resource versions by key. Raises ClusterError, not retryable, when the CRD is not installed."""
        found: dict[Key, str] = {}
        for path in self._paths:
            try:
                answer = await self._api.request("get", path, header_params=METADATA_ONLY)
            except Missing as error:
                hint = "install the CRD: flash crds -f - | kubectl apply --server-side -f -"
                raise ClusterError(f"the API server knows no {names.KIND}; {hint}", retryable=False) from error
            for item in answer["items"] or ():
                meta = item["metadata"]
                found[Key(meta["namespace"], meta["name"])] = meta["resourceVersion"]
        return found


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


def _path(api_version: str, kind: str, namespace: str, name: str | None = None) -> str:
    root = f"/api/{api_version}" if "/" not in api_version else f"/apis/{api_version}"
    collection = f"{root}/namespaces/{namespace}/{PLURALS[kind]}"
    return collection if name is None else f"{collection}/{name}"


def _path_of(manifest: Manifest) -> str:
    meta = manifest["metadata"]
    return _path(manifest["apiVersion"], manifest["kind"], meta["namespace"], meta["name"])


def _controller(manifest: Mapping[str, Any]) -> str | None:
    references = manifest["metadata"].get("ownerReferences") or ()
    return next((str(reference["uid"]) for reference in references if reference.get("controller")), None)


def _failure(error: DynamicApiError) -> ClusterError:
    message = f"the Kubernetes API answered {error.status}: {_message(error)}"
    if error.status == 401:
        return _Unauthorized(message)
    if error.status == 403:
        return Forbidden(message)
    if error.status == 404:
        return Missing(message)
    if error.status == 409:
        return Conflict(message)
    return ClusterError(message, retryable=error.status not in _TERMINAL)


def _message(error: DynamicApiError) -> str:
    try:
        return str(error.summary())  # type: ignore[no-untyped-call]
    except (ValueError, TypeError, KeyError, AttributeError):
        return str(error.reason)
