"""A kubelet on paper for pods of Jobs: each ends at once, with the last words of a pull or with an error."""

import asyncio
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from flash_api import names

Manifest = Mapping[str, Any]
WriteStatus = Callable[[str, dict[str, Any]], Awaitable[None]]

_NOW = "2026-01-01T00:00:00Z"
WORDS = {"name": "A model", "sizeBytes": 4096, "digest": f"sha256:{'a' * 64}", "packedDigest": f"sha256:{'b' * 64}"}


class PullKubelet:
    """Feed it pod events by `observe`. `failing` holds the variants whose pulls end with that code and line."""

    def __init__(self, write_status: WriteStatus) -> None:
        self._write_status = write_status
        self.failing: dict[str, tuple[int, str]] = {}
        self._told: set[str] = set()  # by uid
        self._writes: set[asyncio.Task[None]] = set()

    def observe(self, event: str, pod: Manifest) -> None:
        """One event of a watch on pods."""
        meta = pod["metadata"]
        if event == "DELETED" or meta["uid"] in self._told or meta.get("deletionTimestamp"):
            return
        self._told.add(meta["uid"])
        code, line = self.failing.get(meta["annotations"][names.ANNOTATION_VARIANT], (0, ""))
        write = asyncio.create_task(self._tell(meta["name"], ended(code, line)))
        self._writes.add(write)

    async def aclose(self) -> None:
        """Wait for writes on their way. Raises what one of them failed with."""
        await asyncio.gather(*self._writes)

    async def _tell(self, name: str, status: dict[str, Any]) -> None:
        await self._write_status(name, status)


def ended(code: int, line: str) -> dict[str, Any]:
    """The status of a pod whose pull has ended."""
    last = {"exitCode": code, "reason": "Error" if code else "Completed", "message": line or json.dumps(WORDS)}
    state = {"terminated": {**last, "startedAt": _NOW, "finishedAt": _NOW}}
    container = {"name": names.CONTAINER_PULL, "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    return {
        "phase": "Failed" if code else "Succeeded",
        "startTime": _NOW,
        "conditions": [
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": _NOW},
            {"type": "Ready", "status": "False", "lastTransitionTime": _NOW},
        ],
        "containerStatuses": [{**container, "state": state}],
    }
