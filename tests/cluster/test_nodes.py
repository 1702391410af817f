"""Nodes are real ones: pods run on them, find each other, are seen from outside, and reach nothing but the cluster."""

import urllib.request

from cluster import Cluster
from operator_process import Kubectl, eventually
from pods import a_pod, apply, dial, eventually_dials, run

HOSTNAME = "kubernetes.io/hostname"
REGION, ZONE = "topology.kubernetes.io/region", "topology.kubernetes.io/zone"


def a_service(name: str, **spec: object) -> dict[str, object]:
    ports = [{"port": 80, "targetPort": 8080}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": name}, "ports": ports, **spec},
    }


def test_each_node_has_a_region_and_a_zone(cluster: Cluster) -> None:
    nodes = cluster.get("/api/v1/nodes")["items"]
    places = {node["metadata"]["name"]: node["metadata"]["labels"] for node in nodes}
    assert {name: (labels[REGION], labels[ZONE]) for name, labels in places.items()} == {
        "eu-1": ("eu", "eu-a"),
        "us-1": ("us", "us-a"),
        "jp-1": ("jp", "jp-a"),
    }


def test_pods_of_all_nodes_find_each_other_by_name_and_address(cluster: Cluster, kubectl: Kubectl) -> None:
    apply(kubectl, a_service("web"), a_service("all", clusterIP="None", selector={"kind": "client"}))
    clients = [a_pod(f"on-{node}", labels={"kind": "client"}, node=node) for node in cluster.nodes]
    addresses = run(kubectl, a_pod("web", node="us-1"), *clients)
    everybody = [f"{address}:8080" for address in addresses.values()]
    names = [f"web.{kubectl.namespace}.svc.cluster.local:80", "web:80", "kubernetes.default:443", "all:8080"]
    for node in cluster.nodes:
        eventually_dials(kubectl, f"on-{node}", [*everybody, *names], ["open"] * (len(everybody) + len(names)))
    assert dial(kubectl, "on-eu-1", "nobody:80", f"{addresses['web']}:81") == ["unknown", "refused"]
    assert kubectl("exec", "on-jp-1", "--", "/bin/pod", "get", "http://web/").strip() == "web"
    # Also from the host, where an operator may run: pods, and Services by address.
    service = kubectl.get("service", "web")["spec"]["clusterIP"]
    for url in (f"http://{service}/", f"http://{addresses['web']}:8080/"):
        with urllib.request.urlopen(url, timeout=10) as answer:
            assert answer.read().decode().strip() == "web"


def test_what_a_pod_says_can_be_read_and_it_can_be_entered(kubectl: Kubectl) -> None:
    run(kubectl, a_pod("speaker"))
    assert kubectl("logs", "speaker").strip() == "speaker serves [8080]"
    assert kubectl("exec", "speaker", "--", "/bin/pod", "dial", "127.0.0.1:8080").strip() == "open"


def test_pods_reach_nothing_of_the_machine_but_the_api_server(cluster: Cluster, kubectl: Kubectl) -> None:
    run(kubectl, a_pod("curious"))
    host, api = cluster.network.host, cluster.control_plane.port
    elsewhere = "203.0.113.1:443"  # an address that documentation may use, so nobody's
    assert dial(kubectl, "curious", f"{host}:{api}", f"{host}:22", elsewhere) == ["open", "rejected", "unreachable"]


def test_a_pod_that_takes_too_much_memory_is_ended_and_said_to_be(kubectl: Kubectl) -> None:
    pod = a_pod("greedy", "eat")
    pod["spec"]["restartPolicy"] = "Never"
    pod["spec"]["containers"][0]["resources"] = {"limits": {"memory": "32Mi"}}
    apply(kubectl, pod)

    def reason() -> str:
        statuses = kubectl.get("pod", "greedy")["status"].get("containerStatuses", [])
        return "".join(status["state"].get("terminated", {}).get("reason", "") for status in statuses)

    assert eventually("it has ended", reason) == "OOMKilled"
