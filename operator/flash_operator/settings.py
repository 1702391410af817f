"""What one operator process is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field

from flash_operator.lease import LeaseTimes
from flash_operator.queue import QueueSettings
from flash_operator.reconcile import ReconcileSettings


@dataclass(frozen=True)
class OperatorSettings:
    """Everything but the cluster itself."""

    identity: str
    """Name of this process in the Lease; unique among replicas."""
    namespaces: tuple[str, ...] = ()
    """Namespaces to serve; empty = all."""
    kubeconfig: str | None = None
    """None = the ServiceAccount of the pod around this process."""
    lease_namespace: str = "flashplane-system"
    lease_name: str = "flashplane-operator"
    lease_times: LeaseTimes = field(default_factory=LeaseTimes)
    metrics_host: str = "0.0.0.0"
    metrics_port: int = 9090
    audit_seconds: float = 30.0
    """How often the watch is compared with a list: a dead watch is seen after two of these."""
    pass_max_seconds: float = 180.0
    """A pass that takes longer is stuck: every request inside has a deadline far below."""
    queue: QueueSettings = field(default_factory=QueueSettings)
    reconcile: ReconcileSettings = field(default_factory=ReconcileSettings)
