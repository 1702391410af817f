"""The gateway Deployment: pods that offer the OpenAI-compatible API."""

from __future__ import annotations

from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan import pods
from flash_operator.plan.certificates import certificate_volume, ends_tls
from flash_operator.plan.metadata import Manifest
from flash_operator.plan.model_in_pods import model_in_pods
from flash_operator.plan.network import port_name
from flash_operator.plan.settings import PlanSettings
from flash_operator.shared_model import SharedModel

_API_KEYS_FILE: Final = names.FILE_API_KEYS.rpartition("/")[2]


def gateway_deployment(
    deployment: FlashDeployment,
    config_map: Manifest,
    settings: PlanSettings,
    *,
    replicas: int,
    shared: SharedModel | None = None,
) -> Manifest:
    """The pods that clients talk to."""
    gateway = deployment.spec.gateway
    model = model_in_pods(
        deployment, shared, image=settings.gateway_image, settings=settings, wanted=gateway.resources, text_only=True
    )
    secret_volumes, secret_mounts = _api_keys(deployment)
    tls_volumes, tls_mounts = certificate_volume(deployment, settings)
    port = port_name(deployment, settings)
    scheme = {"scheme": "HTTPS"} if ends_tls(deployment, settings) else {}
    container = {
        "name": "gateway",
        "image": settings.gateway_image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["flash-gateway"],
        "args": ["--config", names.FILE_GATEWAY_CONFIG, *_log_level(deployment)],
        "ports": [{"name": port, "containerPort": names.PORT_GATEWAY, "protocol": "TCP"}],
        # /readyz sends a request through an engine, so it can be slow under load: three misses in a row, with time to
        # answer, before a gateway leaves the Service. /livez knows only the process, so no engine can kill a gateway.
        "readinessProbe": {
            "httpGet": {"path": "/readyz", "port": port, **scheme},
            "periodSeconds": 5,
            "failureThreshold": 3,
            "timeoutSeconds": 10,
        },
        "livenessProbe": {
            "httpGet": {"path": "/livez", "port": port, **scheme},
            "initialDelaySeconds": 10,
            "periodSeconds": 10,
            "failureThreshold": 3,
            "timeoutSeconds": 5,
        },
        "volumeMounts": [
            pods.mount("config", names.DIR_CONFIG, read_only=True),
            model.mount,
            pods.mount("tmp", "/tmp"),
            *secret_mounts,
            *tls_mounts,
        ],
        "terminationMessagePolicy": pods.LAST_WORDS,
        "securityContext": pods.container_security(),
        **pods.unroute_first(settings),
        **pods.resources(gateway.resources),
    }
    return pods.deployment_of_pods(
        deployment,
        names.COMPONENT_GATEWAY,
        name=names.gateway_name(deployment.metadata.name),
        replicas=replicas,
        config_map=config_map,
        model=model,
        containers=[container],
        volumes=[
            pods.config_volume(config_map),
            model.volume,
            pods.scratch_volume("tmp"),
            *secret_volumes,
            *tls_volumes,
        ],
        # Gateways are small: there is room for a new one beside the old one wherever an engine fits.
        surge=1,
        settings=settings,
    )


def _log_level(deployment: FlashDeployment) -> list[str]:
    observability = deployment.spec.observability
    return [] if observability is None else ["--log-level", observability.log_level.lower()]


def _api_keys(deployment: FlashDeployment) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    ref = deployment.spec.gateway.auth.api_keys_secret_ref
    if ref is None:
        return [], []
    volume = {
        "name": "api-keys",
        "secret": {"secretName": ref.name, "items": [{"key": ref.key, "path": _API_KEYS_FILE}]},
    }
    return [volume], [pods.mount("api-keys", names.DIR_SECRETS, read_only=True)]
