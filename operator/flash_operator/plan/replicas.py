"""How many pods of each component should run."""

from __future__ import annotations

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment


def replicas(deployment: FlashDeployment, *, engine_replicas: int | None = None) -> dict[str, int]:
    """By component; none while the deployment is suspended, whatever autoscaling decided."""
    spec = deployment.spec
    engines = spec.engine.fixed_replicas if engine_replicas is None else engine_replicas
    wanted = {names.COMPONENT_ENGINE: engines, names.COMPONENT_GATEWAY: spec.gateway.replicas}
    return dict.fromkeys(wanted, 0) if spec.suspend else wanted
