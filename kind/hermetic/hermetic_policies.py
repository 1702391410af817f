"""NetworkPolicies as rules of nftables: what is to be enforced, as text. Pure; knows no API and no node.

A pod that a policy selects in a direction is closed in that direction but for what the policies that select it list.
All nodes get the same rules: a packet is judged where it leaves its node and where it arrives, and both agree. Traffic
between a node and its own pods is not forwarded, so no rule sees it: probes always arrive.
"""

import ipaddress
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

TABLE = "inet network-policies"
NAMESPACE_NAME = "kubernetes.io/metadata.name"
ENDED = ("Succeeded", "Failed")
PROTOCOLS = {"TCP": "tcp", "UDP": "udp", "SCTP": "sctp"}

Manifest = Mapping[str, Any]


@dataclass(frozen=True)
class Pod:
    """A pod that has an address of its own."""

    namespace: str
    name: str
    address: str
    labels: Mapping[str, str] = field(hash=False)
    named_ports: Mapping[tuple[str, str], int] = field(hash=False)
    """By name and protocol."""


@dataclass(frozen=True)
class Direction:
    """What differs between the two ways."""

    name: str
    policy_type: str
    rules: str
    peers: str
    own: str
    """Of a packet, the address of the pod that is protected."""
    other: str


INGRESS = Direction("ingress", "Ingress", "ingress", "from", "daddr", "saddr")
EGRESS = Direction("egress", "Egress", "egress", "to", "saddr", "daddr")


def ruleset(pods: Iterable[Manifest], namespaces: Iterable[Manifest], policies: Iterable[Manifest]) -> str:
    """A script for `nft -f` that replaces whatever was enforced before. Equal inputs in any order give equal text."""
    known = sorted(filter(None, map(_pod, pods)), key=lambda pod: (pod.namespace, pod.name))
    labels = {each["metadata"]["name"]: _namespace_labels(each) for each in namespaces}
    ordered = sorted(policies, key=lambda policy: (policy["metadata"]["namespace"], policy["metadata"]["name"]))
    chains: list[str] = []
    jumps: list[str] = []
    for direction in (EGRESS, INGRESS):
        selected = _selected(direction, known, ordered)
        groups = sorted(set(selected.values()))
        names = {group: f"{direction.name}-{number}" for number, group in enumerate(groups)}
        for group in groups:
            rules = [
                rule
                for index in group
                for rule in _rules(direction, ordered[index], _members(group, selected), known, labels)
            ]
            chains.append(_chain(names[group], [*dict.fromkeys(rules), "reject with icmpx type admin-prohibited"]))
        if selected:
            members = ", ".join(f"{pod.address} : jump {names[group]}" for pod, group in selected.items())
            jumps.append(f"ip {direction.own} vmap {{ {members} }}")
    hook = "type filter hook forward priority filter; policy accept;"
    base = _chain("forward", [hook, "ct state established,related accept", *jumps])
    body = "\n".join([*chains, base])
    # The first line makes sure that there is something to delete.
    return f"table {TABLE}\ndelete table {TABLE}\ntable {TABLE} {{\n{body}\n}}\n"


def _chain(name: str, lines: Sequence[str]) -> str:
    return "\n".join([f"  chain {name} {{", *(f"    {line}" for line in lines), "  }"])


def _pod(manifest: Manifest) -> Pod | None:
    spec, status, metadata = manifest.get("spec", {}), manifest.get("status", {}), manifest["metadata"]
    address = status.get("podIP")
    # A pod on its node's network is its node.
    if not address or spec.get("hostNetwork") or status.get("phase") in ENDED:
        return None
    ports = {
        (port["name"], port.get("protocol", "TCP")): port["containerPort"]
        for container in (*spec.get("initContainers", ()), *spec.get("containers", ()))
        for port in container.get("ports") or ()
        if port.get("name")
    }
    return Pod(metadata["namespace"], metadata["name"], address, metadata.get("labels") or {}, ports)


def _namespace_labels(namespace: Manifest) -> Mapping[str, str]:
    metadata = namespace["metadata"]
    return {**(metadata.get("labels") or {}), NAMESPACE_NAME: metadata["name"]}


def _selected(direction: Direction, pods: Sequence[Pod], policies: Sequence[Manifest]) -> dict[Pod, tuple[int, ...]]:
    """Which policies, by index, close each pod; a pod that none closes is left out."""
    found = {}
    for pod in pods:
        closing = tuple(
            index
            for index, policy in enumerate(policies)
            if policy["metadata"]["namespace"] == pod.namespace
            and direction.policy_type in policy_types(policy["spec"])
            and matches(policy["spec"].get("podSelector"), pod.labels)
        )
        if closing:
            found[pod] = closing
    return found


