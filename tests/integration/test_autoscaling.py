"""Autoscaling against a real API server, with the rights of the operator's ServiceAccount and no more.

Gateways are on paper: their addresses are in a real EndpointSlice, what they would answer is in the test.
"""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import yaml
from autoscaled_world import AutoscaledWorld
from builders import a_manifest
from hermetic_errors import KubectlFailed
from operator_process import Kubectl

from flash_operator.cluster.kubernetes import KubernetesApi, KubernetesCluster

AUTOSCALING = {"maxReplicas": 8, "targets": {"queuedRequests": 4}}


@pytest.fixture
async def cluster(operator_account: Path) -> AsyncIterator[KubernetesCluster]:
    api = await KubernetesApi.connect(str(operator_account))
    yield KubernetesCluster(api)
    await api.aclose()


def an_endpoint_slice(*addresses: str) -> str:
    return yaml.safe_dump(
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {"name": "chat-gateway-on-paper", "labels": {"kubernetes.io/service-name": "chat-gateway"}},
            "addressType": "IPv4",
            "ports": [{"name": "http", "port": 8080}],
            "endpoints": [
                {"addresses": [address], "conditions": {"ready": True, "serving": True}} for address in addresses
            ],
        }
    )


async def test_a_queue_scales_the_engines_and_the_status_remembers_it(
    cluster: KubernetesCluster, kubectl: Kubectl
) -> None:
    manifest = a_manifest(engine={"autoscaling": AUTOSCALING})
    manifest["metadata"].pop("namespace")
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
    world = AutoscaledWorld(cluster, kubectl)
    for _ in range(2):
        await world.step()
    assert (world.engines, world.scaling["reason"]) == (1, "MetricsMissing")

    kubectl("apply", "-f", "-", stdin=an_endpoint_slice("10.1.2.3", "10.1.2.4"))
    world.inflight = 40
    await world.step()
    assert sorted(world.asked) == ["http://10.1.2.3:8080/metrics", "http://10.1.2.4:8080/metrics"]
    assert world.engines == 4
    (event,) = world.scaling["history"]
    assert (event["fromReplicas"], event["toReplicas"], event["reason"]) == (1, 4, "QueueAboveTarget")
    assert event["time"] == world.scaling["lastScaleTime"] == "2026-01-05T12:00:45Z"

    world.inflight = 1
    world.restart()
    await world.step()
    assert sum([(await world.step()).writes for _ in range(8)]) == 1, "the new reason, told once"
    assert (world.engines, world.scaling["reason"], len(world.scaling["history"])) == (4, "Stabilizing", 1)
    assert kubectl.get("fd", "chat")["status"]["engine"]["desired"] == 4


def test_kubectl_scale_is_refused_while_autoscaling_is_on(kubectl: Kubectl) -> None:
    manifest = a_manifest(engine={"autoscaling": AUTOSCALING})
    manifest["metadata"].pop("namespace")
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
    with pytest.raises(KubectlFailed, match="must be unset when autoscaling is set"):
        kubectl("scale", "fd/chat", "--replicas=3")
