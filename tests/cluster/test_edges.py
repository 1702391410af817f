"""Who may talk to whom is enforced: every edge of the design is open, and everything beside it is refused on the way.

A refusal here is `rejected`, which only somebody in between can say; nobody listening would be `refused`. Engines,
drafts and gateways are stand-ins that listen on every port of the real ones.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from builders import a_manifest
from cluster import Cluster
from cluster_plugin import fresh_namespace
from helm_plugin import NAMESPACE
from operator_on_nodes import MONITORING
from operator_process import Kubectl, OperatorProcess, eventually
from pods import a_pod, apply, dial, eventually_dials, run

from flash_api import names

GATEWAY, ENGINE, ENGINE_HTTP, ENGINE_METRICS = 8080, 8001, 8000, 8002
REGISTRY = 5000
LOCAL = {"source": "file:///opt/models/demo"}
"""In the image, so nothing has to be asked for it."""


@dataclass(frozen=True)
class Place:
    """A pod to talk from: its namespace and its name, and what it is called in a table."""

    kubectl: Kubectl
    pod: str


@dataclass(frozen=True)
class Served:
    """Deployments that serve: `local` has its model in the image, `remote` pulls from a registry in the cluster, and
    `paired` has draft pods."""

    kubectl: Kubectl
    places: Mapping[str, Place]
    addresses: Mapping[str, str]

    def dial(self, place: str, *targets: tuple[str, int]) -> list[str]:
        where = self.places[place]
        return dial(where.kubectl, where.pod, *(f"{self.addresses[who]}:{port}" for who, port in targets))


def pod_of(kubectl: Kubectl, deployment: str, component: str) -> dict[str, str]:
    """Name and address of its ready pod."""
    selector = f"{names.LABEL_DEPLOYMENT}={deployment},{names.LABEL_COMPONENT}={component}"

    def ready() -> dict[str, str] | None:
        for pod in kubectl.items("pods", "-l", selector):
            conditions = {c["type"]: c["status"] for c in pod["status"].get("conditions", [])}
            if conditions.get("Ready") == "True":
                return {"name": pod["metadata"]["name"], "address": pod["status"]["podIP"]}
        return None

    found = eventually(f"{component} of {deployment} is ready", ready)
    assert found is not None
    return found


@pytest.fixture(scope="module")
def served(installed: Cluster, operator: OperatorProcess) -> Iterator[Served]:
    with ExitStack() as stack:
        ours, friend, foreign, store = (
            stack.enter_context(fresh_namespace(installed, words)) for words in ("served", "friend", "foreign", "store")
        )
        monitoring, system = (Kubectl(installed.control_plane, name) for name in (MONITORING, NAMESPACE))
        endpoint = {"visibility": "Private", "allowedNamespaces": [friend.namespace]}
        remote = {"source": f"oci://registry.{store.namespace}.svc:{REGISTRY}/flash/demo:v1"}
        for manifest in (
            a_manifest("local", endpoint=endpoint, model=LOCAL),
            a_manifest("remote", endpoint=endpoint, model=remote),
            a_manifest("paired", endpoint=endpoint, model=LOCAL, draft={"mode": "Pods", "model": LOCAL}),
        ):
            manifest["metadata"]["namespace"] = ours.namespace
            apply(ours, manifest)
        clients = {
            "client": ours,
            "friend": friend,
            "foreigner": foreign,
            "prometheus": monitoring,
            "operator": system,
        }
        places, addresses = {}, {}
        for name, kubectl in clients.items():
            addresses[name] = run(kubectl, a_pod(name, "serve", "8080"))[name]
            places[name] = Place(kubectl, name)
        addresses["registry"] = run(store, a_pod("registry", "serve", str(REGISTRY), "8080"))["registry"]
        pairs = [(each, component) for each in ("local", "remote", "paired") for component in ("engine", "gateway")]
        for deployment, component in (*pairs, ("paired", "draft")):
            pod = pod_of(ours, deployment, component)
            addresses[f"{deployment} {component}"] = pod["address"]
            places[f"{deployment} {component}"] = Place(ours, pod["name"])
        addresses["dns"] = installed.network.dns
        addresses["api"] = installed.network.kubernetes
        yield Served(ours, places, addresses)
        for name in clients:
            clients[name]("delete", "pod", name, "--wait=false")


OPEN = [
    ("client", "local gateway", GATEWAY),
    ("friend", "local gateway", GATEWAY),
    ("operator", "local gateway", GATEWAY),
    ("prometheus", "local gateway", GATEWAY),
    ("prometheus", "local engine", ENGINE_METRICS),
    ("local gateway", "local engine", ENGINE),
    ("local gateway", "dns", 53),
    ("remote gateway", "remote engine", ENGINE),
    ("remote engine", "registry", REGISTRY),
    ("remote engine", "dns", 53),
    ("remote gateway", "registry", REGISTRY),
    ("remote gateway", "dns", 53),
    ("paired gateway", "paired engine", ENGINE),
    ("paired gateway", "paired engine", ENGINE_METRICS),
    ("paired engine", "paired draft", ENGINE),
    ("paired engine", "dns", 53),
    ("prometheus", "paired draft", ENGINE_METRICS),
]
CLOSED = [
    # Nobody of another namespace reaches a Private endpoint.
    ("foreigner", "local gateway", GATEWAY),
    # Only gateways, and only those of the same deployment, reach engines, and only by gRPC.
    *((who, "local engine", port) for who in ("client", "friend", "foreigner") for port in (ENGINE, ENGINE_HTTP)),
    ("operator", "local engine", ENGINE),
    ("prometheus", "local engine", ENGINE),
    ("prometheus", "local engine", ENGINE_HTTP),
    ("client", "local engine", ENGINE_METRICS),
    ("foreigner", "local engine", ENGINE_METRICS),
    ("remote gateway", "local engine", ENGINE),
    ("local gateway", "remote engine", ENGINE),
    ("local gateway", "local engine", ENGINE_HTTP),
    ("local gateway", "local engine", ENGINE_METRICS),
    ("remote engine", "local engine", ENGINE),
    # Only engines of the same deployment reach a draft, and only by gRPC.
    *(
        (who, "paired draft", ENGINE)
        for who in ("client", "friend", "foreigner", "operator", "prometheus", "paired gateway", "local engine")
    ),
    ("remote engine", "paired draft", ENGINE),
    ("paired engine", "paired draft", ENGINE_HTTP),
    ("paired engine", "paired draft", ENGINE_METRICS),
    ("client", "paired draft", ENGINE_METRICS),
    # Drafts ask nobody.
    *(("paired draft", who, ENGINE) for who in ("paired engine", "local engine")),
    *(("paired draft", who, GATEWAY) for who in ("paired gateway", "client", "foreigner")),
    ("paired draft", "dns", 53),
    ("paired draft", "api", 443),
    ("paired draft", "registry", REGISTRY),
    # Engines ask nobody but their drafts and the model's source.
    ("paired engine", "registry", REGISTRY),
    ("paired engine", "client", GATEWAY),
    ("paired engine", "api", 443),
    *(("local engine", who, GATEWAY) for who in ("local gateway", "client", "foreigner")),
    ("local engine", "dns", 53),
    ("local engine", "api", 443),
    ("local engine", "registry", REGISTRY),
    ("local engine", "remote engine", ENGINE),
    ("remote engine", "registry", GATEWAY),
    ("remote engine", "client", GATEWAY),
    ("remote engine", "api", 443),
    # Gateways ask engines, DNS and the source.
    ("local gateway", "client", GATEWAY),
    ("local gateway", "foreigner", GATEWAY),
    ("local gateway", "api", 443),
    ("local gateway", "registry", REGISTRY),
    ("local gateway", "remote gateway", GATEWAY),
    ("remote gateway", "registry", GATEWAY),
]


@pytest.mark.parametrize("place", sorted({edge[0] for edge in (*OPEN, *CLOSED)}))
def test_each_edge_is_as_the_design_says(served: Served, place: str) -> None:
    edges = [
        (who, port, wanted)
        for wanted, table in (("open", OPEN), ("rejected", CLOSED))
        for at, who, port in table
        if at == place
    ]
    seen = served.dial(place, *((who, port) for who, port, _ in edges))
    found = {(who, port): outcome for (who, port, _), outcome in zip(edges, seen, strict=True)}
    assert found == {(who, port): wanted for who, port, wanted in edges}


def test_the_service_leads_there_too_and_closes_alike(served: Served) -> None:
    service = served.kubectl.get("service", names.gateway_name("local"))
    address = f"{service['spec']['clusterIP']}:{service['spec']['ports'][0]['port']}"
    wanted = {"client": "open", "friend": "open", "operator": "open", "foreigner": "rejected"}
    seen = {who: dial(served.places[who].kubectl, who, address) for who in wanted}
    assert seen == {who: [outcome] for who, outcome in wanted.items()}


def test_who_is_named_a_friend_may_come_in_and_who_is_not_any_more_stays_out(served: Served) -> None:
    gateway = [f"{served.addresses['local gateway']}:{GATEWAY}"]
    foreigner, friend = served.places["foreigner"], served.places["friend"]

    def allow(*namespaces: str) -> None:
        endpoint = {"visibility": "Private", "allowedNamespaces": list(namespaces)}
        patch = json.dumps({"spec": {"endpoint": endpoint}})
        served.kubectl("patch", "fd", "local", "--type=merge", "-p", patch)

    try:
        allow(foreigner.kubectl.namespace)
        eventually_dials(foreigner.kubectl, foreigner.pod, gateway, ["open"])
        eventually_dials(friend.kubectl, friend.pod, gateway, ["rejected"])
    finally:
        allow(friend.kubectl.namespace)
    eventually_dials(foreigner.kubectl, foreigner.pod, gateway, ["rejected"])
    eventually_dials(friend.kubectl, friend.pod, gateway, ["open"])


def test_a_pod_that_wears_a_gateways_label_elsewhere_reaches_no_engine(served: Served) -> None:
    labels = {names.LABEL_DEPLOYMENT: "local", names.LABEL_COMPONENT: "gateway"}
    foreign = served.places["foreigner"].kubectl
    run(foreign, a_pod("disguised", labels=labels))
    assert dial(foreign, "disguised", f"{served.addresses['local engine']}:{ENGINE}") == ["rejected"]
