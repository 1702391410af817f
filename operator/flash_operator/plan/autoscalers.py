"""The objects by which another controller sets the number of engine pods, where `provider` names one.

The decision stays ours: it is `status.scaling.desiredReplicas`, and both controllers are told that number as a metric
whose target for each pod is 1, so that their arithmetic, `ceil(metric / target)`, gives it back. An HPA reads it
through the external metrics API that the operator serves, KEDA reads the status itself from the Kubernetes API. What
damps and stabilizes has been done by the law, so the behaviour written here lets them follow at once.
"""

from __future__ import annotations

from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.autoscaling import Autoscaling, ScalingProvider
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan.metadata import Manifest, owned_object

Kind = tuple[str, str]

HORIZONTAL_POD_AUTOSCALER: Final = ("autoscaling/v2", "HorizontalPodAutoscaler")
SCALED_OBJECT: Final = ("keda.sh/v1alpha1", "ScaledObject")
AUTOSCALERS: Final = (HORIZONTAL_POD_AUTOSCALER, SCALED_OBJECT)

TRIGGER_AUTHENTICATION: Final = "flashplane"
"""The ClusterTriggerAuthentication of the chart, by which KEDA may read FlashDeployments."""
API_URL: Final = "https://kubernetes.default.svc"
PAUSED: Final = "autoscaling.keda.sh/paused"
_PERIOD_SECONDS: Final = 15
"""At which both controllers look; the shortest that makes a difference."""


def autoscaler_kind(deployment: FlashDeployment) -> Kind | None:
    """The kind that the spec asks for; None = the operator sets the number itself."""
    scaling = deployment.spec.engine.autoscaling
    return {
        ScalingProvider.HORIZONTAL_POD_AUTOSCALER: HORIZONTAL_POD_AUTOSCALER,
        ScalingProvider.KEDA: SCALED_OBJECT,
    }.get(scaling.provider if scaling is not None else ScalingProvider.BUILT_IN)


def autoscaler_kinds(deployment: FlashDeployment) -> tuple[Kind, ...]:
    """Kinds of which it matters whether they are known: KEDA makes an HPA of its own."""
    kind = autoscaler_kind(deployment)
    return () if kind is None else tuple(dict.fromkeys((HORIZONTAL_POD_AUTOSCALER, kind)))


def autoscaler(deployment: FlashDeployment) -> Manifest | None:
    """The HorizontalPodAutoscaler or ScaledObject of the engine Deployment; None where the operator needs none."""
    kind, scaling = autoscaler_kind(deployment), deployment.spec.engine.autoscaling
    if kind is None or scaling is None:
        return None
    spec = _horizontal(deployment, scaling) if kind == HORIZONTAL_POD_AUTOSCALER else _scaled(deployment, scaling)
    # An HPA leaves a Deployment alone that has no pods; KEDA would start some.
    pause = {PAUSED: "true"} if kind == SCALED_OBJECT and deployment.spec.suspend else None
    return owned_object(
        deployment,
        names.COMPONENT_ENGINE,
        api_version=kind[0],
        kind=kind[1],
        name=names.engine_name(deployment.metadata.name),
        annotations=pause,
        spec=spec,
    )


def _horizontal(deployment: FlashDeployment, scaling: Autoscaling) -> dict[str, Any]:
    metric = {
        "name": names.METRIC_DESIRED_ENGINES,
        "selector": {"matchLabels": {names.LABEL_DEPLOYMENT: deployment.metadata.name}},
    }
    target = {"type": "AverageValue", "averageValue": "1"}
    return {
        "scaleTargetRef": _target(deployment),
        "minReplicas": scaling.min_replicas,
        "maxReplicas": scaling.max_replicas,
        "metrics": [{"type": "External", "external": {"metric": metric, "target": target}}],
        "behavior": _behavior(scaling),
    }


def _scaled(deployment: FlashDeployment, scaling: Autoscaling) -> dict[str, Any]:
    meta = deployment.metadata
    path = f"/apis/{names.API_VERSION}/namespaces/{meta.namespace}/{names.PLURAL}/{meta.name}"
    return {
        "scaleTargetRef": _target(deployment),
        "minReplicaCount": scaling.min_replicas,
        "maxReplicaCount": scaling.max_replicas,
        "advanced": {"horizontalPodAutoscalerConfig": {"behavior": _behavior(scaling)}},
        "triggers": [
            {
                "type": "metrics-api",
                "metricType": "AverageValue",
                "metadata": {
                    "url": f"{API_URL}{path}",
                    "valueLocation": "status.scaling.desiredReplicas",
                    "targetValue": "1",
                    "authMode": "bearer",
                },
                "authenticationRef": {"kind": "ClusterTriggerAuthentication", "name": TRIGGER_AUTHENTICATION},
            }
        ],
    }


def _target(deployment: FlashDeployment) -> dict[str, str]:
    return {"apiVersion": "apps/v1", "kind": "Deployment", "name": names.engine_name(deployment.metadata.name)}


def _behavior(scaling: Autoscaling) -> dict[str, Any]:
    def at_once() -> dict[str, Any]:
        policy = {"type": "Pods", "value": scaling.max_replicas, "periodSeconds": _PERIOD_SECONDS}
        return {"stabilizationWindowSeconds": 0, "selectPolicy": "Max", "policies": [policy]}

    return {"scaleUp": at_once(), "scaleDown": at_once()}
