"""A deployment stays in its regions: where pods land, what happens when a node moves or goes, and who is refused."""

import copy
import json
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from builders import a_manifest
from cluster import Cluster
from cluster_plugin import fresh_namespace
from control_plane import ControlPlane
from hermetic_api import Response
from hermetic_errors import KubectlFailed
from operator_process import Kubectl, OperatorProcess, eventually
from pods import a_pod, apply

from flash_api import names

REGION = "topology.kubernetes.io/region"
SAID_WITHIN_SECONDS = 30.0
"""How long a user may be told that a promise holds after it was broken."""

Spec = dict[str, Any]


def deploy(kubectl: Kubectl, name: str, *regions: str, **spec: Any) -> None:
    manifest = a_manifest(name, residency={"regions": list(regions)}, **spec)
    manifest["metadata"]["namespace"] = kubectl.namespace
    apply(kubectl, manifest)


def pods(kubectl: Kubectl, deployment: str) -> list[dict[str, Any]]:
    """Those that live. A kubelet that has not heard of its node's label yet refuses a pod, which stays as failed."""
    found = kubectl.items("pods", "-l", f"{names.LABEL_DEPLOYMENT}={deployment}")
    return [pod for pod in found if "deletionTimestamp" not in pod["metadata"] and pod["status"]["phase"] != "Failed"]


def nodes_of(kubectl: Kubectl, deployment: str) -> list[str]:
    """Where its pods run; nothing for one that waits."""
    return where(pods(kubectl, deployment))


def where(found: list[dict[str, Any]]) -> list[str]:
    return sorted(pod["spec"].get("nodeName", "") for pod in found)


def eventually_on(kubectl: Kubectl, **wanted: list[str]) -> None:
    """Each deployment's pods are on these nodes. Fails with what was seen last."""
    seen: dict[str, list[dict[str, Any]]] = {}

    def there() -> bool:
        seen.update({name: pods(kubectl, name) for name in wanted})
        return {name: where(found) for name, found in seen.items()} == wanted

    try:
        eventually(f"all are where they belong: {wanted}", there)
    except AssertionError as late:
        raise AssertionError(f"{late}; {json.dumps([told(pod) for found in seen.values() for pod in found])}") from None


def told(pod: dict[str, Any]) -> dict[str, Any]:
    """What says why a pod is where it is."""
    status = pod["status"]
    return {"name": pod["metadata"]["name"], "node": pod["spec"].get("nodeName"), **status}


def compliance(kubectl: Kubectl, deployment: str) -> dict[str, str]:
    conditions = (kubectl.get("fd", deployment).get("status") or {}).get("conditions", [])
    return next((c for c in conditions if c["type"] == "ResidencyCompliant"), {"status": "", "reason": ""})


def eventually_says(kubectl: Kubectl, deployment: str, status: str, reason: str) -> str:
    """The message, once the status is this."""

    def says() -> str:
        found = compliance(kubectl, deployment)
        return found["message"] if (found["status"], found["reason"]) == (status, reason) else ""

    return eventually(f"{deployment} says {status}, {reason}", says, seconds=SAID_WITHIN_SECONDS)


@contextmanager
def relabelled(control_plane: ControlPlane, node: str, region: str) -> Iterator[None]:
    was = json.loads(control_plane.kubectl("get", "node", node, "-o", "json"))["metadata"]["labels"][REGION]
    control_plane.kubectl("label", "--overwrite", "node", node, f"{REGION}={region}")
    try:
        yield
    finally:
        control_plane.kubectl("label", "--overwrite", "node", node, f"{REGION}={was}")


@pytest.fixture(scope="module")
def kubectl(installed: Cluster, operator: OperatorProcess) -> Iterator[Kubectl]:
    """In one namespace for all tests, in which `pinned` and others are deployed."""
    with fresh_namespace(installed, "regions") as made:
        deploy(made, "pinned", "eu", engine={"replicas": 2})
        deploy(made, "in-us", "us")
        deploy(made, "in-jp", "jp", draft={"mode": "Pods", "model": {"source": "builtin://smollm2-135m-instruct"}})
        eventually_says(made, "pinned", "True", "AllInRegion")
        yield made


