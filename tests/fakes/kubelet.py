"""A kubelet on paper: pods of real ReplicaSets become running and ready, crash or start over, and no process runs.

Acts on events only. Pods stay unbound, so the API server removes them at once when they are deleted, as is right where
nothing runs. Everything above pods is real: Deployments, ReplicaSets and the counts in their status.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from typing import Any

Manifest = Mapping[str, Any]
WriteStatus = Callable[[str, dict[str, Any]], Awaitable[None]]
"""Merges a status into the pod of that name. A pod that is gone is no error."""

_NOW = "2026-01-01T00:00:00Z"


class Fate(Enum):
    """What becomes of a pod."""

    READY = "ready"
    STARTING = "starting"
    CRASHING = "crashing"


class FakeKubelet:
    """Feed it pod events by `observe`. `fates` maps an app (the name of a Deployment) to what becomes of its new pods;
    a changed fate also comes over the pods that are there (`decide`)."""

    def __init__(self, write_status: WriteStatus) -> None:
        self._write_status = write_status
        self._fates: dict[str, Fate] = {}
        self._pods: dict[str, Manifest] = {}
        self._told: dict[str, Fate] = {}  # by uid
        self._restarts: dict[str, int] = {}  # by uid
        self._writes: dict[str, asyncio.Task[None]] = {}  # by uid, the last one

    def observe(self, event: str, pod: Manifest) -> None:
        """One event of a watch on pods."""
        name, uid = pod["metadata"]["name"], pod["metadata"]["uid"]
        if event == "DELETED":
            self._pods.pop(name, None)
            self._told.pop(uid, None)
            return
        self._pods[name] = pod
        if uid not in self._told:
            self._tell(pod, self._fates.get(app_of(pod), Fate.READY))

    def decide(self, app: str, fate: Fate, *, new_pods_only: bool = False) -> None:
        """From now on, this becomes of the app's pods."""
        self._fates[app] = fate
        for pod in () if new_pods_only else self.pods(app):
            self._tell(pod, fate)

    def pods(self, app: str) -> list[Manifest]:
        """The app's pods, by name."""
        return [pod for _, pod in sorted(self._pods.items()) if app_of(pod) == app]

    def starting(self, app: str) -> list[Manifest]:
        """The app's pods that were told that they are still starting."""
        return [pod for pod in self.pods(app) if self._told[pod["metadata"]["uid"]] is Fate.STARTING]

    async def aclose(self) -> None:
        """Wait for writes on their way. Raises what one of them failed with."""
        await asyncio.gather(*self._writes.values())

    def _tell(self, pod: Manifest, fate: Fate) -> None:
        uid = pod["metadata"]["uid"]
        if self._told.get(uid) is fate:
            return
        self._told[uid] = fate
        if fate is Fate.CRASHING:
            self._restarts[uid] = self._restarts.get(uid, 0) + 1
        status = pod_status(pod, fate, self._restarts.get(uid, 0))
        before = self._writes.get(uid)
        self._writes[uid] = asyncio.create_task(self._write(before, pod["metadata"]["name"], status))

    async def _write(self, before: asyncio.Task[None] | None, name: str, status: dict[str, Any]) -> None:
        if before is not None:
            await before  # two writes to one pod must arrive in their order
        await self._write_status(name, status)


def app_of(pod: Manifest) -> str:
    """The Deployment that the pod came of, read from its name: NAME-REPLICASET-POD."""
    return str(pod["metadata"]["name"]).rsplit("-", 2)[0]


def pod_status(pod: Manifest, fate: Fate, restarts: int) -> dict[str, Any]:
    """The status that a kubelet would write."""
    ready = fate is Fate.READY
    truth = "True" if ready else "False"
    return {
        "phase": "Pending" if fate is Fate.STARTING else "Running",
        "startTime": _NOW,
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": _NOW},
            {"type": "Initialized", "status": "True", "lastTransitionTime": _NOW},
            {"type": "ContainersReady", "status": truth, "lastTransitionTime": _NOW},
            {"type": "Ready", "status": truth, "lastTransitionTime": _NOW},
        ],
        "containerStatuses": [
            {
                "name": container["name"],
                "image": container["image"],
                "imageID": "",
                "ready": ready,
                "started": ready,
                "restartCount": restarts,
                **_states(fate, restarts),
            }
            for container in pod["spec"]["containers"]
        ],
    }


def _states(fate: Fate, restarts: int) -> dict[str, Any]:
    died = {"terminated": {"exitCode": 137, "reason": "OOMKilled", "startedAt": _NOW, "finishedAt": _NOW}}
    last = {"lastState": died} if restarts else {}
    if fate is Fate.READY:
        return {"state": {"running": {"startedAt": _NOW}}, **last}
    reason = "CrashLoopBackOff" if fate is Fate.CRASHING else "ContainerCreating"
    return {"state": {"waiting": {"reason": reason}}, **last}
