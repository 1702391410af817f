"""Whether everything of a deployment is where its residency allows, from its pods and the labels of nodes. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from flash_api.reasons import Reason
from flash_api.v1alpha1.residency import Residency, ResidencyMode
from flash_api.v1alpha1.status import ResidencyStatus

Manifest = Mapping[str, Any]

VIOLATIONS_MAX: Final = 16
_ENDED: Final = ("Succeeded", "Failed")


@dataclass(frozen=True)
class Places:
    """Where pods could be and where they are."""

    node_regions: Mapping[str, str] | None
    """Region by node, empty for a node that says none; None = not known."""
    pods: Sequence[Manifest] = ()
    unknown: str = ""
    """Why it is not known."""


@dataclass(frozen=True)
class Finding:
    """What the places mean for the promise."""

    holds: Literal["True", "False", "Unknown"]
    reason: Reason
    message: str
    enforced: bool
    status: ResidencyStatus
    regions: tuple[str, ...] = ()
    """Of the pods that have a node."""
    outside: tuple[Manifest, ...] = ()
    """Pods on nodes that say another region."""


def residency_finding(residency: Residency, places: Places, *, ended_too: bool = False) -> Finding:
    """How things are. A node without a region is no proof of either, so it is never called a violation.

    `ended_too`: pods that have ended count, as where they left something behind.
    """
    allowed, enforced = set(residency.regions), residency.mode is ResidencyMode.ENFORCE
    nodes = places.node_regions
    if nodes is None:
        return Finding("Unknown", Reason.REGION_UNKNOWN, places.unknown, enforced, ResidencyStatus())

    ended = () if ended_too else _ENDED
    placed = [pod for pod in places.pods if _node(pod) and (pod.get("status") or {}).get("phase") not in ended]
    region_of = {_name(pod): nodes.get(_node(pod), "") for pod in placed}
    outside = tuple(pod for pod in placed if region_of[_name(pod)] and region_of[_name(pod)] not in allowed)
    inside = [pod for pod in placed if region_of[_name(pod)] in allowed]
    lost = [pod for pod in placed if not region_of[_name(pod)]]
    violations = [f"pod {_name(pod)} on node {_node(pod)} in {region_of[_name(pod)]}" for pod in outside]
    wanted = ", ".join(sorted(allowed))

    holds: Literal["True", "False", "Unknown"] = "True"
    if outside:
        holds, reason, message = "False", Reason.OUTSIDE_REGION, f"Not in {wanted}: {'; '.join(violations[:3])}."
    elif not allowed & set(nodes.values()):
        there = ", ".join(sorted(set(filter(None, nodes.values())))) or "none"
        # Pods are made nevertheless: where nodes come and go with demand, only a waiting pod brings one.
        holds, reason = "False", Reason.REGION_UNAVAILABLE
        message = f"No node is in {wanted}; regions of the {len(nodes)} nodes: {there}."
    elif lost:
        holds, reason = "Unknown", Reason.REGION_UNKNOWN
        message = f"Node {_node(lost[0])} of pod {_name(lost[0])} says no region."
    elif not placed:
        holds, reason, message = "Unknown", Reason.REGION_UNKNOWN, "No pod has a node yet."
    else:
        reason, message = Reason.ALL_IN_REGION, f"All pods that have a node are in {wanted}."
    return Finding(
        holds,
        reason,
        message,
        enforced,
        ResidencyStatus(
            compliant_pods=len(inside),
            total_pods=len(placed),
            violations=[v[:512] for v in violations[:VIOLATIONS_MAX]],
        ),
        regions=tuple(sorted(set(filter(None, region_of.values())))),
        outside=outside,
    )


def may_be_stopped(pod: Manifest) -> bool:
    """A pod that a controller replaces elsewhere; what someone made by hand is theirs to remove."""
    owners = pod["metadata"].get("ownerReferences") or ()
    replaced = any(owner.get("controller") and owner.get("kind") == "ReplicaSet" for owner in owners)
    return replaced and not pod["metadata"].get("deletionTimestamp")


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])


def _node(pod: Manifest) -> str:
    return str((pod.get("spec") or {}).get("nodeName") or "")
