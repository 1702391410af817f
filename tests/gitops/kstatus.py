"""The rules by which Flux and kpt read a status: kubernetes-sigs/cli-utils, pkg/kstatus/status
(`Compute`: generic.go `checkGenericProperties` and `checkGeneration`, then status.go `checkReadyCondition`), restated
for custom resources."""

from __future__ import annotations

from enum import StrEnum
from typing import Any


class Kstatus(StrEnum):
    """What a resource can be."""

    IN_PROGRESS = "InProgress"
    FAILED = "Failed"
    CURRENT = "Current"
    TERMINATING = "Terminating"


def kstatus(resource: dict[str, Any]) -> Kstatus:
    """The verdict over one object."""
    metadata, status = resource["metadata"], resource.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return Kstatus.TERMINATING
    observed = status.get("observedGeneration")
    if "generation" in metadata and observed is not None and observed != metadata["generation"]:
        return Kstatus.IN_PROGRESS
    conditions = status.get("conditions") or []
    for condition in conditions:  # in their order: the first that holds decides
        if condition["type"] == "Reconciling" and condition["status"] == "True":
            return Kstatus.IN_PROGRESS
        if condition["type"] == "Stalled" and condition["status"] == "True":
            return Kstatus.FAILED
    for condition in conditions:
        if condition["type"] == "Ready":
            return Kstatus.CURRENT if condition["status"] == "True" else Kstatus.IN_PROGRESS
    return Kstatus.CURRENT
