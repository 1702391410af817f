"""Autoscaling against a real API server, with the rights of the operator's ServiceAccount and no more.

Gateways are on paper: their addresses are in a real EndpointSlice, what they would answer is in the test.
"""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import a_manifest
from hermetic_errors import KubectlFailed
from operator_process import Kubectl

from flash_operator.cluster.kubernetes import KubernetesApi, KubernetesCluster
from flash_operator.cluster.protocol import Key
from flash_operator.observation import ProbeResult
from flash_operator.plan.autoscale_load import GatewayReading
from flash_operator.reconcile import Outcome, ReconcileSettings, reconcile
from flash_operator.scaling import Scaler

AUTOSCALING = {"maxReplicas": 8, "targets": {"queuedRequests": 4}}
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


@pytest.fixture
async def cluster(operator_account: Path) -> AsyncIterator[KubernetesCluster]:
    api = await KubernetesApi.connect(str(operator_account))
    yield KubernetesCluster(api)
    await api.aclose()


class World:
    """One FlashDeployment on the real API, and gateways on paper that hold so many requests each."""

    def __init__(self, cluster: KubernetesCluster, kubectl: Kubectl) -> None:
        self.key = Key(kubectl.namespace, "chat")
        self.now = NOON
        self.inflight = 0.0
        self.asked: list[str] = []
        self._cluster = cluster
        self._kubectl = kubectl
        self.scaler = Scaler(self._scrape)

    async def _scrape(self, url: str) -> GatewayReading:
        self.asked.append(url)
        return GatewayReading(self.inflight)

    async def step(self) -> Outcome:
        async def answers(url: str) -> ProbeResult:
            return ProbeResult(ok=True, message="")

        self.now += timedelta(seconds=15)
        return await reconcile(
            self._cluster,
            self.key,
            probe=answers,
            now=lambda: self.now,
            settings=ReconcileSettings(),
            scaler=self.scaler,
        )

    def restart(self) -> None:
        self.scaler = Scaler(self._scrape)

    @property
    def engines(self) -> int:
        return int(self._kubectl.get("deployment", "chat-engine")["spec"]["replicas"])

    @property
    def scaling(self) -> dict[str, Any]:
        found: dict[str, Any] = self._kubectl.get("fd", "chat")["status"]["scaling"]
        return found


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
    world = World(cluster, kubectl)
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
