"""A Public endpoint behind a load balancer: its Service, its certificate, who is let in, and where clients find it."""

from typing import Any

import pytest
from builders import a_deployment

from flash_operator.doors import Door, door
from flash_operator.plan import PlanSettings, optional_kinds, plan

BALANCED: dict[str, Any] = {"visibility": "Public", "tls": {"secretName": "chat-tls"}, "port": 443}
ISSUED: dict[str, Any] = {**BALANCED, "hostname": "chat.example.com", "tls": {"issuerRef": {"name": "letsencrypt"}}}
HERE = PlanSettings(has_outside=False)


def planned(kind: str, name: str = "chat-gateway", *, settings: PlanSettings | None = None, **endpoint: Any) -> Any:
    deployment = a_deployment(gateway={"auth": {"apiKeysSecretRef": {"name": "keys"}}}, endpoint=endpoint)
    objects = plan(deployment, settings or PlanSettings(), served=optional_kinds(deployment)).objects
    return next((o for o in objects if (o["kind"], o["metadata"]["name"]) == (kind, name)), None)


def service(**endpoint: Any) -> Any:
    return planned("Service", **endpoint)


def test_a_public_endpoint_without_a_route_gets_a_load_balancer_that_keeps_client_addresses() -> None:
    spec = service(**BALANCED)["spec"]
    assert spec["type"] == "LoadBalancer"
    assert spec["externalTrafficPolicy"] == "Local"
    assert spec["allocateLoadBalancerNodePorts"] is True
    assert not {"loadBalancerClass", "loadBalancerSourceRanges"} & spec.keys()
    assert spec["ports"] == [{"name": "https", "port": 443, "targetPort": 8080, "protocol": "TCP"}]


@pytest.mark.parametrize("endpoint", [{}, {"visibility": "Cluster"}, {"tls": {"secretName": "chat-tls"}}])
def test_what_is_not_public_has_none(endpoint: dict[str, Any]) -> None:
    assert service(**endpoint)["spec"]["type"] == "ClusterIP"


def test_a_route_takes_the_place_of_the_load_balancer() -> None:
    through = {"visibility": "Public", "hostname": "chat.example.com"}
    for route in ({"gatewayRef": {"name": "edge"}}, {"ingressClassName": "nginx", "tls": {"secretName": "t"}}):
        found = service(**through, **route)
        assert found["spec"]["type"] == "ClusterIP"
        assert not any("external-dns" in key for key in found["metadata"]["annotations"])


def test_class_and_node_ports_are_as_the_spec_says() -> None:
    wanted = {"class": "service.k8s.aws/nlb", "allocateNodePorts": False}
    spec = service(**BALANCED, loadBalancer=wanted)["spec"]
    assert (spec["loadBalancerClass"], spec["allocateLoadBalancerNodePorts"]) == ("service.k8s.aws/nlb", False)


def test_each_cloud_is_told_from_where_the_load_balancer_is_reached() -> None:
    internal = service(**BALANCED, loadBalancer={"internal": True})["metadata"]["annotations"]
    assert internal["service.beta.kubernetes.io/aws-load-balancer-scheme"] == "internal"
    assert internal["networking.gke.io/load-balancer-type"] == "Internal"
    assert internal["service.beta.kubernetes.io/azure-load-balancer-internal"] == "true"
    external = service(**BALANCED)["metadata"]["annotations"]
    assert external["service.beta.kubernetes.io/aws-load-balancer-scheme"] == "internet-facing"
    assert not any("internal" in key for key in external)


def test_the_hostname_is_told_to_external_dns() -> None:
    key = "external-dns.alpha.kubernetes.io/hostname"
    assert service(**BALANCED, hostname="chat.example.com")["metadata"]["annotations"][key] == "chat.example.com"
    inside = service(hostname="chat.corp.example.com")["metadata"]["annotations"]
    assert inside["external-dns.alpha.kubernetes.io/internal-hostname"] == "chat.corp.example.com"
    assert key not in inside


def test_allowed_addresses_are_kept_at_the_load_balancer_and_at_the_pods() -> None:
    cidrs = ["203.0.113.7/24", "2001:db8::/32", "203.0.113.0/24"]
    expected = ["2001:db8::/32", "203.0.113.0/24"]
    assert service(**BALANCED, allowedCIDRs=cidrs)["spec"]["loadBalancerSourceRanges"] == expected
    clients, *others = planned("NetworkPolicy", "chat-gateway", **BALANCED, allowedCIDRs=cidrs)["spec"]["ingress"]
    assert clients["from"] == [{"ipBlock": {"cidr": cidr}} for cidr in expected]
    # The operator's own requests prove that the endpoint answers.
    assert [rule["from"][0]["namespaceSelector"]["matchLabels"] for rule in others] == [
        {"kubernetes.io/metadata.name": "flashplane-system"}
    ]


