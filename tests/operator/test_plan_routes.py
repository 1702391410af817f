"""The door of a Public endpoint, and what tells Prometheus where to look."""

from typing import Any

import pytest
from builders import a_deployment

from flash_api.conditions import Reason
from flash_operator.checks import refusal
from flash_operator.plan import PlanSettings, optional_kinds, plan

KEYS = {"auth": {"apiKeysSecretRef": {"name": "keys"}}}
NAMED = {"visibility": "Public", "hostname": "chat.example.com"}
THROUGH_A_GATEWAY = {**NAMED, "gatewayRef": {"name": "edge", "namespace": "gateways", "sectionName": "https"}}
THROUGH_AN_INGRESS = {**NAMED, "ingressClassName": "nginx", "tls": {"secretName": "chat-tls"}}


def planned(kind: str, **spec: Any) -> dict[str, Any] | None:
    deployment = a_deployment(gateway=KEYS, **spec)
    objects = plan(deployment, PlanSettings(), served=optional_kinds(deployment)).objects
    return next((dict(o) for o in objects if o["kind"] == kind), None)


def test_a_route_leads_from_the_gateway_to_the_service() -> None:
    route = planned("HTTPRoute", endpoint={**THROUGH_A_GATEWAY, "port": 9000})
    assert route is not None
    assert route["spec"] == {
        "parentRefs": [THROUGH_A_GATEWAY["gatewayRef"]],
        "hostnames": ["chat.example.com"],
        "rules": [{"backendRefs": [{"name": "chat-gateway", "port": 9000}]}],
    }


def test_an_ingress_ends_tls_with_the_secret_of_the_spec() -> None:
    ingress = planned("Ingress", endpoint=THROUGH_AN_INGRESS)
    assert ingress is not None
    assert ingress["spec"]["tls"] == [{"hosts": ["chat.example.com"], "secretName": "chat-tls"}]
    assert ingress["spec"]["ingressClassName"] == "nginx"
    (rule,) = ingress["spec"]["rules"]
    assert rule["http"]["paths"][0]["backend"]["service"] == {"name": "chat-gateway", "port": {"number": 8080}}


@pytest.mark.parametrize(
    ("kind", "annotation"), [("Issuer", "cert-manager.io/issuer"), ("ClusterIssuer", "cert-manager.io/cluster-issuer")]
)
def test_an_issuer_is_asked_by_annotation_and_needs_its_kind(kind: str, annotation: str) -> None:
    endpoint = {**THROUGH_AN_INGRESS, "tls": {"issuerRef": {"name": "letsencrypt", "kind": kind}}}
    ingress = planned("Ingress", endpoint=endpoint)
    assert ingress is not None
    assert ingress["metadata"]["annotations"][annotation] == "letsencrypt"
    assert ingress["spec"]["tls"][0]["secretName"] == "chat-gateway-tls"
    wanted = optional_kinds(a_deployment(gateway=KEYS, endpoint=endpoint))
    assert ("cert-manager.io/v1", "Certificate") in wanted


@pytest.mark.parametrize("endpoint", [{}, {"visibility": "Cluster"}])
def test_what_is_not_public_has_no_door(endpoint: dict[str, Any]) -> None:
    assert planned("HTTPRoute", endpoint=endpoint) is None
    assert planned("Ingress", endpoint=endpoint) is None


@pytest.mark.parametrize(
    ("endpoint", "reason"),
    [
        (THROUGH_A_GATEWAY, None),
        (THROUGH_AN_INGRESS, None),
        ({**NAMED, "tls": {"secretName": "chat-tls"}}, None),
        ({"hostname": "chat.example.com"}, None),
        ({"tls": {"secretName": "chat-tls"}}, None),
    ],
)
def test_every_door_is_served(endpoint: dict[str, Any], reason: Reason | None) -> None:
    assert refusal(a_deployment(gateway=KEYS, endpoint=endpoint).spec) is reason


def test_a_monitor_looks_where_each_component_has_its_metrics() -> None:
    metrics = {"podMonitorLabels": {"release": "prometheus"}, "intervalSeconds": 30}
    monitor = planned("PodMonitor", observability={"metrics": metrics})
    assert monitor is not None
    assert monitor["metadata"]["labels"]["release"] == "prometheus"
    engine, gateway = monitor["spec"]["podMetricsEndpoints"]
    assert (engine["port"], gateway["port"], engine["interval"]) == ("metrics", "http", "30s")
    assert gateway["relabelings"][0]["regex"] == "gateway"


def test_labels_of_the_monitor_never_take_the_place_of_ours() -> None:
    labels = {"flashplane.dev/deployment": "other"}
    monitor = planned("PodMonitor", observability={"metrics": {"podMonitorLabels": labels}})
    assert monitor is not None
    assert monitor["metadata"]["labels"]["flashplane.dev/deployment"] == "chat"


@pytest.mark.parametrize("level", ["Debug", "Info", "Warning", "Error"])
def test_the_log_level_reaches_both_components(level: str) -> None:
    objects = plan(a_deployment(observability={"logLevel": level}), PlanSettings()).objects
    gateway = next(o for o in objects if o["metadata"]["name"] == "chat-gateway" and o["kind"] == "Deployment")
    assert gateway["spec"]["template"]["spec"]["containers"][0]["args"][-2:] == ["--log-level", level.lower()]
    engine = next(o for o in objects if o["kind"] == "ConfigMap")
    assert f'"log_level": "{level}"' in engine["data"]["engine.json"]
