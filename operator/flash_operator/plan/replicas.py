"""How many pods of each component should run."""

from __future__ import annotations

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment


def replicas(deployment: FlashDeployment) -> dict[str, int]:
    """By component; none while the deployment is suspended."""
    spec = deployment.spec
    wanted = {names.COMPONENT_ENGINE: spec.engine.fixed_replicas, names.COMPONENT_GATEWAY: spec.gateway.replicas}
    return dict.fromkeys(wanted, 0) if spec.suspend else wanted
