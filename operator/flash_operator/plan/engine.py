"""The engine Deployment: pods that pull the model and run it inside tritonserver."""

from __future__ import annotations

from dataclasses import replace

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment, Rollout
from flash_operator.plan import pods
from flash_operator.plan.metadata import Manifest
from flash_operator.plan.model_in_pods import draft_in_pods, model_in_pods
from flash_operator.plan.server_pod import server_container, server_volumes
from flash_operator.plan.settings import PlanSettings
from flash_operator.shared_model import SharedModel


def engine_deployment(
    deployment: FlashDeployment,
    config_map: Manifest,
    settings: PlanSettings,
    *,
    replicas: int,
    component: str = names.COMPONENT_ENGINE,
    revision: str = "",
    draft_revision: str = "",
    shared: SharedModel | None = None,
) -> Manifest:
    """The pods that run the model: all of them, or those on trial. `draft_revision` names their draft pods."""
    canary = component == names.COMPONENT_CANARY
    engine = deployment.spec.engine
    model = model_in_pods(
        deployment, shared, image=settings.engine_image, settings=settings, wanted=engine.resources, text_only=False
    )
    drafts = [draft] if (draft := draft_in_pods(deployment, settings)) is not None else []
    pulls = tuple(pull for each in (model, *drafts) for pull in each.init_containers)
    container = server_container(
        "engine",
        settings,
        command="flash-engine",
        config_file=names.FILE_ENGINE_CONFIG,
        models=(model, *drafts),
        shared=shared,
        wanted=engine.resources,
    )
    return pods.deployment_of_pods(
        deployment,
        component,
        name=(names.canary_name if canary else names.engine_name)(deployment.metadata.name),
        replicas=replicas,
        config_map=config_map,
        model=replace(model, init_containers=pulls),
        containers=[container],
        volumes=[
            *server_volumes(config_map, model),
            *(volume for draft in drafts for volume in (draft.volume, *draft.source_volumes)),
        ],
        surge=(deployment.spec.rollout or Rollout()).surge,
        settings=settings,
        revision=revision,
        extra_labels={names.LABEL_DRAFT_REVISION: draft_revision} if draft_revision else {},
        annotations={names.ANNOTATION_BASE_IMAGE: settings.engine_image_base},
    )
