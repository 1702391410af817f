"""What the operator's account must be allowed, as `doctor` asks for it. charts/flashplane grants it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from flash_api import names

OWNER: Final = ("get", "list", "watch", "create", "patch", "delete")
UNWATCHED: Final = ("get", "list", "create", "patch", "delete")
_OURS: Final = (names.PLURAL, names.MODEL_PLURAL)
LEASE: Final = "flashplane-operator"


@dataclass(frozen=True)
class Permission:
    """One verb on one resource."""

    group: str
    resource: str
    """With its subresource: `flashdeployments/status`."""
    verb: str
    name: str = ""
    """Of the one object it is for; empty = all."""
    of_lease: bool = False
    """In the operator's own namespace, not where FlashDeployments are."""

    def __str__(self) -> str:
        group = f" of group {self.group}" if self.group else ""
        return f"{self.verb} {self.resource}{group}"


def _all(group: str, resources: tuple[str, ...], verbs: tuple[str, ...]) -> tuple[Permission, ...]:
    return tuple(Permission(group, resource, verb) for resource in resources for verb in verbs)


NEEDED: Final = (
    *_all(names.GROUP, _OURS, ("get", "list", "watch")),
    *(Permission(names.GROUP, f"{plural}/status", "patch") for plural in _OURS),
    *(Permission(names.GROUP, f"{plural}/finalizers", "update") for plural in _OURS),
    *_all("batch", ("jobs",), OWNER),
    *_all("", ("persistentvolumeclaims",), ("get", "list", "watch", "create", "patch")),
    *_all("apps", ("deployments",), OWNER),
    *_all("", ("services", "configmaps", "serviceaccounts"), OWNER),
    *_all("networking.k8s.io", ("networkpolicies", "ingresses"), OWNER),
    *_all("policy", ("poddisruptionbudgets",), OWNER),
    *_all("autoscaling", ("horizontalpodautoscalers",), OWNER),
    *_all("keda.sh", ("scaledobjects",), UNWATCHED),
    *_all("gateway.networking.k8s.io", ("httproutes",), UNWATCHED),
    *_all("cert-manager.io", ("certificates",), UNWATCHED),
    *_all("monitoring.coreos.com", ("podmonitors",), UNWATCHED),
    *_all("", ("nodes",), ("list",)),
    *_all("", ("pods",), ("list", "watch", "delete")),
    *_all("discovery.k8s.io", ("endpointslices",), ("list",)),
    *_all("events.k8s.io", ("events",), ("create",)),
    Permission("coordination.k8s.io", "leases", "create", of_lease=True),
    Permission("coordination.k8s.io", "leases", "get", name=LEASE, of_lease=True),
    Permission("coordination.k8s.io", "leases", "update", name=LEASE, of_lease=True),
)
