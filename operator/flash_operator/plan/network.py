"""The two Services: a headless one by which gateways find every engine, and the one that clients use."""

from __future__ import annotations

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan.metadata import Manifest, owned_object, selector


def engine_service(deployment: FlashDeployment, component: str = names.COMPONENT_ENGINE) -> Manifest:
    """Headless: its name resolves to the address of each ready engine pod, and the gateway does the choosing."""
    return owned_object(
        deployment,
        component,
        api_version="v1",
        kind="Service",
        name=f"{deployment.metadata.name}-{component}",
        spec={
            "type": "ClusterIP",
            "clusterIP": "None",
            "selector": selector(deployment, component),
            "ports": [
                {
                    "name": "grpc",
                    "port": names.PORT_ENGINE_GRPC,
                    "targetPort": names.PORT_ENGINE_GRPC,
                    "protocol": "TCP",
                }
            ],
        },
    )


def gateway_service(deployment: FlashDeployment) -> Manifest:
    """The endpoint."""
    return owned_object(
        deployment,
        names.COMPONENT_GATEWAY,
        api_version="v1",
        kind="Service",
        name=names.gateway_name(deployment.metadata.name),
        spec={
            "type": "ClusterIP",
            "selector": selector(deployment, names.COMPONENT_GATEWAY),
            "ports": [
                {
                    "name": "http",
                    "port": deployment.spec.endpoint.port,
                    "targetPort": names.PORT_GATEWAY,
                    "protocol": "TCP",
                }
            ],
        },
    )
