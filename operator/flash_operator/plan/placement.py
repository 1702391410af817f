"""Which nodes pods may run on, and how they spread over them: the part of a pod's spec that the scheduler reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.flashdeployment import REGION_LABEL, FlashDeployment
from flash_api.v1alpha1.placement import Placement, TopologySpread
from flash_api.v1alpha1.residency import Residency, ResidencyMode
from flash_operator.plan.metadata import selector

_SPREAD: Final = tuple(
    TopologySpread(topology_key=f"{key}") for key in ("topology.kubernetes.io/zone", "kubernetes.io/hostname")
)
"""One lost zone or node should not take every replica, yet a pod that cannot be even still runs."""


def scheduling(deployment: FlashDeployment, component: str, of_model: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of the pod's spec. They do not depend on the number of replicas, which alone starts no new revision.

    `of_model` is the affinity that the model brings; that of the deployment comes first.
    """
    placement = deployment.spec.placement or Placement()
    wanted: dict[str, Any] = {
        "nodeSelector": placement.node_selector and dict(sorted(placement.node_selector.items())),
        "tolerations": placement.tolerations
        and [found.model_dump(mode="json", by_alias=True, exclude_none=True) for found in placement.tolerations],
        "priorityClassName": placement.priority_class_name,
        "runtimeClassName": placement.runtime_class_name if component != names.COMPONENT_GATEWAY else None,
        "affinity": {**of_model, **(affinity(deployment.spec.residency) if deployment.spec.residency else {})},
        "topologySpreadConstraints": [
            _constraint(spread, selector(deployment, component)) for spread in _spread(placement, component)
        ],
    }
    return {key: value for key, value in wanted.items() if value}


def _spread(placement: Placement, component: str) -> Sequence[TopologySpread]:
    wanted = placement.topology_spread or _SPREAD
    if component != names.COMPONENT_DRAFT:
        return wanted
    # Drafts go where engines are, which are even already: as a condition it would keep a draft from its engine.
    return [
        TopologySpread(topology_key=key, max_skew=skew)
        for key, skew in {s.topology_key: s.max_skew for s in wanted}.items()
    ]


def affinity(residency: Residency) -> dict[str, Any]:
    """Keeps a pod in the regions: as a condition, or as a wish where the spec only asks to be told."""
    term = {
        "matchExpressions": [{"key": REGION_LABEL, "operator": "In", "values": sorted(residency.regions)}],
    }
    if residency.mode is ResidencyMode.ENFORCE:
        return {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [term]}}}
    wish = {"weight": 100, "preference": term}
    return {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [wish]}}


def _constraint(spread: TopologySpread, pods: dict[str, str]) -> dict[str, Any]:
    return {
        "topologyKey": spread.topology_key,
        "maxSkew": spread.max_skew,
        "whenUnsatisfiable": spread.when_unsatisfiable,
        "labelSelector": {"matchLabels": pods},
        # Each revision on its own: the old one's places are about to become free.
        "matchLabelKeys": ["pod-template-hash"],
    }
