"""All objects of a deployment's draft pods, and the revision that pairs them with engine pods."""

from __future__ import annotations

from dataclasses import dataclass

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan.configs import draft_config_map, engine_config_map
from flash_operator.plan.draft import draft_deployment, draft_service
from flash_operator.plan.engine import engine_deployment
from flash_operator.plan.metadata import Manifest, content_hash
from flash_operator.plan.network_policies import draft_policy
from flash_operator.plan.service_accounts import service_account
from flash_operator.plan.settings import PlanSettings
from flash_operator.shared_model import SharedModel, resolved, resolved_draft


@dataclass(frozen=True)
class DraftPlan:
    """What draft pods need around them, and the pods themselves."""

    revision: str = ""
    """Empty = there are none."""
    surroundings: tuple[Manifest, ...] = ()
    pods: tuple[Manifest, ...] = ()


def draft_revision(deployment: FlashDeployment, settings: PlanSettings, shared: SharedModel | None = None) -> str:
    """Which engine pods and which draft pods belong together; empty where there are no draft pods.

    It is another one whenever engine pods are another revision, or the draft another model: each revision of engines
    has drafts of its own. More room for the drafts alone, or another number of them, restarts no engine.
    """
    draft = deployment.spec.draft
    if draft is None or not draft.in_pods or draft.model is None:
        return ""
    engines = engine_deployment(deployment, engine_config_map(deployment), settings, replicas=0, shared=shared)
    model = draft.model.model_dump(mode="json", exclude_none=True)
    return content_hash([engines["metadata"]["labels"][names.LABEL_REVISION], model, settings.engine_image])


def paired_revision(
    deployment: FlashDeployment, settings: PlanSettings, shared: SharedModel | None, shared_draft: SharedModel | None
) -> str:
    """The same of a deployment whose FlashModels are not put in yet."""
    deployment, shared = resolved(deployment, shared)
    deployment, _ = resolved_draft(deployment, shared_draft)
    return draft_revision(deployment, settings, shared)


def draft_plan(
    deployment: FlashDeployment,
    settings: PlanSettings,
    *,
    revision: str,
    replicas: int,
    shared: SharedModel | None = None,
) -> DraftPlan:
    """Everything of the draft pods. `shared` is the FlashModel that spec.draft.model names, None = they pull."""
    draft = deployment.spec.draft
    if not revision or draft is None:
        return DraftPlan()
    config = draft_config_map(deployment, draft, revision)
    return DraftPlan(
        revision,
        surroundings=(
            config,
            service_account(deployment, names.COMPONENT_DRAFT),
            draft_policy(deployment, draft, settings, revision),
            draft_service(deployment, revision),
        ),
        pods=(
            draft_deployment(deployment, draft, config, settings, revision=revision, replicas=replicas, shared=shared),
        ),
    )
