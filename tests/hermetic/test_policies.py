"""What NetworkPolicies become as rules. No kernel: the rules are read, and packets are judged by a few lines here."""

import ipaddress
import random
import re
from collections.abc import Mapping
from typing import Any

import pytest
from hermetic_policies import matches, policy_types, ruleset

Manifest = dict[str, Any]


def a_pod(name: str, address: str | None, namespace: str = "ours", phase: str = "Running", **spec: Any) -> Manifest:
    return {
        "metadata": {"name": name, "namespace": namespace, "labels": {"app": name.split("-")[0]}},
        "spec": spec,
        "status": {"phase": phase, **({"podIP": address} if address else {})},
    }


def a_policy(name: str = "policy", app: str | None = "web", namespace: str = "ours", **spec: Any) -> Manifest:
    selector = {} if app is None else {"matchLabels": {"app": app}}
    return {"metadata": {"name": name, "namespace": namespace}, "spec": {"podSelector": selector, **spec}}


NAMESPACES = [{"metadata": {"name": name, "labels": {"team": name}}} for name in ("ours", "theirs")]
PODS = [
    a_pod("web", "10.0.0.1", containers=[{"ports": [{"name": "http", "containerPort": 8080}]}]),
    a_pod("client", "10.0.0.2"),
    a_pod("client", "10.0.1.2", "theirs"),
    a_pod("other", "10.0.0.3"),
]
WEB, CLIENT, STRANGER, OTHER = "10.0.0.1", "10.0.0.2", "10.0.1.2", "10.0.0.3"
OUTSIDE = "192.0.2.7"


def passes(rules: str, source: str, target: str, port: int, protocol: str = "tcp") -> bool:
    """Whether the first packet of a connection gets through; knows just the words that are used."""
    chains: dict[str, list[str]] = {}
    for line in rules.splitlines():
        if line.startswith("  chain "):
            current = chains.setdefault(line.split()[1], [])
        elif line.startswith("    "):
            current.append(line.strip())
    packet = {"saddr": source, "daddr": target}
    for line in chains["forward"]:
        if (jump := re.fullmatch(r"ip ([sd]addr) vmap \{ (.*) \}", line)) is None:
            continue
        verdicts = dict(entry.split(" : jump ") for entry in jump[2].split(", "))
        chain = verdicts.get(packet[jump[1]])
        if chain is not None and not returns(chains[chain], packet, port, protocol):
            return False
    return True


def returns(lines: list[str], packet: Mapping[str, str], port: int, protocol: str) -> bool:
    for line in lines:
        rest = line
        holds = True
        while found := re.match(r"ip ([sd]addr) (!= )?\{ (.*?) \} ?", rest):
            holds &= any(within(packet[found[1]], block) for block in found[3].split(", ")) != bool(found[2])
            rest = rest[found.end() :]
        if found := re.match(r"(tcp|udp|sctp) dport (\d+)(?:-(\d+))? ", rest):
            holds &= protocol == found[1] and int(found[2]) <= port <= int(found[3] or found[2])
            rest = rest[found.end() :]
        if found := re.match(r"meta l4proto (\w+) ", rest):
            holds &= protocol == found[1]
            rest = rest[found.end() :]
        if rest == "reject with icmpx type admin-prohibited":
            return False
        assert rest == "return", line
        if holds:
            return True
    raise AssertionError("a chain that decides nothing")


def within(address: str, block: str) -> bool:
    first, dash, last = block.partition("-")
    if dash:
        return ipaddress.ip_address(first) <= ipaddress.ip_address(address) <= ipaddress.ip_address(last)
    return ipaddress.ip_address(address) in ipaddress.ip_network(block)


def rules_of(*policies: Manifest, pods: list[Manifest] = PODS) -> str:
    return ruleset(pods, NAMESPACES, policies)


def test_without_policies_everything_passes() -> None:
    assert passes(rules_of(), STRANGER, WEB, 8080)


FROM_FRIENDS = {"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}
BY_NAMESPACE = {"from": [{"namespaceSelector": {"matchLabels": {"team": "theirs"}}}]}
BLOCK = {"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/29"]}}]}


@pytest.mark.parametrize(
    ("rules", "reached_by"),
    [
        ([], set()),
        ([{}], {CLIENT, STRANGER, OTHER, OUTSIDE}),
        ([FROM_FRIENDS], {CLIENT}),
        ([BY_NAMESPACE], {STRANGER}),
        ([FROM_FRIENDS, BY_NAMESPACE], {CLIENT, STRANGER}),
        ([{"from": [*FROM_FRIENDS["from"], *BY_NAMESPACE["from"]]}], {CLIENT, STRANGER}),
        ([{"from": [{**FROM_FRIENDS["from"][0], **BY_NAMESPACE["from"][0]}]}], {STRANGER}),
        ([{"from": [{"podSelector": {}}]}], {CLIENT, OTHER}),
        ([{"from": [{"namespaceSelector": {}}]}], {CLIENT, STRANGER, OTHER}),
        ([{"from": [{"podSelector": {"matchLabels": {"app": "nobody"}}}]}], set()),
        ([BLOCK], set()),
        ([{"from": [{"ipBlock": {"cidr": "192.0.2.0/24", "except": ["192.0.2.0/30"]}}]}], {OUTSIDE}),
        ([{"from": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}], {CLIENT, STRANGER, OTHER, OUTSIDE}),
        ([{"from": [{"ipBlock": {"cidr": "::/0"}}]}], set()),
    ],
)
def test_a_closed_pod_is_reached_by_those_that_rules_list(rules: list[Manifest], reached_by: set[str]) -> None:
    text = rules_of(a_policy(ingress=rules))
    assert {who for who in (CLIENT, STRANGER, OTHER, OUTSIDE) if passes(text, who, WEB, 8080)} == reached_by
    assert passes(text, WEB, OTHER, 1)  # the other way is open
    assert passes(text, STRANGER, OTHER, 8080)  # and so are pods that no policy selects


