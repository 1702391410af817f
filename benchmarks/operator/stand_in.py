"""Deployments that roll out at once: their status is written as their controller would write it in the end.

Nothing runs below them, so that two cores measure the operator and the API server and not ten thousand pods. The
controller manager is paused meanwhile: it would write that no pod is ready.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from live_api import MERGE, LiveApi

WRITERS: Final = 8


def rolled_out(deployment: dict[str, Any]) -> dict[str, Any] | None:
    """The status of a Deployment whose pods are all ready; None when it says so already."""
    generation, replicas = deployment["metadata"]["generation"], deployment["spec"].get("replicas", 1)
    present = deployment.get("status") or {}
    if present.get("observedGeneration") == generation and present.get("readyReplicas", 0) == replicas:
        return None
    return {
        "observedGeneration": generation,
        "replicas": replicas,
        "updatedReplicas": replicas,
        "readyReplicas": replicas,
        "availableReplicas": replicas,
        "conditions": [
            {"type": "Available", "status": "True", "reason": "MinimumReplicasAvailable"},
            {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
        ],
    }


async def roll_out_everything(api: LiveApi, namespace: str, seen: Callable[[dict[str, Any]], None]) -> None:
    """For every Deployment of the namespace, until cancelled. `seen` is told of each event."""
    queue: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
    collection = await api.path("apps/v1", "Deployment", namespace)

    async def write() -> None:
        while True:
            deployment = await queue.get()
            if status := rolled_out(deployment):
                path = f"{collection}/{deployment['metadata']['name']}/status"
                await api.request("PATCH", path, {"status": status}, content_type=MERGE)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(WRITERS):
            tasks.create_task(write())
        async for event in api.events("apps/v1", "Deployment", namespace, ""):
            if event["type"] != "DELETED":
                seen(event["object"])
                queue.put_nowait(event["object"])


@contextlib.contextmanager
def paused_controller_manager(pids: Sequence[int]) -> Iterator[None]:
    """The controllers of a control plane with these processes do nothing until the end."""
    found = [pid for pid in pids if Path(f"/proc/{pid}/comm").read_text().startswith("kube-controller")]
    for pid in found:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in found:
            os.kill(pid, signal.SIGCONT)
