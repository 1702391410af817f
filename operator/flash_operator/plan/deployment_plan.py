"""The whole plan of one FlashDeployment. Knows nothing of what exists already: the reconcile loop compares."""

from __future__ import annotations

from dataclasses import dataclass

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan.configs import engine_config_map, gateway_config_map
from flash_operator.plan.disruption_budgets import disruption_budgets
from flash_operator.plan.engine import engine_deployment
from flash_operator.plan.gateway import gateway_deployment
from flash_operator.plan.metadata import Manifest
from flash_operator.plan.network import engine_service, gateway_service
from flash_operator.plan.network_policies import engine_policy, gateway_policy
from flash_operator.plan.replicas import replicas
from flash_operator.plan.service_accounts import service_account
from flash_operator.plan.settings import PlanSettings


@dataclass(frozen=True)
class Plan:
    """Every object that should exist, in the order in which to apply them: what is mounted, resolved or
    kept by comes before the pods."""

    objects: tuple[Manifest, ...]


def plan(deployment: FlashDeployment, settings: PlanSettings) -> Plan:
    """What should exist. Equal inputs give byte-equal plans."""
    engine_config, gateway_config = engine_config_map(deployment), gateway_config_map(deployment)
    wanted = replicas(deployment)
    engines, gateways = wanted[names.COMPONENT_ENGINE], wanted[names.COMPONENT_GATEWAY]
    return Plan(
        objects=(
            engine_config,
            gateway_config,
            service_account(deployment, names.COMPONENT_ENGINE),
            service_account(deployment, names.COMPONENT_GATEWAY),
            engine_policy(deployment, settings),
            gateway_policy(deployment, settings),
            engine_service(deployment),
            gateway_service(deployment),
            *disruption_budgets(deployment, wanted),
            engine_deployment(deployment, engine_config, settings, replicas=engines),
            gateway_deployment(deployment, gateway_config, settings, replicas=gateways),
        )
    )
