"""The engine Deployment: pods that pull the model and run it inside tritonserver."""

from __future__ import annotations

from typing import Final

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment, Rollout
from flash_operator.plan import pods
from flash_operator.plan.metadata import Manifest
from flash_operator.plan.settings import PlanSettings

START_PERIOD_SECONDS: Final = 5
START_FAILURES: Final = 360
"""Half an hour to map and warm up a model of whatever size: a probe that kills a slow load starts the same load again,
and a load that cannot end is told by the rollout's deadline."""

_READY: Final = {"httpGet": {"path": "/v2/health/ready", "port": "http"}}


def engine_deployment(
    deployment: FlashDeployment,
    config_map: Manifest,
    settings: PlanSettings,
    *,
    replicas: int,
    component: str = names.COMPONENT_ENGINE,
    revision: str = "",
) -> Manifest:
    """The pods that run the model: all of them, or those on trial."""
    canary = component == names.COMPONENT_CANARY
    engine = deployment.spec.engine
    drafts = [draft] if deployment.spec.draft and (draft := deployment.spec.draft.in_process) else []
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
            "failureThreshold": START_FAILURES,
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
            pods.mount("models", names.DIR_MODELS, read_only=True),
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
        init_containers=[
            pods.pull_container(
                deployment, image=settings.engine_image, settings=settings, wanted=engine.resources, text_only=False
            ),
            *(
                pods.pull_draft_container(
                    deployment, draft, image=settings.engine_image, settings=settings, wanted=engine.resources
                )
                for draft in drafts
            ),
        ],
        containers=[container],
        volumes=[
            pods.config_volume(config_map),
            pods.scratch_volume("models"),
            pods.scratch_volume("tmp"),
            # tritonserver talks to its Python stub through shared memory; the 64 MiB default is too small.
            pods.scratch_volume("shm", memory=True),
            *(volume for draft in drafts for volume in pods.draft_volumes(draft)),
        ],
        surge=(deployment.spec.rollout or Rollout()).surge,
        settings=settings,
        revision=revision,
        annotations={names.ANNOTATION_BASE_IMAGE: settings.engine_image_base},
    )
