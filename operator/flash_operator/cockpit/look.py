"""Looks at a cluster for `flash status`, `explain` and `doctor`. Reads only, and of Secrets nothing but whether they
exist; what may not be read is told in the facts instead of ending the look."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from flash_api import names
from flash_api.crd import RESOURCES
from flash_operator.cluster.api import KubernetesApi, Missing
from flash_operator.cluster.protocol import ClusterError, Forbidden
from flash_operator.cockpit.facts import ClusterFacts, Manifest, OperatorFacts, Served
from flash_operator.cockpit.findings import named_secrets
from flash_operator.cockpit.permissions import LEASE, NEEDED, Permission

ACCOUNT: Final = "flashplane-operator"
OPERATOR_PORT: Final = 9090
NAMESPACES_MAX: Final = 5
"""In so many namespaces the operator's permissions are asked for; they are granted for all alike."""
KINDS: Final = (
    ("networking.k8s.io/v1", "NetworkPolicy"),
    ("gateway.networking.k8s.io/v1", "HTTPRoute"),
    ("monitoring.coreos.com/v1", "PodMonitor"),
)
_METADATA: Final = {"Accept": "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"}
_ROOT: Final = f"/apis/{names.API_VERSION}"


async def served(api: KubernetesApi, namespace: str | None, name: str | None = None) -> tuple[Served, ...]:
    """FlashDeployments with their pods; no namespace = all. Raises ClusterError."""
    space = f"/namespaces/{namespace}" if namespace is not None else ""
    if name is not None:
        found = [await api.request("get", f"{_ROOT}{space}/{names.PLURAL}/{name}")]
    else:
        listed = await api.request("get", f"{_ROOT}{space}/{names.PLURAL}")
        common = {"apiVersion": names.API_VERSION, "kind": names.KIND}
        found = [{**common, **item} for item in listed["items"] or ()]
    selector = names.LABEL_DEPLOYMENT if name is None else f"{names.LABEL_DEPLOYMENT}={name}"
    try:
        pods = (await api.request("get", f"/api/v1{space}/pods", label_selector=selector))["items"] or ()
    except Forbidden:
        pods = ()
    return tuple(Served(manifest, tuple(pod for pod in pods if _belongs(pod, manifest))) for manifest in found)


async def models(api: KubernetesApi, namespace: str | None) -> tuple[Manifest, ...]:
    """FlashModels; no namespace = all. None where the cluster knows no such kind. Raises ClusterError."""
    space = f"/namespaces/{namespace}" if namespace is not None else ""
    try:
        listed = await api.request("get", f"{_ROOT}{space}/{names.MODEL_PLURAL}")
    except Missing:
        return ()
    return tuple({"apiVersion": names.API_VERSION, "kind": names.MODEL_KIND, **item} for item in listed["items"] or ())


