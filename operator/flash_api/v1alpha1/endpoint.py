"""Where clients reach a deployment: from which side, under which name, by which kind of door."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, StringConstraints

from flash_api.rules import Rule
from flash_api.v1alpha1.base import (
    DNS_SUBDOMAIN_PATTERN,
    HOSTNAME_PATTERN,
    LABEL_KEY_PATTERN,
    LIST_AS_SET,
    ApiModel,
    Cidr,
    LabelName,
    ObjectName,
    each_once,
)


class Visibility(StrEnum):
    """Who may reach the endpoint."""

    PRIVATE = "Private"
    CLUSTER = "Cluster"
    PUBLIC = "Public"


class IssuerKind(StrEnum):
    """The kinds of certificate issuer."""

    ISSUER = "Issuer"
    CLUSTER_ISSUER = "ClusterIssuer"


class IssuerRef(ApiModel):
    """A cert-manager issuer that makes the certificate."""

    name: ObjectName = Field(description="Name of the issuer. Example: letsencrypt.")
    kind: IssuerKind = Field(
        default=IssuerKind.ISSUER,
        description="Issuer = in the same namespace, ClusterIssuer = of the whole cluster. Example: ClusterIssuer.",
    )


class Tls(ApiModel):
    """The certificate that clients see."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        Rule(
            name="TlsHasOneCertificate",
            field="secretName",
            cel="has(self.secretName) != has(self.issuerRef)",
            holds=lambda self: (self.secret_name is None) != (self.issuer_ref is None),
            rule="must be set exactly when issuerRef is not",
            shows_value=False,
            remedy="name the Secret that holds the certificate, or the issuer that makes one, and not both",
        ),
    )

    secret_name: ObjectName | None = Field(
        default=None,
        description="Secret of type kubernetes.io/tls in the same namespace with the certificate. Example: chat-tls.",
    )
    issuer_ref: IssuerRef | None = Field(
        default=None, description="cert-manager issuer that makes and renews the certificate for hostname."
    )


class GatewayRef(ApiModel):
    """A Gateway of the Gateway API to which an HTTPRoute is attached."""

    name: ObjectName = Field(description="Name of the Gateway. Example: edge.")
    namespace: LabelName | None = Field(
        default=None, description="Namespace of the Gateway; unset = the deployment's own. Example: gateways."
    )
    section_name: Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN_PATTERN, min_length=1, max_length=253)] | (
        None
    ) = Field(default=None, description="Listener of the Gateway; unset = every one that fits. Example: https.")


class LoadBalancer(ApiModel):
    """A load balancer of the cloud in front of the gateway Service."""

    load_balancer_class: (
        Annotated[str, StringConstraints(pattern=LABEL_KEY_PATTERN, min_length=1, max_length=253)] | None
    ) = Field(
        default=None,
        alias="class",
        description="Class of load balancer; unset = the cluster's default. Example: service.k8s.aws/nlb.",
    )
    internal: bool = Field(
        default=False,
        description="Whether only the cloud's private network reaches it: the Service then carries the annotations "
        "that AWS, Google Cloud, Azure and OpenStack read. Example: true.",
    )
    allocate_node_ports: bool = Field(
        default=True,
        description="Whether every node opens a port for it; false where the load balancer sends to pods itself, as "
        "MetalLB and Cilium do. Example: false.",
    )


_DOORS = ("gatewayRef", "ingressClassName", "loadBalancer")

_BALANCED = "{0}.visibility == 'Public' && !has({0}.gatewayRef) && !has({0}.ingressClassName)"
_CLASS = "(has({0}.loadBalancer) && has({0}.loadBalancer.class) ? {0}.loadBalancer.class : '')"


def _only_public(field: str, attribute: str, what: str) -> Rule:
    return Rule(
        name=f"Only{what}ForPublic",
        field=field,
        cel=f"!has(self.{field}) || self.visibility == 'Public'",
        holds=lambda self: getattr(self, attribute) is None or self.visibility is Visibility.PUBLIC,
        rule="must be unset when visibility is {self.visibility}",
        shows_value=False,
        remedy=f"remove {field}, or make the endpoint Public",
    )


