"""What the deployment controller would write: the status of a Deployment from what its pods are doing. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from flash_operator.local.rollout import PodFact
from flash_operator.local.store import Manifest


@dataclass(frozen=True)
class Look:
    """One look at the pods of a Deployment."""

    pods: Sequence[PodFact]
    revision: str
    failure: str = ""
    """Why a pod cannot be made or keeps failing, if one does."""
    failing_seconds: float = 0
    """How long none became ready while pods are missing."""


def deployment_status(deployment: Manifest, look: Look) -> dict[str, Any]:
    """Counts as in Kubernetes: pods on their way out do not count."""
    live = [pod for pod in look.pods if not pod.stopping]
    wanted = deployment["spec"].get("replicas", 1)
    ready = sum(pod.ready for pod in live)
    updated = sum(pod.revision == look.revision for pod in live)
    deadline = deployment["spec"].get("progressDeadlineSeconds", 600)
    stuck = look.failing_seconds > deadline
    complete = ready == updated == len(live) == wanted
    conditions = [
        _condition(
            "Available",
            ready >= wanted,
            "MinimumReplicasAvailable" if ready >= wanted else "MinimumReplicasUnavailable",
            f"{ready} of {wanted} pods are ready",
        ),
        _condition(
            "Progressing",
            not stuck,
            "ProgressDeadlineExceeded" if stuck else "NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
            f"no pod became ready within {deadline} s" if stuck else "",
        ),
    ]
    if look.failure:
        conditions.append(_condition("ReplicaFailure", True, "FailedCreate", look.failure))
    return {
        "observedGeneration": deployment["metadata"]["generation"],
        "replicas": len(live),
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(0, wanted - ready),
        "conditions": conditions,
    }


def _condition(kind: str, holds: bool, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": "True" if holds else "False", "reason": reason, "message": message}