class Doctor:
    """One examination. What it may not look at it writes down."""

    def __init__(self, api: KubernetesApi, *, operator_namespace: str, now: Callable[[], datetime]) -> None:
        self._api = api
        self._operator_namespace = operator_namespace
        self._now = now
        self._unseen: list[str] = []

    async def look(self, namespace: str | None) -> ClusterFacts:
        """Everything that `findings` judges. Never raises ClusterError."""
        try:
            # Not the version page: that one may be open to those whom the API does not know.
            await self._api.request("get", f"/apis/{names.GROUP}")
        except Missing:
            pass
        except ClusterError as error:
            return ClusterFacts(now=self._now(), unreachable=str(error))
        crds = await self._crds()
        found = await self._served(namespace) if crds.get(f"{names.PLURAL}.{names.GROUP}", {}) is not None else ()
        lease, version = await asyncio.gather(self._lease(), self._version())
        denied = await self._denied(sorted({each.namespace for each in found}))
        ailments = await self._ailments(lease)
        operator = OperatorFacts(self._operator_namespace, lease, ailments, denied)
        return ClusterFacts(
            now=self._now(),
            version=version,
            crds=crds,
            operator=operator,
            served=found,
            models=await self._models(namespace),
            secrets=await self._secrets(found),
            kinds=await self._kinds(),
            unseen=tuple(self._unseen),
        )

    async def _read(self, what: str, path: str, **params: Any) -> Manifest | None:
        """The object, None when there is none. What else goes wrong is written down, and raised as _Unseen."""
        try:
            found: Manifest = await self._api.request("get", path, **params)
        except Missing:
            return None
        except ClusterError as error:
            self._unseen.append(f"{what}: {error}")
            raise _Unseen from error
        return found

    async def _version(self) -> str:
        try:
            _, text = await self._api.page("/version")
            return str(json.loads(text)["gitVersion"])
        except (ClusterError, ValueError, KeyError, TypeError):
            return ""  # an ornament of the report

    async def _crds(self) -> dict[str, Manifest | None]:
        found: dict[str, Manifest | None] = {}
        for resource in RESOURCES:
            name = f"{resource.plural}.{names.GROUP}"
            try:
                path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{name}"
                found[name] = await self._read("CRDs", path)
            except _Unseen:
                continue
        return found

    async def _served(self, namespace: str | None) -> tuple[Served, ...]:
        try:
            return await served(self._api, namespace)
        except Missing:
            return ()
        except ClusterError as error:
            self._unseen.append(f"{names.PLURAL}: {error}")
            return ()

    async def _models(self, namespace: str | None) -> tuple[Manifest, ...]:
        try:
            return await models(self._api, namespace)
        except ClusterError as error:
            self._unseen.append(f"{names.MODEL_PLURAL}: {error}")
            return ()

    async def _lease(self) -> Manifest | None:
        space = f"/apis/coordination.k8s.io/v1/namespaces/{self._operator_namespace}"
        try:
            return await self._read("leases", f"{space}/leases/{LEASE}")
        except _Unseen:
            return None

    async def _ailments(self, lease: Manifest | None) -> str | None:
        """The operator's `/livez`, fetched by the API server from its pod: its name is that of the Lease's holder."""
        pod = str(((lease or {}).get("spec") or {}).get("holderIdentity") or "").rpartition("-")[0]
        if not pod:
            return None
        path = f"/api/v1/namespaces/{self._operator_namespace}/pods/{pod}:{OPERATOR_PORT}/proxy/livez"
        try:
            code, text = await self._api.page(path)
        except ClusterError:
            return None
        if code == 200:
            return ""
        # The API server's own failures come as objects, the operator's as lines.
        return text.strip() if code == 503 and not text.lstrip().startswith("{") else None

    async def _denied(self, namespaces: Sequence[str]) -> tuple[Permission, ...] | None:
        """By SubjectAccessReview: what the operator's account may not do, wherever there are FlashDeployments."""
        spaces = list(namespaces[:NAMESPACES_MAX]) or [""]
        asked = [
            (each, space) for each in NEEDED for space in ([self._operator_namespace] if each.of_lease else spaces)
        ]
        try:
            allowed = await asyncio.gather(*(self._may(permission, space) for permission, space in asked))
        except ClusterError as error:
            self._unseen.append(f"permissions of the operator: {error}")
            return None
        return tuple(dict.fromkeys(each for (each, _), may in zip(asked, allowed, strict=True) if not may))

    async def _may(self, permission: Permission, namespace: str) -> bool:
        resource, _, subresource = permission.resource.partition("/")
        attributes = {
            "namespace": namespace,
            "group": permission.group,
            "resource": resource,
            "subresource": subresource,
            "verb": permission.verb,
            "name": permission.name,
        }
        space = self._operator_namespace
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": f"system:serviceaccount:{space}:{ACCOUNT}",
                "groups": ["system:serviceaccounts", f"system:serviceaccounts:{space}", "system:authenticated"],
                "resourceAttributes": attributes,
            },
        }
        # The one request that is no GET: a question that must be posted, and stores nothing.
        answer: Manifest = await self._api.request("post", "/apis/authorization.k8s.io/v1/subjectaccessreviews", review)
        return (answer.get("status") or {}).get("allowed") is True

    async def _secrets(self, found: Sequence[Served]) -> Mapping[tuple[str, str], bool]:
        exists: dict[tuple[str, str], bool] = {}
        for namespace, name in {(each.namespace, name) for each in found for name in named_secrets(each)}:
            path = f"/api/v1/namespaces/{namespace}/secrets/{name}"
            try:
                exists[namespace, name] = await self._read("secrets", path, header_params=_METADATA) is not None
            except _Unseen:
                continue
        return exists

    async def _kinds(self) -> dict[str, bool]:
        found: dict[str, bool] = {}
        for api_version, kind in KINDS:
            try:
                listed = await self._read(f"kinds of {api_version}", f"/apis/{api_version}")
            except _Unseen:
                continue
            found[kind] = any(each["kind"] == kind for each in (listed or {}).get("resources") or ())
        return found


class _Unseen(Exception):
    """It could not be looked at, and the facts say why."""


def _belongs(pod: Manifest, manifest: Manifest) -> bool:
    meta = pod["metadata"]
    own = manifest["metadata"]
    label = (meta.get("labels") or {}).get(names.LABEL_DEPLOYMENT)
    return (meta.get("namespace"), label) == (own.get("namespace"), own["name"])
