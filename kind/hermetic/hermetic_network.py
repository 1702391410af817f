"""The addresses of one cluster, and the commands that wire them up. Pure: runs nothing.

    host ── link ── fabric (bridge) ── node 1 ── its pods
                                    └─ node 2 ── its pods

The fabric is a network namespace that routes between the host's link and the nodes. Nothing else is on the host: no
rule, no forwarding, one interface, which goes when the fabric goes.
"""

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass

FIRST_BLOCK = 200
BLOCKS = range(FIRST_BLOCK, FIRST_BLOCK + 16)
BRIDGE = "cluster"
UPLINK = "host"
"""The fabric's end of the link to the host."""
MAX_NODES = 9

Commands = tuple[str, ...]
"""Lines of an `ip -batch`."""


@dataclass(frozen=True)
class Network:
    """A cluster's addresses: 10.`block`.0.0/16, so that clusters side by side share none."""

    block: int

    @property
    def interface(self) -> str:
        """The host's end of the link; its name is free exactly where the block is."""
        return f"flashplane{self.block}"

    @property
    def cidr(self) -> str:
        return f"10.{self.block}.0.0/16"

    @property
    def host(self) -> str:
        """Where pods and nodes find the API server."""
        return f"10.{self.block}.1.1"

    @property
    def uplink(self) -> str:
        return f"10.{self.block}.1.2"

    @property
    def gateway(self) -> str:
        """The fabric, as nodes see it."""
        return f"10.{self.block}.0.1"

    @property
    def pods(self) -> str:
        return f"10.{self.block}.64.0/18"

    @property
    def services(self) -> str:
        return f"10.{self.block}.128.0/20"

    @property
    def kubernetes(self) -> str:
        """The Service `kubernetes`: by rule the first address."""
        return f"10.{self.block}.128.1"

    @property
    def dns(self) -> str:
        return f"10.{self.block}.128.10"

    def node(self, number: int) -> str:
        """The address of node `number`, from 1."""
        return f"10.{self.block}.0.{10 + number}"

    def pods_of(self, number: int) -> str:
        return f"10.{self.block}.{64 + number}.0/24"


def free_block(interfaces: Sequence[str], routes: Sequence[str]) -> Network | None:
    """The first network that no interface of the host is named after and no route of the host leads into."""
    taken = [ipaddress.ip_network(route, strict=False) for route in routes]
    for block in BLOCKS:
        network = Network(block)
        mine = ipaddress.ip_network(network.cidr)
        if network.interface not in interfaces and not any(
            route.version == 4 and route.prefixlen > 0 and route.overlaps(mine) for route in taken
        ):
            return network
    return None


def host_commands(network: Network, fabric: int) -> Commands:
    """On the host. The first one fails where another cluster took the block in between. `fabric` is a process in it."""
    return (
        f"link add {network.interface} type veth peer name {UPLINK} netns {fabric}",
        f"address add {network.host}/30 dev {network.interface}",
        f"link set {network.interface} up",
        f"route add {network.cidr} via {network.uplink} dev {network.interface}",
    )


def fabric_commands(network: Network) -> Commands:
    """In the fabric."""
    return (
        "link set lo up",
        f"address add {network.uplink}/30 dev {UPLINK}",
        f"link set {UPLINK} up",
        f"link add {BRIDGE} type bridge",
        f"address add {network.gateway}/24 dev {BRIDGE}",
        f"link set {BRIDGE} up",
        # Services are balanced by every node; who comes from the host is balanced by the first one.
        f"route add {network.services} via {network.node(1)}",
    )


def fabric_rules(network: Network, port: int) -> str:
    """nftables of the fabric: of the host, nodes and pods reach the API server and answers to what the host asked."""
    return f"""
table inet fabric {{
  chain forward {{
    type filter hook forward priority filter; policy accept;
    oifname "{UPLINK}" jump host
  }}
  chain host {{
    ct state established,related accept
    ip daddr {network.host} tcp dport {port} accept
    reject with icmpx type admin-prohibited
  }}
}}
"""


def joining_commands(network: Network, number: int, node: int) -> Commands:
    """In the fabric, to join node `number`; `node` is a process in it."""
    return (
        f"link add node{number} type veth peer name eth0 netns {node}",
        f"link set node{number} master {BRIDGE} up",
        f"route add {network.pods_of(number)} via {network.node(number)}",
    )


def node_commands(network: Network, number: int, count: int) -> Commands:
    """In node `number` of `count`."""
    others = [other for other in range(1, count + 1) if other != number]
    return (
        "link set lo up",
        f"address add {network.node(number)}/24 dev eth0",
        "link set eth0 up",
        # The fabric knows no way out: what is not of the cluster is unreachable at once.
        f"route add default via {network.gateway}",
        *(f"route add {network.pods_of(other)} via {network.node(other)}" for other in others),
    )
