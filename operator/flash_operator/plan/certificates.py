"""The certificate that the gateway pods show: where it comes from and where they find it."""

from __future__ import annotations

from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.plan import pods
from flash_operator.plan.metadata import Manifest, owned_object
from flash_operator.plan.settings import PlanSettings

CERTIFICATE: Final = ("cert-manager.io/v1", "Certificate")


def ends_tls(deployment: FlashDeployment, settings: PlanSettings) -> bool:
    """Whether the gateway pods speak TLS themselves."""
    return settings.has_outside and deployment.spec.endpoint.ends_tls


def secret_name(deployment: FlashDeployment) -> str:
    """The Secret with the certificate: the user's own, or the one that cert-manager fills."""
    tls = deployment.spec.endpoint.tls
    own = tls.secret_name if tls is not None else None
    return own or f"{names.gateway_name(deployment.metadata.name)}-tls"


def certificate(deployment: FlashDeployment, settings: PlanSettings) -> Manifest | None:
    """What asks cert-manager for one, where the gateway pods need it. For an Ingress, cert-manager makes its own."""
    endpoint = deployment.spec.endpoint
    if not ends_tls(deployment, settings) or endpoint.tls is None or endpoint.tls.issuer_ref is None:
        return None
    issuer, (api_version, kind) = endpoint.tls.issuer_ref, CERTIFICATE
    return owned_object(
        deployment,
        names.COMPONENT_GATEWAY,
        api_version=api_version,
        kind=kind,
        name=names.gateway_name(deployment.metadata.name),
        spec={
            "secretName": secret_name(deployment),
            "dnsNames": [endpoint.hostname],
            "issuerRef": {"group": "cert-manager.io", "kind": str(issuer.kind), "name": issuer.name},
        },
    )


def certificate_volume(
    deployment: FlashDeployment, settings: PlanSettings
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Volumes and mounts. The kubelet renews the files when the Secret changes."""
    if not ends_tls(deployment, settings):
        return [], []
    files = [path.rpartition("/")[2] for path in (names.FILE_TLS_CERTIFICATE, names.FILE_TLS_KEY)]
    items = [{"key": file, "path": file} for file in files]
    volume = {"name": "tls", "secret": {"secretName": secret_name(deployment), "items": items}}
    return [volume], [pods.mount("tls", names.DIR_TLS, read_only=True)]
