"""What should exist, as pure functions from a FlashDeployment to manifests, one module per noun."""

from flash_operator.plan.deployment_plan import Plan, optional_kinds, plan
from flash_operator.plan.model_plan import model_plan
from flash_operator.plan.settings import PlanSettings

__all__ = ["Plan", "PlanSettings", "model_plan", "optional_kinds", "plan"]