def test_gateway_pods_show_the_certificate_and_are_asked_by_tls() -> None:
    pod = planned("Deployment", **BALANCED)["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "https", "scheme": "HTTPS"}
    assert container["livenessProbe"]["httpGet"] == {"path": "/livez", "port": "https", "scheme": "HTTPS"}
    (mount,) = (m for m in container["volumeMounts"] if m["name"] == "tls")
    assert (mount["readOnly"], "subPath" in mount) == (True, False)
    (volume,) = (v for v in pod["volumes"] if v["name"] == "tls")
    assert volume["secret"]["secretName"] == "chat-tls"


def test_an_issuer_is_asked_for_a_certificate_of_the_hostname() -> None:
    certificate = planned("Certificate", **ISSUED)
    assert certificate["spec"] == {
        "secretName": "chat-gateway-tls",
        "dnsNames": ["chat.example.com"],
        "issuerRef": {"group": "cert-manager.io", "kind": "Issuer", "name": "letsencrypt"},
    }
    pod = planned("Deployment", **ISSUED)["spec"]["template"]["spec"]
    assert next(v for v in pod["volumes"] if v["name"] == "tls")["secret"]["secretName"] == "chat-gateway-tls"


def test_an_ingress_and_a_secret_of_ones_own_need_no_certificate_of_ours() -> None:
    assert planned("Certificate", **BALANCED) is None
    assert planned("Certificate", **ISSUED, ingressClassName="nginx") is None


def test_monitoring_comes_by_tls_too() -> None:
    _, gateway = planned("PodMonitor", "chat", **BALANCED)["spec"]["podMetricsEndpoints"]
    assert (gateway["port"], gateway["scheme"]) == ("https", "https")


@pytest.mark.parametrize("endpoint", [BALANCED, ISSUED])
def test_where_nobody_comes_from_outside_there_is_neither(endpoint: dict[str, Any]) -> None:
    assert planned("Service", settings=HERE, **endpoint)["spec"]["type"] == "ClusterIP"
    assert planned("Certificate", settings=HERE, **endpoint) is None
    assert "tls" not in str(planned("Deployment", settings=HERE, **endpoint)["spec"]["template"])


INSIDE = "http://chat-gateway.default.svc:8080"


def way_in(endpoint: dict[str, Any], *children: dict[str, Any]) -> Door:
    return door(a_deployment(endpoint=endpoint), children, inside=INSIDE, outside=True)


def a_service(*ingress: dict[str, str]) -> dict[str, Any]:
    meta = {"name": "chat-gateway"}
    return {"kind": "Service", "metadata": meta, "status": {"loadBalancer": {"ingress": list(ingress)}}}


@pytest.mark.parametrize(
    ("endpoint", "ingress", "url"),
    [
        ({}, None, INSIDE),
        ({"hostname": "chat.corp.example.com"}, None, "http://chat.corp.example.com:8080"),
        ({"hostname": "c.example.com", "tls": {"secretName": "t"}, "port": 443}, None, "https://c.example.com"),
        ({**BALANCED}, {"ip": "203.0.113.9"}, "https://203.0.113.9"),
        ({**BALANCED, "port": 8443}, {"ip": "2001:db8::9"}, "https://[2001:db8::9]:8443"),
        ({**BALANCED}, {"hostname": "a1.elb.example.com"}, "https://a1.elb.example.com"),
        ({**ISSUED}, {"ip": "203.0.113.9"}, "https://chat.example.com"),
        ({**ISSUED, "ingressClassName": "nginx"}, None, "https://chat.example.com"),
    ],
)
def test_clients_are_told_the_name_or_the_address(
    endpoint: dict[str, Any], ingress: dict[str, str] | None, url: str
) -> None:
    found = way_in(endpoint, *([a_service(ingress)] if ingress else []))
    assert (found.url, found.unreached) == (url, None)


@pytest.mark.parametrize("children", [[], [a_service()], [{**a_service(), "status": {}}]])
def test_without_an_address_nobody_can_come(children: list[dict[str, Any]]) -> None:
    found = way_in(BALANCED, *children)
    assert found.url == ""
    assert found.unreached == "Service chat-gateway has no address from its load balancer yet."
    assert way_in(ISSUED, *children).url == "https://chat.example.com"


@pytest.mark.parametrize(
    ("status", "why"),
    [
        ({}, "cert-manager has said nothing yet"),
        ({"conditions": [{"type": "Ready", "status": "False", "message": "No such issuer"}]}, "No such issuer"),
    ],
)
def test_a_certificate_that_is_not_issued_is_told_with_its_own_words(status: dict[str, Any], why: str) -> None:
    certificate = {"kind": "Certificate", "metadata": {"name": "chat-gateway"}, "status": status}
    assert way_in(ISSUED, certificate).uncertified == f"Certificate chat-gateway is not issued: {why}"


def test_where_nobody_comes_from_outside_the_way_in_is_the_one_inside() -> None:
    assert door(a_deployment(endpoint=BALANCED), (), inside=INSIDE, outside=False) == Door(INSIDE)


def test_an_issued_certificate_keeps_nobody_waiting() -> None:
    status = {"conditions": [{"type": "Ready", "status": "True"}]}
    certificate = {"kind": "Certificate", "metadata": {"name": "chat-gateway"}, "status": status}
    assert way_in(ISSUED, certificate).uncertified is None