@pytest.mark.parametrize(
    ("port", "open_ports"),
    [
        ({"port": 8080}, {("tcp", 8080)}),
        ({"port": 53, "protocol": "UDP"}, {("udp", 53)}),
        ({"port": 8000, "endPort": 8080}, {("tcp", 8000), ("tcp", 8001), ("tcp", 8080)}),
        ({"protocol": "UDP"}, {("udp", 53), ("udp", 8080)}),
        ({"port": "http"}, {("tcp", 8080)}),
        ({"port": "http", "protocol": "UDP"}, set()),
    ],
)
def test_a_rule_opens_the_ports_that_it_names(port: Manifest, open_ports: set[tuple[str, int]]) -> None:
    tried = [("tcp", 53), ("udp", 53), ("tcp", 8000), ("tcp", 8001), ("tcp", 8080), ("udp", 8080)]
    text = rules_of(a_policy(ingress=[{"ports": [port]}]))
    assert {(kind, number) for kind, number in tried if passes(text, CLIENT, WEB, number, kind)} == open_ports


def test_a_pod_closed_to_the_outside_asks_only_whom_rules_list() -> None:
    to_web = {"to": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": "http"}]}
    text = rules_of(a_policy(app="client", policyTypes=["Egress"], egress=[to_web]))
    assert passes(text, CLIENT, WEB, 8080)
    assert not passes(text, CLIENT, WEB, 8081)
    assert not passes(text, CLIENT, OTHER, 8080)
    assert not passes(text, CLIENT, OUTSIDE, 443)
    assert passes(text, OTHER, CLIENT, 1)
    assert passes(text, STRANGER, OTHER, 1)  # a client of another namespace is not selected


def test_both_ends_must_agree() -> None:
    out = a_policy("out", "client", policyTypes=["Egress"], egress=[{"to": [{"podSelector": {}}]}])
    into = a_policy("into", "web", ingress=[])
    assert not passes(rules_of(out, into), CLIENT, WEB, 8080)
    assert passes(rules_of(out), CLIENT, WEB, 8080)
    assert passes(rules_of(out, into, a_policy("more", "web", ingress=[FROM_FRIENDS])), CLIENT, WEB, 8080)


def test_a_policy_of_another_namespace_says_nothing() -> None:
    assert passes(rules_of(a_policy(namespace="theirs", ingress=[])), CLIENT, WEB, 8080)


def test_an_empty_selector_closes_the_whole_namespace() -> None:
    text = rules_of(a_policy(app=None, policyTypes=["Ingress", "Egress"]))
    assert not any(passes(text, CLIENT, target, 8080) for target in (WEB, OTHER, STRANGER))
    assert not passes(text, STRANGER, WEB, 8080)


@pytest.mark.parametrize(
    "pod",
    [
        a_pod("client-2", None),
        a_pod("client-2", "10.0.0.9", phase="Succeeded"),
        a_pod("client-2", "10.0.0.9", phase="Failed"),
        a_pod("client-2", "10.0.0.9", hostNetwork=True),
    ],
    ids=["without an address", "done", "failed", "on its node's network"],
)
def test_an_address_that_is_no_pods_own_is_in_no_rule(pod: Manifest) -> None:
    policies = [a_policy(ingress=[FROM_FRIENDS]), a_policy("all", app=None, ingress=[{}])]
    assert rules_of(*policies, pods=[*PODS, pod]) == rules_of(*policies)


def test_the_order_in_which_things_are_told_does_not_matter() -> None:
    policies = [a_policy("a", ingress=[FROM_FRIENDS]), a_policy("b", app=None, egress=[{}]), a_policy("c", ingress=[])]
    shuffled = random.Random(7)
    wanted = rules_of(*policies)
    for _ in range(20):
        pods, given = PODS[:], policies[:]
        shuffled.shuffle(pods)
        shuffled.shuffle(given)
        assert rules_of(*given, pods=pods) == wanted


def test_the_rules_replace_what_was_there() -> None:
    table = "inet network-policies"
    assert rules_of().startswith(f"table {table}\ndelete table {table}\ntable {table} {{\n")


@pytest.mark.parametrize(
    ("spec", "types"),
    [
        ({}, ["Ingress"]),
        ({"ingress": [{}]}, ["Ingress"]),
        ({"egress": [{}]}, ["Ingress", "Egress"]),
        ({"policyTypes": ["Egress"]}, ["Egress"]),
    ],
)
def test_directions_that_are_left_out_follow_from_the_rules(spec: Manifest, types: list[str]) -> None:
    assert list(policy_types(spec)) == types


@pytest.mark.parametrize(
    ("expression", "selects"),
    [
        ({"key": "a", "operator": "In", "values": ["1", "2"]}, True),
        ({"key": "a", "operator": "In", "values": ["2"]}, False),
        ({"key": "b", "operator": "In", "values": ["1"]}, False),
        ({"key": "a", "operator": "NotIn", "values": ["1"]}, False),
        ({"key": "b", "operator": "NotIn", "values": ["1"]}, True),
        ({"key": "a", "operator": "Exists"}, True),
        ({"key": "b", "operator": "Exists"}, False),
        ({"key": "a", "operator": "DoesNotExist"}, False),
        ({"key": "b", "operator": "DoesNotExist"}, True),
    ],
)
def test_label_expressions(expression: Manifest, selects: bool) -> None:
    assert matches({"matchExpressions": [expression]}, {"a": "1"}) is selects
    assert matches({"matchExpressions": [expression], "matchLabels": {"a": "9"}}, {"a": "1"}) is False
