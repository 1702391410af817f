"""The external metrics API of the chart, registered on the test's control plane and served on this machine."""

from collections.abc import Iterator
from dataclasses import dataclass

import pytest
import yaml
from control_plane import ControlPlane
from helm_plugin import NAMESPACE, RELEASE, Helm
from operator_process import free_port

SERVICE = f"{RELEASE}-operator-metrics"
API_SERVICE = "v1beta1.external.metrics.k8s.io"


@dataclass(frozen=True)
class ExternalMetricsApi:
    """Where the API server will ask."""

    port: int

    @property
    def options(self) -> tuple[str, ...]:
        """Of an operator that serves it."""
        there = ("--lease-namespace", NAMESPACE, "--external-metrics-service", SERVICE)
        return (*there, "--external-metrics-host", "127.0.0.1", "--external-metrics-port", str(self.port))


@pytest.fixture
def external_metrics(control_plane: ControlPlane, helm: Helm, operator_rbac: object) -> Iterator[ExternalMetricsApi]:
    control_plane.kubectl("apply", "-f", str(operator_rbac))
    port = free_port()
    shown = helm.template("--set", "externalMetrics.enabled=true", only=["external-metrics"])
    service, registration = yaml.safe_load_all(shown)
    # A Service may not point to this machine's own address; to its name it may.
    service["spec"] = {"type": "ExternalName", "externalName": "localhost", "ports": [{"port": port}]}
    registration["spec"]["service"]["port"] = port
    manifests = yaml.safe_dump_all([service, registration])
    control_plane.kubectl("apply", "-f", "-", stdin=manifests)
    yield ExternalMetricsApi(port)
    control_plane.kubectl("delete", "-f", "-", stdin=manifests)
