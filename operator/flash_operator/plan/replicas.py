"""How many pods of each component should run."""

from __future__ import annotations

from flash_api import names
from flash_api.v1alpha1.engine import Draft
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.rollout import RolloutStrategy


def replicas(deployment: FlashDeployment, *, engine_replicas: int | None = None) -> dict[str, int]:
    """By component; none while the deployment is suspended, whatever autoscaling decided."""
    spec = deployment.spec
    engines = spec.engine.fixed_replicas if engine_replicas is None else engine_replicas
    wanted = {names.COMPONENT_ENGINE: engines, names.COMPONENT_GATEWAY: spec.gateway.replicas}
    if spec.draft is not None and spec.draft.in_pods:
        wanted[names.COMPONENT_DRAFT] = drafts(spec.draft, engines)
    return dict.fromkeys(wanted, 0) if spec.suspend else wanted


def drafts(draft: Draft, engines: int) -> int:
    """Draft pods for so many engine pods: as many, or the number in the spec, and none where nobody would ask them."""
    return (engines if draft.replicas is None else draft.replicas) if engines else 0


def tries_revisions(deployment: FlashDeployment) -> bool:
    """Whether a new revision of the engines is tried on a share of the requests first."""
    rollout = deployment.spec.rollout
    return rollout is not None and rollout.strategy is RolloutStrategy.CANARY


def shares(replicas: int, percent: int) -> tuple[int, int]:
    """Pods of the stable revision and of the canary: each as many as its share of the requests asks for, so at most one
    more than wanted in all, and at least one of the canary while there are any."""
    return -(-replicas * (100 - percent) // 100), -(-replicas * percent // 100)
