"""What pods that fetch a model right now say of it: the last line of their log, read with the rights of whoever asks.

No status holds the bytes of a running pull (`docs/decisions/0012`); its log does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from flash_api import names
from flash_operator.cluster.api import KubernetesApi
from flash_operator.cluster.protocol import ClusterError
from flash_operator.cockpit.facts import Manifest, Served

LINE_MAX: Final = 300
_PULLS: Final = (names.CONTAINER_PULL, names.CONTAINER_PULL_DRAFT)


async def pulling(api: KubernetesApi, served: Served) -> tuple[str, ...]:
    """A line for each container that pulls for the deployment, or for the FlashModel that it names. What may not be
    read is left out."""
    space = f"/api/v1/namespaces/{served.namespace}/pods"
    lines = []
    for pod in (*served.pods, *await _of_model(api, served, space)):
        name = pod["metadata"]["name"]
        for container in _running_pulls(pod):
            try:
                code, text = await api.page(f"{space}/{name}/log?container={container}&tailLines=1")
            except ClusterError:
                continue
            if code == 200 and (said := text.strip()):
                lines.append(f"Pod {name} says: {said[:LINE_MAX]}")
    return tuple(lines)


async def _of_model(api: KubernetesApi, served: Served, space: str) -> tuple[Manifest, ...]:
    ref = (served.spec.get("model") or {}).get("modelRef")
    if ref is None:
        return ()
    try:
        return tuple((await api.request("get", space, label_selector=f"{names.LABEL_MODEL}={ref['name']}"))["items"])
    except ClusterError:
        return ()


def _running_pulls(pod: Manifest) -> Iterator[str]:
    status = pod.get("status") or {}
    for kind in ("initContainerStatuses", "containerStatuses"):
        for container in status.get(kind) or ():
            if container["name"] in _PULLS and (container.get("state") or {}).get("running") is not None:
                yield str(container["name"])