class Endpoint(ApiModel):
    """Where clients reach the deployment."""

    cel_rules: ClassVar[tuple[Rule, ...]] = (
        _only_public("allowedCIDRs", "allowed_cidrs", "Addresses"),
        _only_public("gatewayRef", "gateway_ref", "Gateways"),
        _only_public("ingressClassName", "ingress_class_name", "Ingresses"),
        _only_public("loadBalancer", "load_balancer", "LoadBalancers"),
        Rule(
            name="NamespacesAreAllowedOnlyWhenPrivate",
            field="allowedNamespaces",
            cel="!has(self.allowedNamespaces) || self.visibility == 'Private'",
            holds=lambda self: self.allowed_namespaces is None or self.visibility is Visibility.PRIVATE,
            rule="must be unset when visibility is {self.visibility}, which every namespace may reach",
            shows_value=False,
            remedy="remove allowedNamespaces, or make the endpoint Private",
        ),
        Rule(
            name="EndpointHasOneDoor",
            field="visibility",
            cel="[has(self.gatewayRef), has(self.ingressClassName), has(self.loadBalancer)].filter(x, x).size() <= 1",
            holds=lambda self: (
                sum(door is not None for door in (self.gateway_ref, self.ingress_class_name, self.load_balancer)) <= 1
            ),
            rule=f"must have at most one of {', '.join(_DOORS)} beside it",
            remedy="keep the one through which clients come",
        ),
        Rule(
            name="RoutesNeedAHostname",
            field="hostname",
            cel="has(self.hostname) || !(has(self.gatewayRef) || has(self.ingressClassName))",
            holds=lambda self: (
                self.hostname is not None or (self.gateway_ref is None and self.ingress_class_name is None)
            ),
            rule="must be set when gatewayRef or ingressClassName is",
            shows_value=False,
            remedy="write the DNS name that clients use, such as chat.example.com",
        ),
        Rule(
            name="CertificatesNeedAHostname",
            field="hostname",
            cel="has(self.hostname) || !has(self.tls) || !has(self.tls.issuerRef)",
            holds=lambda self: self.hostname is not None or self.tls is None or self.tls.issuer_ref is None,
            rule="must be set when tls.issuerRef is, because a certificate is made for a name",
            shows_value=False,
            remedy="write the DNS name that clients use, such as chat.example.com",
        ),
        Rule(
            name="GatewaysBringTheirCertificate",
            field="tls",
            cel="!has(self.tls) || !has(self.gatewayRef)",
            holds=lambda self: self.tls is None or self.gateway_ref is None,
            rule="must be unset when gatewayRef is set: the Gateway's listener holds the certificate",
            shows_value=False,
            remedy="remove tls and set it at the listener of the Gateway",
        ),
        Rule(
            name="PublicEndpointNeedsTls",
            field="tls",
            cel="self.visibility != 'Public' || has(self.tls) || has(self.gatewayRef)",
            holds=lambda self: (
                self.visibility is not Visibility.PUBLIC or self.tls is not None or self.gateway_ref is not None
            ),
            rule="must be set when visibility is {self.visibility}, unless gatewayRef names a Gateway",
            shows_value=False,
            remedy="name a certificate, so that keys and prompts never travel as plain text, or use Private or Cluster",
        ),
        Rule(
            name="AddressesAreLimitedAtALoadBalancer",
            field="allowedCIDRs",
            cel="!has(self.allowedCIDRs) || !(has(self.gatewayRef) || has(self.ingressClassName))",
            holds=lambda self: (
                self.allowed_cidrs is None or (self.gateway_ref is None and self.ingress_class_name is None)
            ),
            rule="must be unset when gatewayRef or ingressClassName is set: their pods are all that the gateway sees",
            shows_value=False,
            remedy="limit addresses at the Gateway or at the ingress controller, or come through a load balancer",
        ),
        Rule(
            name="LoadBalancerClassStays",
            field="loadBalancer",
            cel=f"!({_BALANCED.format('oldSelf')} && {_BALANCED.format('self')}) || "
            f"{_CLASS.format('oldSelf')} == {_CLASS.format('self')}",
            holds=lambda self, old: (
                not (self.has_load_balancer and old.has_load_balancer)
                or self.load_balancer_class == old.load_balancer_class
            ),
            rule="must keep its class: no Service may change it",
            shows_value=False,
            remedy="make the endpoint Private, wait until the load balancer is gone, and make it Public again",
            of_change=True,
        ),
    )

    visibility: Visibility = Field(
        default=Visibility.PRIVATE,
        description="Private: from the deployment's namespace and allowedNamespaces; Cluster: from every namespace; "
        "Public: from outside. Example: Private.",
    )
    port: int = Field(
        default=8080,
        ge=1,
        le=65535,
        description="TCP port of the gateway Service; in local mode the port on 127.0.0.1. Example: 8080.",
    )
    allowed_namespaces: Annotated[list[LabelName], Field(min_length=1, max_length=32), AfterValidator(each_once)] | (
        None
    ) = Field(
        default=None,
        json_schema_extra=LIST_AS_SET,
        description="Namespaces that may reach a Private endpoint beside its own. Example: [web, batch].",
    )
    allowed_cidrs: Annotated[list[Cidr], Field(min_length=1, max_length=32), AfterValidator(each_once)] | None = Field(
        default=None,
        alias="allowedCIDRs",
        json_schema_extra=LIST_AS_SET,
        description="Blocks of addresses that may reach a Public endpoint through its load balancer, kept by the load "
        "balancer (loadBalancerSourceRanges) and by the gateway's NetworkPolicy; unset = all. Pods of the cluster "
        "count by their addresses too. Example: [203.0.113.0/24].",
    )
    hostname: Annotated[str, StringConstraints(pattern=HOSTNAME_PATTERN, min_length=3, max_length=253)] | None = Field(
        default=None,
        description="DNS name under which clients reach the endpoint; external-dns finds it on the route or, as an "
        "annotation, on the gateway Service. Example: chat.example.com.",
    )
    tls: Tls | None = Field(
        default=None,
        description="The certificate that clients see; unset = plain HTTP. An Ingress shows it; without one the "
        "gateway pods do, and take a renewed one within seconds.",
    )
    gateway_ref: GatewayRef | None = Field(
        default=None, description="Gateway of the Gateway API through which clients come; an HTTPRoute is made for it."
    )
    ingress_class_name: ObjectName | None = Field(
        default=None, description="Ingress class through which clients come; an Ingress is made. Example: nginx."
    )
    load_balancer: LoadBalancer | None = Field(
        default=None,
        description="Load balancer of the cloud; also what a Public endpoint gets that names neither a Gateway nor an "
        "Ingress class.",
    )

    @property
    def has_load_balancer(self) -> bool:
        """Whether clients come through a load balancer of the cloud."""
        routed = self.gateway_ref is not None or self.ingress_class_name is not None
        return self.visibility is Visibility.PUBLIC and not routed

    @property
    def load_balancer_class(self) -> str | None:
        """Of the load balancer, if it has one."""
        return self.load_balancer.load_balancer_class if self.load_balancer is not None else None

    @property
    def ends_tls(self) -> bool:
        """Whether the gateway pods themselves speak TLS, because nothing before them does."""
        return self.tls is not None and self.ingress_class_name is None
