"""The whole plan of one FlashDeployment. Knows nothing of what exists already: the reconcile loop compares."""

from __future__ import annotations

from dataclasses import dataclass

from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan.configs import engine_config_map, gateway_config_map
from flash_operator.plan.engine import engine_deployment
from flash_operator.plan.gateway import gateway_deployment
from flash_operator.plan.metadata import Manifest
from flash_operator.plan.network import engine_service, gateway_service
from flash_operator.plan.settings import PlanSettings


@dataclass(frozen=True)
class Plan:
    """Every object that should exist, in the order in which to apply them: what is mounted or resolved comes first."""

    objects: tuple[Manifest, ...]


def plan(deployment: FlashDeployment, settings: PlanSettings, *, engine_replicas: int | None = None) -> Plan:
    """What should exist. Equal inputs give byte-equal plans.

    `engine_replicas` is what autoscaling decided; None = the number in the spec.
    """
    engine_config = engine_config_map(deployment, settings)
    gateway_config = gateway_config_map(deployment, settings)
    return Plan(
        objects=(
            engine_config,
            gateway_config,
            engine_service(deployment),
            gateway_service(deployment),
            engine_deployment(deployment, engine_config, settings, replicas=engine_replicas),
            gateway_deployment(deployment, gateway_config, settings),
        )
    )
