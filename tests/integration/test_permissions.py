"""The operator's rights are exactly those that it uses: no call is refused, and no rule is for nothing."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from audit_plugin import Permission, recorded
from builders import a_deployment, a_manifest, a_model_manifest
from control_plane import ControlPlane
from external_metrics_plugin import ExternalMetricsApi
from hermetic_errors import KubectlFailed
from operator_process import Kubectl, OperatorProcess, eventually

from flash_api import names
from flash_api.v1alpha1.flashdeployment import REGION_LABEL
from flash_operator.cluster.kubernetes import OPTIONAL_KINDS, OWNED_KINDS, PLURALS
from flash_operator.difference import identity
from flash_operator.plan import PlanSettings, plan

REPOSITORY = Path(__file__).parents[2]
OPTIONAL = Path(__file__).parent / "manifests" / "optional-kinds.yaml"
FINALIZERS = {(names.GROUP, f"{plural}/finalizers", "update") for plural in (names.PLURAL, names.MODEL_PLURAL)}
"""Asked for by the admission of owner references, which leaves no trace in the audit log: proven by its own test."""


def granted(operator_rbac: Path) -> set[Permission]:
    rules = [
        rule
        for manifest in yaml.safe_load_all(operator_rbac.read_text())
        if manifest["kind"] in ("ClusterRole", "Role")
        for rule in manifest["rules"]
    ]
    return {
        (group, resource, verb)
        for rule in rules
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str, operator_rbac: Path) -> Kubectl:
    control_plane.kubectl("apply", "-f", str(operator_rbac))
    return Kubectl(control_plane, namespace)


@pytest.fixture
def optional_kinds(control_plane: ControlPlane) -> Iterator[None]:
    """A cluster that knows every kind that a plan may hold."""
    control_plane.kubectl("apply", "--server-side", "-f", str(OPTIONAL))
    for kind in (PLURALS[kind] for _, kind in OPTIONAL_KINDS):
        eventually(
            f"the API serves {kind}", lambda kind=kind: kind in control_plane.kubectl("api-resources", "--cached=false")
        )
    yield
    control_plane.kubectl("delete", "-f", str(OPTIONAL))


@pytest.fixture
def elsewhere(control_plane: ControlPlane) -> Iterator[str]:
    """A node in another region than the deployment's."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "elsewhere", "labels": {REGION_LABEL: "us"}}}
    control_plane.kubectl("create", "-f", "-", stdin=yaml.safe_dump(node))
    yield "elsewhere"
    control_plane.kubectl("delete", "node", "elsewhere")


KINDS = ",".join(PLURALS[kind] for _, kind in (*OWNED_KINDS, *OPTIONAL_KINDS))
NAMED = {"visibility": "Public", "hostname": "chat.example.com"}
SPECS: dict[str, dict[str, Any]] = {
    "quickstart": {
        "gateway": {"replicas": 2, "auth": {"apiKeysSecretRef": {"name": "keys"}}},
        "endpoint": {**NAMED, "ingressClassName": "nginx", "tls": {"secretName": "chat-tls"}},
        "residency": {"regions": ["eu"]},
    },
    "routed": {
        "engine": {"autoscaling": {"maxReplicas": 2, "provider": "HorizontalPodAutoscaler"}},
        "gateway": {"auth": {"apiKeysSecretRef": {"name": "keys"}}},
        "endpoint": {**NAMED, "gatewayRef": {"name": "edge"}},
    },
    "certified": {
        "engine": {"autoscaling": {"maxReplicas": 2, "provider": "KEDA"}},
        "endpoint": {"hostname": "chat.example.com", "tls": {"issuerRef": {"name": "letsencrypt"}}},
    },
}
"""Deployments that have between them one object of each kind that a plan can hold."""


def children(kubectl: Kubectl) -> list[dict[str, Any]]:
    return kubectl.items(KINDS, "-l", names.LABEL_DEPLOYMENT)


def test_the_rules_are_exactly_what_the_operator_uses(
    control_plane: ControlPlane,
    kubectl: Kubectl,
    tmp_path: Path,
    recorded_calls: set[Permission],
    optional_kinds: None,
    elsewhere: str,
    external_metrics: ExternalMetricsApi,
    operator_account: Path,
    operator_rbac: Path,
) -> None:
    planned = {
        identity(o)
        for name, spec in SPECS.items()
        for o in plan(a_deployment(name, **spec), PlanSettings(), served=(*OPTIONAL_KINDS, *OWNED_KINDS)).objects
    }
    log, told = tmp_path / "operator.log", external_metrics.options
    with OperatorProcess(operator_account, log, namespace=None, options=told) as operator:
        operator.wait_until_leading()
        for name, spec in SPECS.items():
            manifest = {**a_manifest(name, **spec), "metadata": {"name": name}}
            kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(manifest))
        eventually("all children", lambda: len(children(kubectl)) == len(planned))
        assert {child["kind"] for child in children(kubectl)} == {kind for _, kind in (*OWNED_KINDS, *OPTIONAL_KINDS)}
        eventually("gateways are looked for", lambda: scaling_message(kubectl) == "No gateway takes requests.")
        # A refusal is news, and news is an Event.
        refused = {**a_manifest(model={"source": "http://example.com/model.gguf"}), "metadata": {"name": "refused"}}
        kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(refused))
        eventually(
            "it is told", lambda: kubectl.items("events.events.k8s.io", "--field-selector", "reason=SourceNotServed")
        )
        # What no plan holds any more is deleted, whatever its kind.
        obsolete = obsolete_children(kubectl)
        for child in obsolete:
            kubectl("create", "-f", "-", stdin=yaml.safe_dump(child))
        make_rolled_out(kubectl)
        eventually("what is left over is gone", lambda: len(children(kubectl)) == len(planned))
        eventually("a HorizontalPodAutoscaler hears the number", lambda: hears(kubectl))
        stray = move_a_pod(kubectl, elsewhere)
        eventually("it is stopped", lambda: "deletionTimestamp" in (kubectl.get("pod", stray) or GONE)["metadata"])
        kubectl("delete", "pod", stray, "--force", "--ignore-not-found")
        pull_another_variant(kubectl)
        operator.stop()
    used = recorded(control_plane.audit_log)
    assert recorded_calls <= used
    assert used - granted(operator_rbac) == set()
    assert granted(operator_rbac) - used == FINALIZERS


