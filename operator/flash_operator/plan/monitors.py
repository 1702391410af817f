"""The PodMonitor, by which a Prometheus of the Prometheus operator finds what to scrape."""

from __future__ import annotations

from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment, Observability
from flash_api.v1alpha1.observability import MonitorMode
from flash_operator.plan.certificates import ends_tls
from flash_operator.plan.metadata import Manifest, owned_object
from flash_operator.plan.settings import PlanSettings

POD_MONITOR: Final = ("monitoring.coreos.com/v1", "PodMonitor")

_COMPONENT: Final = "__meta_kubernetes_pod_label_app_kubernetes_io_component"


def wants_monitor(deployment: FlashDeployment) -> bool:
    """Whether there should be one wherever the cluster knows the kind."""
    return (deployment.spec.observability or Observability()).metrics.pod_monitor is MonitorMode.AUTO


def pod_monitor(deployment: FlashDeployment, settings: PlanSettings) -> Manifest:
    """One for all components."""
    metrics = (deployment.spec.observability or Observability()).metrics
    interval = f"{metrics.interval_seconds}s"
    # Engines have a port of that name too, and their metrics on another one.
    gateways_only = {"action": "keep", "sourceLabels": [_COMPONENT], "regex": names.COMPONENT_GATEWAY}
    gateway: dict[str, Any] = {"port": "http", "path": "/metrics", "interval": interval}
    if ends_tls(deployment, settings):
        # Its certificate is for the name that clients use, not for the address of a pod.
        gateway |= {"port": "https", "scheme": "https", "tlsConfig": {"insecureSkipVerify": True}}
    api_version, kind = POD_MONITOR
    return owned_object(
        deployment,
        names.COMPONENT_GATEWAY,
        api_version=api_version,
        kind=kind,
        name=deployment.metadata.name,
        extra_labels=metrics.pod_monitor_labels,
        spec={
            "selector": {"matchLabels": {names.LABEL_DEPLOYMENT: deployment.metadata.name}},
            "podMetricsEndpoints": [
                {"port": "metrics", "path": "/metrics", "interval": interval},
                {**gateway, "relabelings": [gateways_only]},
            ],
        },
    )
