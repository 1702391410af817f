"""An announcement as a Kubernetes Event. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any, Final

from flash_api import names
from flash_operator.announcements import Announcement
from flash_operator.cluster.protocol import Manifest

EVENTS_API: Final = "events.k8s.io/v1"
CONTROLLER: Final = f"{names.GROUP}/operator"
_NAME_MAX: Final = 253


def event(live: Manifest, news: Announcement, at: datetime) -> dict[str, Any]:
    """The Event about the object. Its name is that of the change, so that the same change makes no second one."""
    meta = live["metadata"]
    return {
        "apiVersion": EVENTS_API,
        "kind": "Event",
        "metadata": {
            "name": f"{meta['name'][: _NAME_MAX - len(news.identity) - 1]}.{news.identity}",
            "namespace": meta["namespace"],
        },
        "eventTime": at.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "reportingController": CONTROLLER,
        "reportingInstance": names.FIELD_MANAGER,
        "type": news.type,
        "reason": news.reason,
        "action": "Reconcile",
        "note": news.note,
        "regarding": {
            "apiVersion": live.get("apiVersion", names.API_VERSION),
            "kind": live.get("kind", names.KIND),
            "name": meta["name"],
            "namespace": meta["namespace"],
            "uid": meta.get("uid", ""),
            "resourceVersion": meta.get("resourceVersion", ""),
        },
    }