def test_pods_land_where_the_deployment_is_promised_to_be(kubectl: Kubectl) -> None:
    wanted = {"pinned": ["eu-1"] * 3, "in-us": ["us-1"] * 2, "in-jp": ["jp-1"] * 3}
    eventually_on(kubectl, **wanted)
    for name in wanted:
        assert "All pods that have a node are in" in eventually_says(kubectl, name, "True", "AllInRegion")


def test_pods_leave_a_node_that_moved_away_and_wait_for_one_that_comes_back(
    installed: Cluster, kubectl: Kubectl
) -> None:
    with relabelled(installed.control_plane, "eu-1", "us"):
        message = eventually_says(kubectl, "pinned", "False", "RegionUnavailable")
        assert message == "No node is in eu; regions of the 3 nodes: jp, us."
        eventually("all wait", lambda: set(nodes_of(kubectl, "pinned")) == {""})
    eventually_on(kubectl, pinned=["eu-1"] * 3)
    eventually_says(kubectl, "pinned", "True", "AllInRegion")


def test_pods_wait_where_the_node_is_gone_and_no_other_region_gets_them(installed: Cluster, kubectl: Kubectl) -> None:
    installed.control_plane.kubectl("delete", "node", "eu-1")
    try:
        message = eventually_says(kubectl, "pinned", "False", "RegionUnavailable")
        assert message == "No node is in eu; regions of the 2 nodes: jp, us."
        scale(kubectl, "pinned", 3)
        # Those that ran stay bound to the node that nobody has, until the cluster collects them.
        eventually("the new one waits", lambda: "" in nodes_of(kubectl, "pinned"))
        assert set(nodes_of(kubectl, "pinned")) <= {"", "eu-1"}
    finally:
        installed.nodes["eu-1"].restart_kubelet()
    eventually_on(kubectl, pinned=["eu-1"] * 4)
    eventually_says(kubectl, "pinned", "True", "AllInRegion")


def scale(kubectl: Kubectl, name: str, replicas: int) -> None:
    patch = json.dumps({"spec": {"engine": {"replicas": replicas}}})
    kubectl("patch", "fd", name, "--type=merge", "-p", patch)


def required(*terms: Spec) -> Spec:
    return {
        "affinity": {
            "nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [*terms]}}
        }
    }


def region(operator: str, *values: str, key: str = REGION) -> Spec:
    """A requirement on a node's region, or on another label."""
    return {"key": key, "operator": operator, **({"values": list(values)} if values else {})}


def term(*requirements: Spec) -> Spec:
    return {"matchExpressions": list(requirements)}


