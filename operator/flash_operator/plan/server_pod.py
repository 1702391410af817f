"""What pods that run tritonserver have in common: their container and its volumes. Knows no role and no replicas."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.resources import Resources
from flash_operator.plan import pods
from flash_operator.plan.metadata import Manifest
from flash_operator.plan.pods import ModelInPods
from flash_operator.plan.settings import PlanSettings
from flash_operator.plan.startup import START_PERIOD_SECONDS, start_failures
from flash_operator.shared_model import SharedModel

_READY: Final = {"httpGet": {"path": "/v2/health/ready", "port": "http"}}


def server_container(
    name: str,
    settings: PlanSettings,
    *,
    command: str,
    config_file: str,
    canary: Sequence[str] = (),
    models: Sequence[ModelInPods],
    shared: SharedModel | None,
    wanted: Resources,
) -> dict[str, Any]:
    """The server and its probes. `canary`: options of the request that proves life. `shared` tells the model's size."""
    return {
        "name": name,
        "image": settings.engine_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": [command],
        "args": ["--config", config_file],
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
                "command": [
                    *("python", "-m", "flash_runtime.backend.canary", *canary),
                    *("--http-port", str(names.PORT_ENGINE_HTTP)),
                ]
            },
            "periodSeconds": 20,
            "failureThreshold": 3,
            "timeoutSeconds": 15,
        },
        "volumeMounts": [
            pods.mount("config", names.DIR_CONFIG, read_only=True),
            *(model.mount for model in models),
            pods.mount("tmp", "/tmp"),
            pods.mount("shm", "/dev/shm"),
        ],
        "terminationMessagePolicy": pods.LAST_WORDS,
        "securityContext": pods.container_security(),
        **pods.unroute_first(settings),
        **pods.resources(wanted),
    }


def server_volumes(config_map: Manifest, model: ModelInPods) -> list[Mapping[str, Any]]:
    """What the container's mounts are of, without further models'."""
    return [
        pods.config_volume(config_map),
        model.volume,
        pods.scratch_volume("tmp"),
        # tritonserver talks to its Python stub through shared memory; the 64 MiB default is too small.
        pods.scratch_volume("shm", memory=True),
    ]
