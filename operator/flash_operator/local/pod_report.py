"""Pods of this machine as a kubelet would tell of them, as far as anybody asks: what their pulls have found."""

from __future__ import annotations

import json
from collections.abc import Iterable

from flash_api.names import LABEL_DEPLOYMENT
from flash_operator.cluster.protocol import Key
from flash_operator.local.pod import Pod
from flash_operator.local.report import progress
from flash_operator.local.store import Manifest


def pods_of(key: Key, pods: Iterable[Pod]) -> tuple[Manifest, ...]:
    """Those of one FlashDeployment that are not on their way out."""
    return tuple(_pod(pod) for pod in pods if not pod.stopping and _owner(pod) == key)


def _owner(pod: Pod) -> Key:
    return Key(pod.spec.namespace, pod.spec.labels.get(LABEL_DEPLOYMENT, ""))


def _pod(pod: Pod) -> Manifest:
    ended = [
        {
            "name": container.spec.name,
            "state": {"terminated": {"exitCode": 0, "message": json.dumps((progress(container) or {}).get("model"))}},
        }
        for container in pod.init
        if container.state.done
    ]
    return {
        "metadata": {"name": pod.spec.name, "namespace": pod.spec.namespace, "labels": dict(pod.spec.labels)},
        "status": {"initContainerStatuses": ended},
    }
