"""What the reconcile loop needs of a cluster. Kubernetes, plain processes and a dict all offer exactly this.

An *object* is a Kubernetes manifest as a plain mapping (apiVersion, kind, metadata, spec …). Methods state their
effects; none of them decides anything.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from flash_operator.announcements import Announcement

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Key:
    """Which FlashDeployment, or FlashModel."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}"


class ClusterError(Exception):
    """The cluster could not do what was asked; `retryable` says whether asking again may help."""

    def __init__(self, message: str, *, retryable: bool = True) -> None:
        super().__init__(message)
        self.retryable = retryable


class Forbidden(ClusterError):
    """We may not do this: someone must grant the permission, or a policy or a quota is in the way."""


class Conflict(ClusterError):
    """Someone changed the object in between (uid or resourceVersion differ), or another manager owns a field."""


class Cluster(Protocol):
    """A place where objects live."""

    async def deployment(self, key: Key) -> Manifest | None:
        """The FlashDeployment as stored now, None when it is gone. Read afresh, never from a cache."""

    async def owned(self, key: Key) -> tuple[Manifest, ...]:
        """Live objects labelled as belonging to this FlashDeployment, of every kind that the plan can hold."""

    async def apply(self, manifest: Manifest) -> None:
        """Make the object exist as written (server-side apply of the whole object, field manager `flashplane`)."""

    async def apply_scaled(self, manifest: Manifest) -> None:
        """As `apply`, for a Deployment whose number of pods another controller sets: one that has pods keeps the number
        it has at the moment of the write, whatever the manifest says."""

    async def delete(self, manifest: Manifest) -> None:
        """Delete exactly this incarnation (uid and resourceVersion as preconditions). Gone already is no error."""

    async def write_status(self, key: Key, status: Manifest) -> None:
        """Replace the status of the FlashDeployment. Gone already is no error."""

    async def model(self, key: Key) -> Manifest | None:
        """The FlashModel as stored now, None when it is gone. Read afresh, never from a cache."""

    async def of_model(self, key: Key) -> tuple[Manifest, ...]:
        """Live objects labelled as belonging to this FlashModel, of every kind that its plan can hold."""

    async def pods_of_model(self, key: Key) -> tuple[Manifest, ...]:
        """Live pods that pull this FlashModel."""

    async def users_of_model(self, key: Key) -> tuple[Manifest, ...]:
        """Engine Deployments whose pods mount this FlashModel's volume."""

    async def write_model_status(self, key: Key, status: Manifest) -> None:
        """Replace the status of the FlashModel. Gone already is no error."""

    def pulls_by_pod(self) -> bool:
        """Whether there are no volumes here: each pod pulls, through a cache that all pods of this place share."""

    async def pods(self, key: Key) -> tuple[Manifest, ...]:
        """Live pods labelled as belonging to this FlashDeployment, whoever made them."""

    async def node_regions(self) -> Mapping[str, str] | None:
        """The region that each node says it is in, by name; empty for none. None = this place has no nodes.

        Raises Forbidden where we may not list nodes.
        """

    async def serves(self, api_version: str, kind: str) -> bool:
        """Whether this place knows a kind that not every cluster has. An answer may be a minute old."""

    async def gateway_urls(self, key: Key, port: int) -> tuple[str, ...]:
        """Base URL of each gateway pod that takes requests, behind the endpoint at `port`; none where they cannot be
        told apart."""

    async def announce(self, live: Manifest, news: Announcement, at: datetime) -> None:
        """Tell whoever looks at the object what has changed. Never raises: news that is lost changes nothing."""

    def endpoint_url(self, key: Key, port: int, *, tls: bool = False) -> str:
        """Base URL, without `/v1`, at which the operator and clients in this place reach the gateway."""

    def ignored_fields(self, spec: Manifest) -> tuple[str, ...]:
        """Fields of the spec, each with a reason, that cannot hold in this place (`endpoint.visibility: …`)."""
