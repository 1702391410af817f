"""What one look at a cluster brought, before anybody judges it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from flash_api import names
from flash_operator.cockpit.permissions import Permission

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Served:
    """A FlashDeployment with its pods."""

    manifest: Manifest
    pods: Sequence[Manifest] = ()
    pulling: Sequence[str] = ()
    """What pods say that fetch its model right now; not every look asks them."""

    @property
    def name(self) -> str:
        return str(self.manifest["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.manifest["metadata"]["namespace"])

    @property
    def label(self) -> str:
        return f"{names.KIND} {self.namespace}/{self.name}"

    @property
    def spec(self) -> Manifest:
        found: Manifest = self.manifest.get("spec") or {}
        return found

    @property
    def status(self) -> Manifest:
        found: Manifest = self.manifest.get("status") or {}
        return found

    def condition(self, kind: str) -> Manifest:
        """The condition of this type, empty when it is not there."""
        return next((c for c in self.status.get("conditions") or () if c.get("type") == kind), {})


@dataclass(frozen=True)
class OperatorFacts:
    """What is known of the operator without asking it, and its own word where it could be had."""

    namespace: str
    lease: Manifest | None = None
    """None = there is none, unless `unseen` says that it may not be read."""
    ailments: str | None = None
    """What `/livez` says is wrong; empty = it is well, None = it could not be asked."""
    denied: Sequence[Permission] | None = ()
    """Permissions that it needs and has not; None = we may not ask."""


@dataclass(frozen=True)
class ClusterFacts:
    """Everything that `doctor` judges."""

    now: datetime
    unreachable: str = ""
    """Why the API does not answer; everything below is unknown then."""
    version: str = ""
    crds: Mapping[str, Manifest | None] = field(default_factory=dict)
    """By name; None = not installed. One that may not be read is absent."""
    operator: OperatorFacts = field(default_factory=lambda: OperatorFacts(namespace=""))
    served: Sequence[Served] = ()
    models: Sequence[Manifest] = ()
    """FlashModels."""
    secrets: Mapping[tuple[str, str], bool] = field(default_factory=dict)
    """By namespace and name: whether a Secret that a deployment names exists."""
    kinds: Mapping[str, bool] = field(default_factory=dict)
    """Whether the cluster knows a kind that not every cluster has."""
    unseen: Sequence[str] = ()
    """What could not be looked at, each with the reason."""
