"""One autoscaled FlashDeployment on the real API, with passes at times of the test's own and gateways on paper."""

from datetime import UTC, datetime, timedelta
from typing import Any

from operator_in_process import answers
from operator_process import Kubectl

from flash_operator.cluster.kubernetes import KubernetesCluster
from flash_operator.cluster.protocol import Key
from flash_operator.plan.autoscale_load import GatewayReading
from flash_operator.reconcile import Outcome, ReconcileSettings, reconcile
from flash_operator.scaling import Scaler

NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)


class AutoscaledWorld:
    """`inflight` is what each gateway holds; `cluster` says which there are, and `asked` which were looked at."""

    def __init__(self, cluster: KubernetesCluster, kubectl: Kubectl, name: str = "chat") -> None:
        self.key = Key(kubectl.namespace, name)
        self.now = NOON
        self.inflight = 0.0
        self.asked: list[str] = []
        self._cluster = cluster
        self._kubectl = kubectl
        self.restart()

    def restart(self) -> None:
        """A new operator process, which knows nothing."""
        self._scaler = Scaler(self._scrape)

    async def step(self) -> Outcome:
        """One pass, 15 seconds after the former one."""
        self.now += timedelta(seconds=15)
        return await self.look()

    async def look(self) -> Outcome:
        """One pass, at the same time as the former one."""
        return await reconcile(
            self._cluster,
            self.key,
            probe=answers,
            now=lambda: self.now,
            settings=ReconcileSettings(),
            scaler=self._scaler,
        )

    @property
    def deployment(self) -> dict[str, Any]:
        """That of the engines."""
        found: dict[str, Any] = self._kubectl.get("deployment", f"{self.key.name}-engine")
        return found

    @property
    def engines(self) -> int:
        """How many are wanted."""
        return int(self.deployment["spec"]["replicas"])

    @property
    def scaling(self) -> dict[str, Any]:
        """What the status says of it."""
        found: dict[str, Any] = self._kubectl.get("fd", self.key.name)["status"]["scaling"]
        return found

    async def _scrape(self, url: str) -> GatewayReading:
        self.asked.append(url)
        return GatewayReading(self.inflight)
