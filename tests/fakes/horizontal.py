"""What a HorizontalPodAutoscaler makes of the number it is told, on a cluster in a dict: Kubernetes' arithmetic for an
external metric with an average target of 1, its tolerance and its bounds."""

import math
from typing import Any

from flash_api import names
from flash_operator.cluster.memory import MemoryCluster
from flash_operator.cluster.protocol import Key

TOLERANCE = 0.1


def look(cluster: MemoryCluster, key: Key) -> None:
    """One look of its controller."""
    engines = Key(key.namespace, names.engine_name(key.name))
    scaler, target = cluster.get("HorizontalPodAutoscaler", engines), cluster.get("Deployment", engines)
    if scaler is None or target is None:
        return
    current, spec = int(target["spec"]["replicas"]), scaler["spec"]
    told = (cluster.get(names.KIND, key) or {}).get("status", {}).get("scaling", {}).get("desiredReplicas")
    if current == 0:
        say(cluster, engines, "False", "ScalingDisabled", "scaling is disabled since the replica count is zero")
        return
    wanted = min(max(current, spec["minReplicas"]), spec["maxReplicas"])
    if told is None:
        say(cluster, engines, "False", "FailedGetExternalMetric", "no number")
    elif wanted == current:
        say(cluster, engines, "True", "ValidMetricFound", "")
        if abs(1.0 - told / current) > TOLERANCE:
            wanted = min(max(math.ceil(told), spec["minReplicas"]), spec["maxReplicas"])
    if wanted != current:
        cluster.edit("Deployment", engines, lambda found: found["spec"].update(replicas=wanted))


def say(cluster: MemoryCluster, engines: Key, status: str, reason: str, message: str) -> None:
    """Its condition ScalingActive."""

    def change(found: dict[str, Any]) -> None:
        able = {"type": "AbleToScale", "status": "True", "reason": "ReadyForNewScale", "message": ""}
        active = {"type": "ScalingActive", "status": status, "reason": reason, "message": message}
        found["status"] = {"conditions": [able, active]}

    cluster.edit("HorizontalPodAutoscaler", engines, change)