def hears(kubectl: Kubectl) -> bool:
    found = kubectl.get("hpa", "routed-engine")
    conditions = {c["type"]: c["status"] for c in found.get("status", {}).get("conditions", ())}
    return conditions.get("ScalingActive") == "True"


def pull_another_variant(kubectl: Kubectl) -> None:
    """The Job of a variant that is not wanted any more goes; the one of the new variant takes its place."""

    def jobs() -> list[str]:
        return [job["metadata"]["name"].split("-")[2] for job in kubectl.items("jobs", "-l", names.LABEL_MODEL)]

    for variant in ("Lite", "Nano"):
        manifest = {**a_model_manifest(variants=[variant]), "metadata": {"name": "olmoe"}}
        kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(manifest))
        eventually(f"{variant} is pulled", lambda variant=variant: jobs() == [variant.lower()])


def scaling_message(kubectl: Kubectl) -> str:
    scaling = kubectl.get("fd", "routed").get("status", {}).get("scaling", {})
    return str(scaling.get("message", ""))


def obsolete_children(kubectl: Kubectl) -> list[dict[str, Any]]:
    """One object of each kind that a plan can hold, as an older release may have left it."""
    chosen = {child["kind"]: child for child in children(kubectl)}.values()
    left = []
    for child in chosen:
        meta = {k: child["metadata"][k] for k in ("labels", "namespace", "ownerReferences")}
        body = {k: v for k, v in child.items() if k not in ("metadata", "status")}
        if child["kind"] == "Service":
            body["spec"] = {k: v for k, v in child["spec"].items() if k not in ("clusterIP", "clusterIPs")}
        if child["kind"] == "Deployment":
            body["spec"]["replicas"] = 0
        left.append({**body, "metadata": {**meta, "name": f"quickstart-obsolete-{child['kind'].lower()}"}})
    return left


GONE = {"metadata": {"deletionTimestamp": ""}}


def move_a_pod(kubectl: Kubectl, node: str) -> str:
    """What no scheduler would do, and what a changed region label looks like. The name of the pod."""
    pods = kubectl.items("pods", "-l", f"{names.LABEL_DEPLOYMENT}=quickstart")
    name = str(pods[0]["metadata"]["name"])
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name},
        "target": {"apiVersion": "v1", "kind": "Node", "name": node},
    }
    path = f"/api/v1/namespaces/{kubectl.namespace}/pods/{name}/binding"
    kubectl("create", "--raw", path, "-f", "-", stdin=json.dumps(binding))
    return name


def make_rolled_out(kubectl: Kubectl) -> None:
    """Left-overs go when the pods of the plan are ready, and here no kubelet makes them so."""
    ready = '{"status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}'

    def all_pods() -> list[dict[str, Any]]:
        pods = kubectl.items("pods", "-l", names.LABEL_DEPLOYMENT)
        return pods if len(pods) >= 7 else []

    for pod in eventually("seven pods", all_pods):
        kubectl("patch", "pod", pod["metadata"]["name"], "--subresource=status", "--type=merge", "-p", ready)


def test_owner_references_that_block_deletion_need_the_finalizers_rule(
    control_plane: ControlPlane, kubectl: Kubectl, operator_account: Path, operator_rbac: Path
) -> None:
    kubectl("apply", "-f", str(REPOSITORY / "examples" / "quickstart.yaml"))
    owner = kubectl.get("fd", "quickstart")["metadata"]
    reference = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "name": owner["name"],
        "uid": owner["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    meta = {"name": "owned", "namespace": kubectl.namespace, "ownerReferences": [reference]}
    manifest = yaml.safe_dump({"apiVersion": "v1", "kind": "ConfigMap", "metadata": meta})
    apply = ("apply", "--server-side", "--validate=false", "--dry-run=server", "-f", "-")
    assert "owned" in control_plane.kubectl(*apply, stdin=manifest, kubeconfig=operator_account)
    role = "clusterrole/flashplane-operator"
    rules = yaml.safe_load(control_plane.kubectl("get", role, "-o", "yaml"))["rules"]
    kept = [rule for rule in rules if rule["resources"] != [resource for _, resource, _ in sorted(FINALIZERS)]]
    assert len(kept) == len(rules) - 1
    patch = yaml.safe_dump({"rules": kept})
    control_plane.kubectl("patch", role, "--type=merge", "-p", patch)
    try:
        eventually("it is refused", lambda: refused(control_plane, apply, manifest, operator_account))
    finally:
        control_plane.kubectl("apply", "-f", str(operator_rbac))


def refused(control_plane: ControlPlane, apply: tuple[str, ...], manifest: str, kubeconfig: Path) -> bool:
    try:
        control_plane.kubectl(*apply, stdin=manifest, kubeconfig=kubeconfig)
    except KubectlFailed as error:
        return "cannot set blockOwnerDeletion" in str(error)
    return False
