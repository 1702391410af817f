"""Fixtures with our operator on a cluster with nodes: a process of the host, with what the chart installs for it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from helm_plugin import NAMESPACE, RELEASE, Helm
from operator_process import OperatorProcess
from pods import IMAGE

MONITORING = "monitoring"


@pytest.fixture(scope="session")
def installed(cluster: Cluster, helm: Helm) -> Cluster:
    """The cluster with the operator's namespace, its account, and the policy that keeps pods in their regions."""
    for name in (NAMESPACE, MONITORING):
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    cluster.control_plane.kubectl("apply", "-f", "-", stdin=helm.template(only=["rbac", "residency-policy"]))
    return cluster


@pytest.fixture(scope="session")
def operator(installed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """It serves all namespaces; engines and gateways are stand-ins, with our pods' every other field."""
    account = installed.control_plane.kubeconfig_for_service_account(NAMESPACE, f"{RELEASE}-operator")
    images = (f"--engine-image={IMAGE}", f"--gateway-image={IMAGE}")
    options = (*images, f"--metrics-namespace={MONITORING}", "--network-policies")
    log: Path = tmp_path_factory.mktemp("operator") / "operator.log"
    with OperatorProcess(account, log, namespace=None, options=options) as process:
        process.wait_until_leading()
        yield process