def policy_types(spec: Manifest) -> Sequence[str]:
    """The directions that a policy is about; what is left out follows from what is there."""
    given: Sequence[str] = spec.get("policyTypes") or ()
    return given or (["Ingress", "Egress"] if spec.get("egress") else ["Ingress"])


def _members(group: tuple[int, ...], selected: Mapping[Pod, tuple[int, ...]]) -> list[Pod]:
    return [pod for pod, its in selected.items() if its == group]


def _rules(
    direction: Direction,
    policy: Manifest,
    members: Sequence[Pod],
    pods: Sequence[Pod],
    namespaces: Mapping[str, Mapping[str, str]],
) -> Iterable[str]:
    """What one policy lets through to, or from, these members."""
    for rule in policy["spec"].get(direction.rules) or ():
        peers = rule.get(direction.peers)
        sources = [None] if not peers else [_peer(peer, policy, pods, namespaces) for peer in peers]
        for allowed in sources:
            if allowed is not None and not allowed.addresses:
                continue  # nobody matches at the moment
            who = "" if allowed is None else allowed.expression(direction)
            # Of an ingress rule a named port is the protected pods' own, of an egress rule that of the others.
            holders = members if direction is INGRESS else pods if allowed is None else allowed.pods
            for port in _ports(rule.get("ports"), holders):
                yield " ".join(filter(None, [who, port, "return"]))


@dataclass(frozen=True)
class _Peers:
    addresses: tuple[str, ...]
    excepted: tuple[str, ...] = ()
    pods: tuple[Pod, ...] = ()

    def expression(self, direction: Direction) -> str:
        among = f"ip {direction.other} {{ {', '.join(self.addresses)} }}"
        if not self.excepted:
            return among
        return f"{among} ip {direction.other} != {{ {', '.join(self.excepted)} }}"


def _peer(peer: Manifest, policy: Manifest, pods: Sequence[Pod], namespaces: Mapping[str, Mapping[str, str]]) -> _Peers:
    block = peer.get("ipBlock")
    if block:
        if ipaddress.ip_network(block["cidr"], strict=False).version != 4:
            return _Peers(())  # the cluster has no such addresses
        return _Peers((_cidr(block["cidr"]),), tuple(map(_cidr, block.get("except") or ())))
    among = peer.get("namespaceSelector")
    found = tuple(
        pod
        for pod in pods
        if (
            pod.namespace == policy["metadata"]["namespace"]
            if among is None
            else matches(among, namespaces.get(pod.namespace, {}))
        )
        and matches(peer.get("podSelector"), pod.labels)
    )
    return _Peers(tuple(pod.address for pod in found), pods=found)


def _cidr(block: str) -> str:
    network = ipaddress.ip_network(block, strict=False)
    # nft knows no interval for everything.
    return str(network) if network.prefixlen else "0.0.0.0-255.255.255.255"


def _ports(ports: Sequence[Manifest] | None, holders: Sequence[Pod]) -> list[str]:
    """Matches of the destination port; an empty one where every port is meant."""
    if not ports:
        return [""]
    found = []
    for port in ports:
        protocol, number = port.get("protocol", "TCP"), port.get("port")
        keyword = PROTOCOLS[protocol]
        if number is None:
            found.append(f"meta l4proto {keyword}")
        elif isinstance(number, str):
            numbers = sorted(
                {pod.named_ports[(number, protocol)] for pod in holders if (number, protocol) in pod.named_ports}
            )
            found += [f"{keyword} dport {each}" for each in numbers]
        elif "endPort" in port:
            found.append(f"{keyword} dport {number}-{port['endPort']}")
        else:
            found.append(f"{keyword} dport {number}")
    return found


def matches(selector: Manifest | None, labels: Mapping[str, str]) -> bool:
    """Whether a label selector selects these labels; none, or an empty one, selects all."""
    if not selector:
        return True
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        return False
    return all(_holds(expression, labels) for expression in selector.get("matchExpressions") or ())


def _holds(expression: Manifest, labels: Mapping[str, str]) -> bool:
    value = labels.get(expression["key"])
    match expression["operator"]:
        case "In":
            return value in expression["values"]
        case "NotIn":
            return value not in expression["values"]
        case "Exists":
            return value is not None
        case _:  # DoesNotExist: the API lets no other in
            return value is None
