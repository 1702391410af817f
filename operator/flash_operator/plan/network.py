"""The two Services: a headless one by which gateways find every engine, and the one that clients use, which a load
balancer of the cloud may stand before."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.endpoint import Endpoint, LoadBalancer
from flash_api.v1alpha1.flashdeployment import DraftMode, FlashDeployment
from flash_operator.plan.certificates import ends_tls
from flash_operator.plan.metadata import Manifest, owned_object, selector
from flash_operator.plan.settings import PlanSettings

_INTERNAL: Final = {
    "service.beta.kubernetes.io/aws-load-balancer-internal": "true",
    "service.beta.kubernetes.io/aws-load-balancer-scheme": "internal",
    "networking.gke.io/load-balancer-type": "Internal",
    "service.beta.kubernetes.io/azure-load-balancer-internal": "true",
    "service.beta.kubernetes.io/openstack-internal-load-balancer": "true",
}
"""By cloud; each reads its own and leaves the others alone."""
_EXTERNAL: Final = {"service.beta.kubernetes.io/aws-load-balancer-scheme": "internet-facing"}
"""The one cloud whose load balancers are internal unless told."""
_DNS_NAME: Final = "external-dns.alpha.kubernetes.io/hostname"
_INTERNAL_DNS_NAME: Final = "external-dns.alpha.kubernetes.io/internal-hostname"
"""Of the address that the Service has inside the cluster."""

_METRICS: Final = {
    "name": "metrics",
    "port": names.PORT_ENGINE_METRICS,
    "targetPort": names.PORT_ENGINE_METRICS,
    "protocol": "TCP",
}


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
                },
                *([_METRICS] if has_draft(deployment) else []),
            ],
        },
    )


def has_draft(deployment: FlashDeployment) -> bool:
    """Whether engines verify proposals, wherever they come from: gateways read then what that is worth."""
    return deployment.spec.draft is not None and deployment.spec.draft.mode is not DraftMode.OFF


def gateway_service(deployment: FlashDeployment, settings: PlanSettings) -> Manifest:
    """The endpoint."""
    endpoint = deployment.spec.endpoint
    balanced = settings.has_outside and endpoint.has_load_balancer
    return owned_object(
        deployment,
        names.COMPONENT_GATEWAY,
        api_version="v1",
        kind="Service",
        name=names.gateway_name(deployment.metadata.name),
        annotations=_annotations(endpoint, balanced=balanced),
        spec={
            **(_load_balancer(endpoint) if balanced else {"type": "ClusterIP"}),
            "selector": selector(deployment, names.COMPONENT_GATEWAY),
            "ports": [
                {
                    "name": port_name(deployment, settings),
                    "port": endpoint.port,
                    "targetPort": names.PORT_GATEWAY,
                    "protocol": "TCP",
                }
            ],
        },
    )


def port_name(deployment: FlashDeployment, settings: PlanSettings) -> str:
    """Of the gateway's port: what is spoken there, which service meshes and some load balancers go by."""
    return "https" if ends_tls(deployment, settings) else "http"


def blocks(cidrs: Sequence[str]) -> list[str]:
    """The same blocks, each once, as the networks that they name: host bits are meant leniently."""
    return sorted({str(ip_network(cidr, strict=False)) for cidr in cidrs})


def _load_balancer(endpoint: Endpoint) -> dict[str, Any]:
    wanted = endpoint.load_balancer or LoadBalancer()
    return {
        "type": "LoadBalancer",
        # Without a second hop the gateway, and its NetworkPolicy, see the address of the client.
        "externalTrafficPolicy": "Local",
        "allocateLoadBalancerNodePorts": wanted.allocate_node_ports,
        **({"loadBalancerClass": wanted.load_balancer_class} if wanted.load_balancer_class is not None else {}),
        **({"loadBalancerSourceRanges": blocks(endpoint.allowed_cidrs)} if endpoint.allowed_cidrs else {}),
    }


def _annotations(endpoint: Endpoint, *, balanced: bool) -> dict[str, str]:
    routed = endpoint.gateway_ref is not None or endpoint.ingress_class_name is not None
    key = _DNS_NAME if balanced else _INTERNAL_DNS_NAME
    # A route says its hostname itself, and leads elsewhere than to this Service.
    named = {} if endpoint.hostname is None or routed else {key: endpoint.hostname}
    if not balanced:
        return named
    internal = endpoint.load_balancer is not None and endpoint.load_balancer.internal
    return {**(_INTERNAL if internal else _EXTERNAL), **named}
