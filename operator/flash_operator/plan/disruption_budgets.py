"""How many pods of a component a drain may take at once: one, of several.

With one replica there is no budget. `minAvailable: 1` would block the drain of its node for ever, and a budget that
allows one disruption forbids nothing. `maxUnavailable` rather than `minAvailable` keeps that true whatever the number
of replicas becomes, and pods that are not ready may always be evicted: they serve nobody, and to protect them would
let a broken deployment keep a node from being drained.
"""

from __future__ import annotations

from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan.metadata import Manifest, owned_object, selector


def disruption_budgets(deployment: FlashDeployment, replicas: dict[str, int]) -> tuple[Manifest, ...]:
    """One budget for each component that runs several replicas."""
    return tuple(_budget(deployment, component) for component, wanted in replicas.items() if wanted > 1)


def _budget(deployment: FlashDeployment, component: str) -> Manifest:
    return owned_object(
        deployment,
        component,
        api_version="policy/v1",
        kind="PodDisruptionBudget",
        name=f"{deployment.metadata.name}-{component}",
        spec={
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector(deployment, component)},
        },
    )
