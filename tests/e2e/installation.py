"""The chart's release as the end-to-end tests install it: as a user does who has neither registry nor internet."""

import os
from collections.abc import Sequence
from pathlib import Path

from cluster import Cluster
from helm_plugin import CHART, NAMESPACE, RELEASE, Helm
from operator_process import eventually

ROOT = Path(__file__).parents[2]
IS_FULL = os.environ.get("FULL") == "1"
PACKAGES = ROOT / "examples" / "air-gapped" / "package-index.yaml"
PACKAGE_INDEX = "http://packages.packages.svc:8080/"
VERSION = "0.1.0"
"""Of the images, as the chart has it."""
GATEWAY_IMAGE = f"ghcr.io/flashplane/gateway:{VERSION}"
OPERATOR_IMAGE = f"ghcr.io/flashplane/operator:{VERSION}"
VALUES = (
    f"packageIndex={PACKAGE_INDEX}",
    f"images.engine.tag={VERSION}-cpu",
    "images.engine.base=debian:bookworm",
    # Where another release of the operator is installed, what serves stays as it is.
    f"images.gateway.tag={VERSION}",
    "cluster.enforcesNetworkPolicies=true",
)


class Release:
    """Helm's release on a cluster. Every command waits for its end."""

    def __init__(self, cluster: Cluster, helm: Helm) -> None:
        self._cluster = cluster
        self._helm = helm.on(cluster.control_plane.kubeconfig)

    def install(self) -> None:
        self._say("install", str(CHART), "--create-namespace", "--wait", "--timeout=3m", *self._values())

    def upgrade(self, chart: Path, *values: str) -> None:
        """To this chart, with these values beside those of the installation."""
        self._say("upgrade", str(chart), "--wait", "--timeout=3m", *self._values(*values))

    def rollback(self) -> None:
        """To the release before."""
        self._say("rollback", "--wait", "--timeout=3m")

    def uninstall(self) -> None:
        self._say("uninstall", "--wait", "--timeout=2m")
        pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
        eventually("the operator is gone", lambda: not self._cluster.get(pods)["items"])

    def _values(self, *more: str) -> Sequence[str]:
        # Policies judge what kube-proxy has translated, and this API server has a port of its own.
        port = f"networkPolicy.apiServerPorts={{443,{self._cluster.control_plane.port}}}"
        return [f"--set={value}" for value in (*VALUES, port, *more)]

    def _say(self, command: str, *arguments: str) -> None:
        self._helm(command, RELEASE, *arguments, "--namespace", NAMESPACE)
