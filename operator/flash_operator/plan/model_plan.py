"""The whole plan of one FlashModel. Knows nothing of what exists already, but for the size that its volume has."""

from __future__ import annotations

from flash_api import names
from flash_api.v1alpha1.flashmodel import FlashModel
from flash_operator.plan.deployment_plan import Plan
from flash_operator.plan.model_cache import model_cache
from flash_operator.plan.network_policies import pull_policy
from flash_operator.plan.pull_job import pull_jobs
from flash_operator.plan.service_accounts import service_account
from flash_operator.plan.settings import PlanSettings


def model_plan(model: FlashModel, settings: PlanSettings, *, at_least: str | None = None) -> Plan:
    """What should exist, in the order in which to apply it. Equal inputs give byte-equal plans.

    `at_least` is the size that the volume has now.
    """
    return Plan(
        objects=(
            service_account(model, names.COMPONENT_PULL),
            pull_policy(model, settings),
            model_cache(model, at_least=at_least),
            *pull_jobs(model, settings),
        )
    )