IN_EU = term(region("In", "eu"))
OUTSIDE: dict[str, Spec] = {
    "no wish at all": {},
    "another region by selector": {"nodeSelector": {REGION: "us"}},
    "a region by the label of former days": {"nodeSelector": {"failure-domain.beta.kubernetes.io/region": "eu"}},
    "a zone": {"nodeSelector": {"topology.kubernetes.io/zone": "eu-a"}},
    "a node of the region by its name's label": {"nodeSelector": {"kubernetes.io/hostname": "eu-1"}},
    "a node by name": {"nodeName": "us-1"},
    "a node of the region by name": {"nodeName": "eu-1"},
    "the region in another case": {"nodeSelector": {REGION: "EU"}},
    "another region": required(term(region("In", "us"))),
    "one region too many": required(term(region("In", "eu", "us"))),
    "a second way out": required(IN_EU, term(region("In", "jp"))),
    "a second way without a region": required(IN_EU, term(region("In", "linux", key="kubernetes.io/os"))),
    "a second way by field": required(
        IN_EU, {"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["us-1"]}]}
    ),
    "only a field": required({"matchFields": [{"key": "metadata.name", "operator": "In", "values": ["eu-1"]}]}),
    "not another region": required(term(region("NotIn", "us"))),
    "any region": required(term(region("Exists"))),
    "no region": required(term(region("DoesNotExist"))),
    "a region by order": required(term(region("Gt", "1"))),
    "the region by another label": required(term(region("In", "eu", key="example.com/region"))),
    "a wish instead of a condition": {
        "affinity": {
            "nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 100, "preference": IN_EU}]}
        }
    },
    "near a pod of the region": {
        "affinity": {
            "podAffinity": {
                "requiredDuringSchedulingIgnoredDuringExecution": [
                    {"topologyKey": REGION, "labelSelector": {"matchLabels": {names.LABEL_DEPLOYMENT: "pinned"}}}
                ]
            }
        }
    },
    "spread over regions": {
        "topologySpreadConstraints": [{"topologyKey": REGION, "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}]
    },
}
INSIDE: dict[str, Spec] = {
    "by selector": {"nodeSelector": {REGION: "eu"}},
    "by affinity": required(IN_EU),
    "by affinity, with more conditions": required(term(region("In", "eu"), region("Exists", key="kubernetes.io/os"))),
    "by affinity, two ways in": required(
        IN_EU, term(region("In", "eu"), region("In", "eu-1", key="kubernetes.io/hostname"))
    ),
}


def by_hand(name: str, spec: Spec, deployment: str = "pinned") -> dict[str, Any]:
    return a_pod(name, labels={names.LABEL_DEPLOYMENT: deployment}, **copy.deepcopy(spec))


def post(cluster: Cluster, kubectl: Kubectl, pod: Spec) -> Response:
    return cluster.control_plane.api.request("POST", f"/api/v1/namespaces/{kubectl.namespace}/pods", pod)


@pytest.mark.parametrize("spec", OUTSIDE.values(), ids=OUTSIDE)
def test_a_pod_made_by_hand_is_refused_with(installed: Cluster, kubectl: Kubectl, spec: Spec) -> None:
    answer = post(installed, kubectl, by_hand("by-hand", spec))
    assert (answer.status, "must be bound to its regions (eu)" in answer.text) == (403, True), answer.text


@pytest.mark.parametrize("spec", INSIDE.values(), ids=INSIDE)
def test_a_pod_made_by_hand_is_let_in_and_lands_there(installed: Cluster, kubectl: Kubectl, spec: Spec) -> None:
    answer = post(installed, kubectl, by_hand(name := f"by-hand-{secrets.token_hex(3)}", spec))
    assert answer.status == 201, answer.text
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{name}"
    node = eventually("it has a node", lambda: installed.get(path)["spec"].get("nodeName"))
    installed.control_plane.api.request("DELETE", path)
    assert node == "eu-1"


def test_a_pod_of_elsewhere_cannot_take_the_label_later(kubectl: Kubectl) -> None:
    apply(kubectl, a_pod("elsewhere", node="us-1"))
    with pytest.raises(KubectlFailed, match="must be bound to its regions"):
        kubectl("label", "pod", "elsewhere", f"{names.LABEL_DEPLOYMENT}=pinned")
    kubectl("delete", "pod", "elsewhere", "--wait=false")


@pytest.mark.parametrize("kind", ["Deployment", "StatefulSet", "DaemonSet", "Job"])
def test_nor_does_another_controller_get_pods_outside(kubectl: Kubectl, kind: str) -> None:
    name = f"outside-by-{kind.lower()}"
    pod = by_hand(name, {"nodeSelector": {REGION: "us"}})
    template = {"metadata": {"labels": pod["metadata"]["labels"] | {"app": name}}, "spec": pod["spec"]}
    spec: Spec = {"template": template, "selector": {"matchLabels": {"app": name}}}
    if kind == "StatefulSet":
        spec["serviceName"] = name
    if kind == "Job":
        del spec["selector"]
        template["spec"]["restartPolicy"] = "Never"
    version = "batch/v1" if kind == "Job" else "apps/v1"
    apply(kubectl, {"apiVersion": version, "kind": kind, "metadata": {"name": name}, "spec": spec})

    def refused() -> bool:
        events = kubectl.items("events", "--field-selector=reason=FailedCreate")
        of_it = [event["message"] for event in events if event["involvedObject"]["name"].startswith(name)]
        return any("must be bound to its regions (eu)" in message for message in of_it)

    try:
        eventually(f"the {kind} is told", refused)
        assert kubectl.items("pods", "-l", f"app={name}") == []
    finally:
        kubectl("delete", kind, name, "--wait=false")


def test_pods_without_the_label_are_nobodys_business(kubectl: Kubectl) -> None:
    apply(kubectl, a_pod("free", node="jp-1"))
    kubectl("delete", "pod", "free", "--wait=false")
