"""The whole plan of one FlashDeployment. Knows nothing of what exists already: the reconcile loop compares."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan.autoscalers import AUTOSCALERS, autoscaler, autoscaler_kind, autoscaler_kinds
from flash_operator.plan.canary_objects import canary_surroundings
from flash_operator.plan.certificates import CERTIFICATE, certificate
from flash_operator.plan.configs import engine_config_map, gateway_config_map
from flash_operator.plan.disruption_budgets import disruption_budgets
from flash_operator.plan.draft_plan import draft_plan, draft_revision
from flash_operator.plan.engine import engine_deployment
from flash_operator.plan.gateway import gateway_deployment
from flash_operator.plan.metadata import Manifest
from flash_operator.plan.monitors import POD_MONITOR, pod_monitor, wants_monitor
from flash_operator.plan.network import engine_service, gateway_service
from flash_operator.plan.network_policies import engine_policy, gateway_policy
from flash_operator.plan.replicas import replicas, tries_revisions
from flash_operator.plan.routes import HTTP_ROUTE, Kind, asked_kinds, route
from flash_operator.plan.service_accounts import service_account
from flash_operator.plan.settings import PlanSettings
from flash_operator.shared_model import SharedModel, resolved, resolved_draft


@dataclass(frozen=True)
class Plan:
    """Every object that should exist, in the order in which to apply them: what is mounted, resolved or
    kept by comes before the pods."""

    objects: tuple[Manifest, ...]


def optional_kinds(deployment: FlashDeployment) -> tuple[Kind, ...]:
    """Kinds that would be of use and that not every place knows: those that were asked for, and a PodMonitor."""
    monitor = (POD_MONITOR,) if wants_monitor(deployment) else ()
    return (*asked_kinds(deployment), *autoscaler_kinds(deployment), *monitor)


def plan(
    deployment: FlashDeployment,
    settings: PlanSettings,
    *,
    engine_replicas: int | None = None,
    served: Collection[Kind] = (HTTP_ROUTE, CERTIFICATE, *AUTOSCALERS),
    shared: SharedModel | None = None,
    shared_draft: SharedModel | None = None,
) -> Plan:
    """What should exist. Equal inputs give byte-equal plans.

    `engine_replicas` is what autoscaling decided; None = the number in the spec.
    `served` are the optional kinds that the cluster knows; unless told, those of which it matters that they are made.
    `shared` is the FlashModel that the spec names, `shared_draft` that of its draft; None = one of which nothing but
    the name is known.
    """
    deployment, shared = resolved(deployment, shared)
    deployment, shared_draft = resolved_draft(deployment, shared_draft)
    revision = draft_revision(deployment, settings, shared)
    door = route(deployment)
    if door is not None and door["kind"] == HTTP_ROUTE[1] and HTTP_ROUTE not in served:
        door = None
    shown = certificate(deployment, settings) if CERTIFICATE in served else None
    scaler = autoscaler(deployment) if autoscaler_kind(deployment) in served else None
    engine_config, gateway_config = engine_config_map(deployment, revision), gateway_config_map(deployment, settings)
    wanted = replicas(deployment, engine_replicas=engine_replicas)
    drafts = draft_plan(
        deployment,
        settings,
        revision=revision,
        replicas=wanted.get(names.COMPONENT_DRAFT, 0),
        shared=shared_draft,
    )
    engines, gateways = wanted[names.COMPONENT_ENGINE], wanted[names.COMPONENT_GATEWAY]
    return Plan(
        objects=(
            engine_config,
            gateway_config,
            service_account(deployment, names.COMPONENT_ENGINE),
            service_account(deployment, names.COMPONENT_GATEWAY),
            *(canary_surroundings(deployment, settings) if tries_revisions(deployment) else ()),
            *drafts.surroundings,
            engine_policy(deployment, settings),
            gateway_policy(deployment, settings),
            engine_service(deployment),
            gateway_service(deployment, settings),
            *((door,) if door is not None else ()),
            *((shown,) if shown is not None else ()),
            *((pod_monitor(deployment, settings),) if wants_monitor(deployment) and POD_MONITOR in served else ()),
            *disruption_budgets(deployment, wanted),
            engine_deployment(
                deployment, engine_config, settings, replicas=engines, draft_revision=revision, shared=shared
            ),
            *drafts.pods,
            gateway_deployment(deployment, gateway_config, settings, replicas=gateways, shared=shared),
            *((scaler,) if scaler is not None else ()),
        )
    )
