"""What one operator process is told at its start."""

from __future__ import annotations

from dataclasses import dataclass, field

from flash_operator.lease import LeaseTimes
from flash_operator.queue import QueueSettings
from flash_operator.reconcile import ReconcileSettings


@dataclass(frozen=True)
class WatchSettings:
    """How long a silent connection is trusted, and how soon a lost one is replaced."""

    server_timeout_seconds: int = 240
    """The API server ends each watch request after this, and the next one goes on from where it was."""
    client_timeout_seconds: float = 300.0
    """Where the server's end does not arrive, ours does."""
    inactivity_seconds: float = 70.0
    """The API server sends a bookmark each minute, so more silence is a dead connection."""
    request_timeout_seconds: float = 30.0
    connect_timeout_seconds: float = 10.0
    error_backoffs_seconds: tuple[float, ...] = (0.5, 1.0, 2.0, 4.0)
    """Pauses before a failed list or watch is tried again; then the event source gives up and is started anew."""
    restart_seconds: float = 0.5
    """The pause before the event source is started anew. It doubles while that does not help, up to the next one."""
    restart_max_seconds: float = 15.0
    relist_seconds: float = 1800.0
    """How long what belongs to FlashDeployments is followed by events alone before it is listed once more."""


@dataclass(frozen=True)
class ExternalMetricsSettings:
    """Where the external metrics API is served."""

    port: int
    service: str
    """The Service that the APIService names, in the operator's namespace."""
    host: str = "0.0.0.0"


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
    external_metrics: ExternalMetricsSettings | None = None
    """None = HorizontalPodAutoscalers are told nothing."""
    audit_seconds: float = 30.0
    """How often the watches are compared with what lists say: a dead watch is seen after two of these."""
    blind_max_seconds: float = 120.0
    """FlashDeployments that cannot be listed for longer make `/livez` say so."""
    pass_max_seconds: float = 180.0
    """A pass that takes longer is stuck: every request inside has a deadline far below."""
    watch: WatchSettings = field(default_factory=WatchSettings)
    queue: QueueSettings = field(default_factory=QueueSettings)
    reconcile: ReconcileSettings = field(default_factory=ReconcileSettings)
