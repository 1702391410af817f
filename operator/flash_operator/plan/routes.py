"""The door of a Public endpoint: an HTTPRoute at a Gateway, or an Ingress. Both end TLS before the gateway pods."""

from __future__ import annotations

from typing import Final

from flash_api import names
from flash_api.v1alpha1.endpoint import IssuerKind
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan.certificates import CERTIFICATE, secret_name
from flash_operator.plan.metadata import Manifest, owned_object

Kind = tuple[str, str]
"""API version and kind."""

HTTP_ROUTE: Final[Kind] = ("gateway.networking.k8s.io/v1", "HTTPRoute")

_ISSUER_ANNOTATIONS: Final = {
    IssuerKind.ISSUER: "cert-manager.io/issuer",
    IssuerKind.CLUSTER_ISSUER: "cert-manager.io/cluster-issuer",
}


def asked_kinds(deployment: FlashDeployment) -> tuple[Kind, ...]:
    """Kinds that the spec asks for and that not every cluster knows."""
    endpoint = deployment.spec.endpoint
    route = (HTTP_ROUTE,) if endpoint.gateway_ref is not None else ()
    # Of an Ingress, cert-manager makes the Certificate itself. Without that kind nobody would.
    certificate = (CERTIFICATE,) if endpoint.tls is not None and endpoint.tls.issuer_ref is not None else ()
    return (*route, *certificate)


def route(deployment: FlashDeployment) -> Manifest | None:
    """What leads from outside to the gateway Service, if something should."""
    endpoint = deployment.spec.endpoint
    if endpoint.gateway_ref is not None:
        return _http_route(deployment)
    return _ingress(deployment) if endpoint.ingress_class_name is not None else None


def _http_route(deployment: FlashDeployment) -> Manifest:
    endpoint, service = deployment.spec.endpoint, names.gateway_name(deployment.metadata.name)
    assert endpoint.gateway_ref is not None
    api_version, kind = HTTP_ROUTE
    return owned_object(
        deployment,
        names.COMPONENT_GATEWAY,
        api_version=api_version,
        kind=kind,
        name=service,
        spec={
            "parentRefs": [endpoint.gateway_ref.model_dump(mode="json", by_alias=True, exclude_none=True)],
            "hostnames": [endpoint.hostname],
            "rules": [{"backendRefs": [{"name": service, "port": endpoint.port}]}],
        },
    )


def _ingress(deployment: FlashDeployment) -> Manifest:
    endpoint, service = deployment.spec.endpoint, names.gateway_name(deployment.metadata.name)
    assert endpoint.tls is not None
    issuer = endpoint.tls.issuer_ref
    path = {
        "path": "/",
        "pathType": "Prefix",
        "backend": {"service": {"name": service, "port": {"number": endpoint.port}}},
    }
    return owned_object(
        deployment,
        names.COMPONENT_GATEWAY,
        api_version="networking.k8s.io/v1",
        kind="Ingress",
        name=service,
        annotations={_ISSUER_ANNOTATIONS[issuer.kind]: issuer.name} if issuer is not None else {},
        spec={
            "ingressClassName": endpoint.ingress_class_name,
            "rules": [{"host": endpoint.hostname, "http": {"paths": [path]}}],
            "tls": [{"hosts": [endpoint.hostname], "secretName": secret_name(deployment)}],
        },
    )
