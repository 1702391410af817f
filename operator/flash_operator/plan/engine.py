"""The engine Deployment: pods that pull the model and run it inside tritonserver."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment, Rollout
from flash_operator.plan import pods
from flash_operator.plan.metadata import Manifest
from flash_operator.plan.model_in_pods import draft_in_pods, model_in_pods
from flash_operator.plan.settings import PlanSettings
from flash_operator.plan.startup import START_PERIOD_SECONDS, start_failures
from flash_operator.shared_model import SharedModel

_READY: Final = {"httpGet": {"path": "/v2/health/ready", "port": "http"}}


def engine_deployment(
    deployment: FlashDeployment,
    config_map: Manifest,
    settings: PlanSettings,
    *,
    replicas: int,
    component: str = names.COMPONENT_ENGINE,
    revision: str = "",
    shared: SharedModel | None = None,
) -> Manifest:
    """The pods that run the model: all of them, or those on trial."""
    canary = component == names.COMPONENT_CANARY
    engine = deployment.spec.engine
    model = model_in_pods(
        deployment, shared, image=settings.engine_image, settings=settings, wanted=engine.resources, text_only=False
    )
    drafts = [draft] if (draft := draft_in_pods(deployment, settings)) is not None else []
    pulls = tuple(pull for each in (model, *drafts) for pull in each.init_containers)
    container = {
        "name": "engine",
        "image": settings.engine_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["flash-engine"],
        "args": ["--config", names.FILE_ENGINE_CONFIG],
        "ports": [
            {"name": "http", "containerPort": names.PORT_ENGINE_HTTP, "protocol": "TCP"},
            {"name": "grpc", "containerPort": names.PORT_ENGINE_GRPC, "protocol": "TCP"},
            {"name": "metrics", "containerPort": names.PORT_ENGINE_METRICS, "protocol": "TCP"},
        ],
        "startupProbe": {
            **_READY,
            "periodSeconds": START_PERIOD_SECONDS,
            "failureThreshold": start_failures(shared.size_bytes if shared is not None else None),
            "timeoutSeconds": 2,
        },
        "readinessProbe": {**_READY, "periodSeconds": 5, "failureThreshold": 3, "timeoutSeconds": 2},
        # A dead Python stub leaves /v2/health at 200, so only a request that must answer proves life.
        "livenessProbe": {
            "exec": {
                "command": ["python", "-m", "flash_runtime.backend.canary", "--http-port", str(names.PORT_ENGINE_HTTP)]
            },
            "periodSeconds": 20,
            "failureThreshold": 3,
            "timeoutSeconds": 15,
        },
        "volumeMounts": [
            pods.mount("config", names.DIR_CONFIG, read_only=True),
            model.mount,
            *(draft.mount for draft in drafts),
            pods.mount("tmp", "/tmp"),
            pods.mount("shm", "/dev/shm"),
        ],
        "terminationMessagePolicy": pods.LAST_WORDS,
        "securityContext": pods.container_security(),
        **pods.unroute_first(settings),
        **pods.resources(engine.resources),
    }
    return pods.deployment_of_pods(
        deployment,
        component,
        name=(names.canary_name if canary else names.engine_name)(deployment.metadata.name),
        replicas=replicas,
        config_map=config_map,
        model=replace(model, init_containers=pulls),
        containers=[container],
        volumes=[
            pods.config_volume(config_map),
            model.volume,
            pods.scratch_volume("tmp"),
            # tritonserver talks to its Python stub through shared memory; the 64 MiB default is too small.
            pods.scratch_volume("shm", memory=True),
            *(volume for draft in drafts for volume in (draft.volume, *draft.source_volumes)),
        ],
        surge=(deployment.spec.rollout or Rollout()).surge,
        settings=settings,
        revision=revision,
        annotations={names.ANNOTATION_BASE_IMAGE: settings.engine_image_base},
    )
