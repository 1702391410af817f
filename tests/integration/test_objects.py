"""Every object that a plan can hold, on the real API server: accepted as written, pods within the restricted profile,
and residency kept whoever makes the pods."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import a_deployment, a_manifest, a_model_manifest
from control_plane import ControlPlane
from hermetic_errors import KubectlFailed
from operator_process import Kubectl, eventually

from flash_api import names
from flash_operator.cluster.kubernetes import PLURALS
from flash_operator.plan import PlanSettings, plan

RESIDENCY_POLICY = Path(__file__).parents[2] / "charts" / "flashplane" / "files" / "residency-policy.yaml"
SETTINGS = PlanSettings(metrics_namespace="monitoring")
REGION = "topology.kubernetes.io/region"
SPECS: dict[str, dict[str, Any]] = {
    "the least": {},
    "several replicas": {"engine": {"replicas": 2}, "gateway": {"replicas": 3}},
    "suspended": {"suspend": True},
    "friends": {"endpoint": {"visibility": "Private", "allowedNamespaces": ["web", "batch"]}},
    "the whole cluster": {"endpoint": {"visibility": "Cluster", "port": 80}},
    "resident": {"residency": {"regions": ["eu-central-1", "eu-west-1"]}},
    "audited": {"residency": {"regions": ["eu-central-1"], "mode": "Audit"}},
    "rollout": {"rollout": {"surge": 0, "paused": True, "progressDeadlineSeconds": 60}},
    "long requests": {"gateway": {"limits": {"requestTimeoutSeconds": 86_400}}},
    "placed": {
        "placement": {
            "nodeSelector": {"disk": "ssd"},
            "tolerations": [{"operator": "Exists"}, {"key": "gpu", "value": "yes", "effect": "NoExecute"}],
            "priorityClassName": "system-cluster-critical",
            "topologySpread": [{"topologyKey": "rack", "maxSkew": 2, "whenUnsatisfiable": "DoNotSchedule"}],
        }
    },
    "through an Ingress": {
        "gateway": {"auth": {"apiKeysSecretRef": {"name": "keys"}}},
        "endpoint": {
            "visibility": "Public",
            "hostname": "chat.example.com",
            "ingressClassName": "nginx",
            "tls": {"issuerRef": {"name": "letsencrypt", "kind": "ClusterIssuer"}},
        },
    },
    "through a load balancer": {
        "gateway": {"auth": {"apiKeysSecretRef": {"name": "keys"}}},
        "endpoint": {
            "visibility": "Public",
            "port": 443,
            "hostname": "chat.example.com",
            "tls": {"secretName": "chat-tls"},
            "allowedCIDRs": ["203.0.113.0/24", "2001:db8::/32"],
            "loadBalancer": {"class": "service.k8s.aws/nlb", "internal": True, "allocateNodePorts": False},
        },
    },
    "loud": {"observability": {"logLevel": "Debug"}},
    "a remote model": {"model": {"source": "hf://allenai/OLMoE-1B-7B-0924", "revision": "main"}},
    "keys and resources": {
        "gateway": {"auth": {"apiKeysSecretRef": {"name": "keys"}}, "resources": {"cpu": "500m", "memory": "256Mi"}},
        "engine": {"resources": {"cpu": "2", "memory": "4Gi"}},
    },
}


def planned(namespace: str, **spec: Any) -> list[dict[str, Any]]:
    """Without owner: there is none that the garbage collector would find."""
    found = json.loads(json.dumps(plan(a_deployment(**spec), SETTINGS).objects))
    for manifest in found:
        manifest["metadata"]["namespace"] = namespace
        del manifest["metadata"]["ownerReferences"]
    return list(found)


def collection(manifest: dict[str, Any], namespace: str) -> str:
    version = manifest["apiVersion"]
    root = f"/api/{version}" if "/" not in version else f"/apis/{version}"
    return f"{root}/namespaces/{namespace}/{PLURALS[manifest['kind']]}"


def pods_of(objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The pods that the Deployments would become."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": o["metadata"]["name"], "labels": o["spec"]["template"]["metadata"]["labels"]},
            "spec": o["spec"]["template"]["spec"],
        }
        for o in objects
        if o["kind"] == "Deployment"
    ]


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_every_planned_object_is_accepted_and_stored_as_it_was_written(
    control_plane: ControlPlane, namespace: str, spec: dict[str, Any]
) -> None:
    for manifest in planned(namespace, **spec):
        path = f"{collection(manifest, namespace)}?dryRun=All&fieldValidation=Strict"
        answer = control_plane.api.request("POST", path, manifest)
        assert answer.status == 201, (manifest["kind"], answer.text)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS.keys())
def test_pods_are_admitted_where_the_restricted_profile_is_enforced(
    control_plane: ControlPlane, kubectl: Kubectl, spec: dict[str, Any]
) -> None:
    kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=restricted")
    objects = planned(kubectl.namespace, **spec)
    for manifest in objects:
        if manifest["kind"] == "ServiceAccount":
            assert control_plane.api.request("POST", collection(manifest, kubectl.namespace), manifest).status == 201
    for pod in pods_of(objects):
        path = f"{collection(pod, kubectl.namespace)}?dryRun=All&fieldValidation=Strict"
        answer = control_plane.api.request("POST", path, pod)
        assert answer.status == 201, answer.text


def test_a_pod_that_runs_as_root_is_refused_there(control_plane: ControlPlane, kubectl: Kubectl) -> None:
    kubectl("label", "namespace", kubectl.namespace, "pod-security.kubernetes.io/enforce=restricted")
    pod = a_pod("by-hand", {})
    answer = control_plane.api.request("POST", f"{collection(pod, kubectl.namespace)}?dryRun=All", pod)
    assert answer.status == 403


def a_pod(name: str, spec: dict[str, Any], deployment: str = "chat") -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {names.LABEL_DEPLOYMENT: deployment}},
        "spec": {"containers": [{"name": "c", "image": "i"}], **spec},
    }


def in_regions(*terms: list[dict[str, Any]]) -> dict[str, Any]:
    selector = {"nodeSelectorTerms": [{"matchExpressions": expressions} for expressions in terms]}
    return {"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": selector}}}


def region(*values: str, operator: str = "In") -> dict[str, Any]:
    return {"key": REGION, "operator": operator, **({"values": list(values)} if values else {})}


DISK = {"key": "disk", "operator": "In", "values": ["ssd"]}
OUTSIDE = {
    "unbound": {},
    "another region": {"nodeSelector": {REGION: "us-east-1"}},
    "another label": {"nodeSelector": {"disk": "ssd"}},
    "one region too many": in_regions([region("eu-west-1", "us-east-1")]),
    "a second term without regions": in_regions([region("eu-west-1")], [DISK]),
    "regions to avoid": in_regions([region("us-east-1", operator="NotIn")]),
    "any region": in_regions([region(operator="Exists")]),
    "a node by name": {"nodeName": "n1"},
}
INSIDE = {
    "selected": {"nodeSelector": {REGION: "eu-west-1"}},
    "bound": in_regions([region("eu-west-1", "eu-central-1")]),
    "bound twice": in_regions([region("eu-west-1"), DISK], [region("eu-central-1")]),
}


@pytest.fixture
def resident(control_plane: ControlPlane, kubectl: Kubectl) -> Kubectl:
    """A namespace with the resident FlashDeployment `chat` and its neighbour `free`, and the policy in force."""
    for name, spec in (("chat", {"residency": {"regions": ["eu-central-1", "eu-west-1"]}}), ("free", {})):
        manifest = {**a_manifest(name, **spec), "metadata": {"name": name}}
        kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))
    control_plane.kubectl("apply", "--server-side", "-f", str(RESIDENCY_POLICY))
    eventually("the policy is in force", lambda: refusal(control_plane, kubectl.namespace, a_pod("p", {})))
    return kubectl


def refusal(control_plane: ControlPlane, namespace: str, pod: dict[str, Any]) -> str:
    """What the API server says against a pod; empty when it takes it."""
    answer = control_plane.api.request("POST", f"{collection(pod, namespace)}?dryRun=All", pod)
    return "" if answer.status == 201 else str(answer.json()["message"])


def test_a_pod_by_hand_is_kept_in_the_regions(control_plane: ControlPlane, resident: Kubectl) -> None:
    for name, spec in OUTSIDE.items():
        said = refusal(control_plane, resident.namespace, a_pod("p", spec))
        assert "must be bound to its regions (eu-central-1, eu-west-1)" in said, name
    for name, spec in INSIDE.items():
        assert refusal(control_plane, resident.namespace, a_pod("p", spec)) == "", name
    for other in ("free", "of-no-deployment"):
        assert refusal(control_plane, resident.namespace, a_pod("p", {}, other)) == ""
    # The label cannot be put on afterwards either.
    resident("create", "-f", "-", stdin=json.dumps(a_pod("stray", {}, "free")))
    with pytest.raises(KubectlFailed, match="must be bound to its regions"):
        resident("label", "pod", "stray", "--overwrite", f"{names.LABEL_DEPLOYMENT}=chat")


def test_a_pod_that_pulls_a_model_by_hand_is_kept_in_the_regions_of_the_model(
    control_plane: ControlPlane, resident: Kubectl
) -> None:
    for name, spec in (("kept", {"residency": {"regions": ["eu-central-1", "eu-west-1"]}}), ("free", {})):
        manifest = {**a_model_manifest(name, **spec), "metadata": {"name": name}}
        resident("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))

    def said(spec: dict[str, Any], model: str = "kept") -> str:
        pod = a_pod("p", spec)
        pod["metadata"]["labels"] = {names.LABEL_MODEL: model}
        return refusal(control_plane, resident.namespace, pod)

    eventually("the policy is in force", lambda: said({}))
    for name, spec in OUTSIDE.items():
        assert "FlashModel kept must be bound to its regions (eu-central-1, eu-west-1)" in said(spec), name
    assert [said(spec) for spec in INSIDE.values()] == [""] * len(INSIDE)
    assert [said({}, other) for other in ("free", "of-no-model")] == ["", ""]


def test_the_pods_of_the_plan_are_in_the_regions(control_plane: ControlPlane, resident: Kubectl) -> None:
    objects = planned(resident.namespace, residency={"regions": ["eu-west-1", "eu-central-1"]})
    for manifest in objects:
        if manifest["kind"] == "ServiceAccount":
            control_plane.api.request("POST", collection(manifest, resident.namespace), manifest)
    assert [refusal(control_plane, resident.namespace, pod) for pod in pods_of(objects)] == ["", ""]
