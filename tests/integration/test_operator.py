"""The operator as a process under its own ServiceAccount, against a real API server and its real garbage collector."""

import json
from pathlib import Path
from typing import Any

import pytest
from builders import a_manifest
from control_plane import ControlPlane
from hermetic_errors import KubectlFailed
from operator_process import Kubectl, OperatorProcess, eventually

from flash_api.quantities import canonical
from flash_operator.cluster.kubernetes import OWNED_KINDS, PLURALS

REPOSITORY = Path(__file__).parents[2]
QUICKSTART = REPOSITORY / "examples" / "quickstart.yaml"
CHILDREN = ",".join(PLURALS[kind] for _, kind in OWNED_KINDS)
OWN = "flashplane.dev/deployment=quickstart"


def children(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    found = kubectl.items(CHILDREN, "-l", OWN)
    return {f"{child['kind']}/{child['metadata']['name']}": child for child in found}


def apply_quickstart(kubectl: Kubectl) -> dict[str, dict[str, Any]]:
    """Apply it and wait until the operator has said all that it can say without running pods."""
    kubectl("apply", "-f", str(QUICKSTART))
    eventually("the status says so", lambda: ready_reason(kubectl) == "EnginesStarting")
    return children(kubectl)


def ready_reason(kubectl: Kubectl) -> str:
    conditions = kubectl.get("fd", "quickstart").get("status", {}).get("conditions", [])
    return next((c["reason"] for c in conditions if c["type"] == "Ready"), "")


def versions(kubectl: Kubectl) -> dict[str, str]:
    found = [*children(kubectl).values(), kubectl.get("fd", "quickstart")]
    return {f"{child['kind']}/{child['metadata']['name']}": child["metadata"]["resourceVersion"] for child in found}


def test_an_applied_manifest_becomes_objects_that_it_owns(operator: OperatorProcess, kubectl: Kubectl) -> None:
    found = apply_quickstart(kubectl)
    kinds = ("ConfigMap", "Deployment", "NetworkPolicy", "Service", "ServiceAccount")
    assert sorted(name.rpartition("-")[0] if "ConfigMap" in name else name for name in found) == [
        f"{kind}/quickstart-{role}" for kind in kinds for role in ("engine", "gateway")
    ]
    uid = kubectl.get("fd", "quickstart")["metadata"]["uid"]
    for child in found.values():
        (owner,) = child["metadata"]["ownerReferences"]
        assert (owner["uid"], owner["controller"], owner["blockOwnerDeletion"]) == (uid, True, True)
        ours = {entry["operation"] for entry in child["metadata"]["managedFields"] if entry["manager"] == "flashplane"}
        assert ours == {"Apply"}


def test_kubectl_shows_what_matters(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply_quickstart(kubectl)
    header, row = kubectl("get", "fd").strip().splitlines()
    assert header.split() == ["NAME", "READY", "VARIANT", "MODEL", "REPLICAS", "TTFT", "ENDPOINT", "REGION", "AGE"]
    assert row.split()[:6] == [
        "quickstart",
        "False",
        "Lite",
        "builtin://smollm2-135m-instruct",
        "0/1",
        f"http://quickstart-gateway.{kubectl.namespace}.svc:8080/v1",
    ]
    assert "EnginesStarting" in kubectl("get", "fd", "-o", "wide")
    assert "quickstart" in kubectl("get", "flash")


def test_the_status_follows_kstatus(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply_quickstart(kubectl)
    found = kubectl.get("fd", "quickstart")
    conditions = {c["type"]: c["status"] for c in found["status"]["conditions"]}
    assert found["status"]["observedGeneration"] == found["metadata"]["generation"]
    assert (conditions["Ready"], conditions["Reconciling"], conditions["Stalled"]) == ("False", "True", "False")
    assert conditions["Accepted"] == "True"


def test_kubernetes_metadata_stays_clean(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply_quickstart(kubectl)
    meta = kubectl.get("fd", "quickstart")["metadata"]
    assert "finalizers" not in meta
    assert set(meta["annotations"]) == {"kubectl.kubernetes.io/last-applied-configuration"}


def test_a_changed_spec_is_followed(operator: OperatorProcess, kubectl: Kubectl) -> None:
    before = apply_quickstart(kubectl)
    change = '{"spec": {"engine": {"replicas": 3, "maxConcurrentRequests": 7}, "endpoint": {"port": 9000}}}'
    kubectl("patch", "fd", "quickstart", "--type=merge", "-p", change)
    eventually(
        "the engines are scaled", lambda: children(kubectl)["Deployment/quickstart-engine"]["spec"]["replicas"] == 3
    )
    service = eventually("the port", lambda: children(kubectl)["Service/quickstart-gateway"])

    def made() -> list[str]:
        return sorted(name.rpartition("-")[0] for name in children(kubectl).keys() - before.keys())

    eventually(
        "a new configuration", lambda: made() == ["ConfigMap/quickstart-engine", "PodDisruptionBudget/quickstart"]
    )
    assert service["spec"]["ports"][0]["port"] == 9000
    eventually("the status", lambda: kubectl.get("fd", "quickstart")["status"]["observedGeneration"] == 2)


def test_the_scale_subresource_scales_the_engines(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply_quickstart(kubectl)
    kubectl("scale", "fd", "quickstart", "--replicas=2")
    eventually("two engines wanted", lambda: children(kubectl)["Deployment/quickstart-engine"]["spec"]["replicas"] == 2)


@pytest.mark.parametrize("kind", ["deployment/quickstart-engine", "service/quickstart-gateway", "configmap"])
def test_a_deleted_child_comes_back(operator: OperatorProcess, kubectl: Kubectl, kind: str) -> None:
    before = apply_quickstart(kubectl)
    kubectl("delete", kind, *(["-l", OWN] if kind == "configmap" else []))
    eventually("all children are there again", lambda: children(kubectl).keys() == before.keys())


def test_drift_is_taken_back(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply_quickstart(kubectl)
    kubectl("scale", "deployment", "quickstart-engine", "--replicas=5")
    kubectl("label", "service", "quickstart-gateway", "app.kubernetes.io/component=mine", "--overwrite")
    eventually("one engine again", lambda: children(kubectl)["Deployment/quickstart-engine"]["spec"]["replicas"] == 1)
    label = "app.kubernetes.io/component"
    eventually(
        "our label again",
        lambda: children(kubectl)["Service/quickstart-gateway"]["metadata"]["labels"][label] == "gateway",
    )


def test_a_door_that_someone_opened_is_shut_again(operator: OperatorProcess, kubectl: Kubectl) -> None:
    before = apply_quickstart(kubectl)["NetworkPolicy/quickstart-engine"]["spec"]
    opened = '{"spec": {"egress": [{}], "ingress": [{}], "policyTypes": ["Ingress"]}}'
    kubectl("patch", "networkpolicy", "quickstart-engine", "--type=merge", "-p", opened)
    eventually("it is shut", lambda: children(kubectl)["NetworkPolicy/quickstart-engine"]["spec"] == before)


def test_a_node_in_no_allowed_region_is_told(operator: OperatorProcess, kubectl: Kubectl) -> None:
    manifest = {**a_manifest("resident", residency={"regions": ["nowhere"]}), "metadata": {"name": "resident"}}
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))

    def conditions() -> dict[str, tuple[str, str]]:
        found = kubectl.get("fd", "resident").get("status", {}).get("conditions", ())
        return {c["type"]: (c["status"], c["reason"]) for c in found}

    eventually("it is told", lambda: conditions().get("ResidencyCompliant") == ("False", "RegionUnavailable"))
    assert conditions()["Ready"] == ("False", "RegionUnavailable")


def test_what_others_add_to_a_child_stays(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply_quickstart(kubectl)
    kubectl("annotate", "service", "quickstart-gateway", "example.com/team=search")
    kubectl("delete", "deployment", "quickstart-gateway")
    eventually("the pass is over", lambda: "Deployment/quickstart-gateway" in children(kubectl))
    assert children(kubectl)["Service/quickstart-gateway"]["metadata"]["annotations"]["example.com/team"] == "search"


def test_deleting_the_object_removes_everything(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply_quickstart(kubectl)
    kubectl("delete", "fd", "quickstart")
    eventually("nothing is left", lambda: not children(kubectl))


def test_an_idle_deployment_is_not_written(operator: OperatorProcess, kubectl: Kubectl) -> None:
    resources = '"resources": {"cpu": "1000m", "memory": "1.5Gi"}'
    apply_quickstart(kubectl)
    kubectl("patch", "fd", "quickstart", "--type=merge", "-p", f'{{"spec": {{"engine": {{{resources}}}}}}}')
    eventually("the status", lambda: kubectl.get("fd", "quickstart")["status"].get("observedGeneration") == 2)
    before = eventually_still(operator, kubectl)
    writes = operator.metric("flashplane_api_writes_total")
    passes = operator.metric("flashplane_reconcile_passes_total")
    eventually("several passes", lambda: operator.metric("flashplane_reconcile_passes_total") >= passes + 3)
    assert versions(kubectl) == before
    assert operator.metric("flashplane_api_writes_total") == writes


def eventually_still(operator: OperatorProcess, kubectl: Kubectl) -> dict[str, str]:
    """Versions once the deployment controller has settled: the same before and after a pass."""

    def look() -> dict[str, str] | None:
        before, passes = versions(kubectl), operator.metric("flashplane_reconcile_passes_total")
        eventually("a pass", lambda: operator.metric("flashplane_reconcile_passes_total") > passes)
        return before if versions(kubectl) == before else None

    return eventually("nothing moves", look)


def test_a_killed_operator_is_replaced_without_harm(operator_account: Path, kubectl: Kubectl, tmp_path: Path) -> None:
    log = tmp_path / "operator.log"
    with OperatorProcess(operator_account, log, namespace=kubectl.namespace) as first:
        first.wait_until_leading()
        apply_quickstart(kubectl)
        eventually_still(first, kubectl)
        first.kill()
    before = versions(kubectl)
    with OperatorProcess(operator_account, log, namespace=kubectl.namespace) as second:
        second.wait_until_leading()
        eventually("it has looked", lambda: second.metric("flashplane_reconcile_passes_total") >= 1)
        assert versions(kubectl) == before
        kubectl("delete", "service", "quickstart-engine")
        eventually("the second one acts", lambda: "Service/quickstart-engine" in children(kubectl))


def test_only_the_holder_of_the_lease_acts(
    operator: OperatorProcess, operator_account: Path, kubectl: Kubectl, tmp_path: Path
) -> None:
    with OperatorProcess(operator_account, tmp_path / "standby.log", namespace=kubectl.namespace) as standby:
        eventually("the standby is alive", lambda: standby.page("/livez") == (200, "ok"))
        eventually("the standby waits", lambda: "waiting for the lease" in standby.log.read_text())
        apply_quickstart(kubectl)
        assert standby.metric("flashplane_leading") == 0
        assert standby.metric("flashplane_reconcile_passes_total") == 0
        assert operator.stop() == 0
        standby.wait_until_leading()
        kubectl("delete", "service", "quickstart-engine")
        eventually("the standby acts now", lambda: "Service/quickstart-engine" in children(kubectl))


def test_an_operator_that_loses_its_lease_ends(
    operator: OperatorProcess, control_plane: ControlPlane, kubectl: Kubectl
) -> None:
    thief = '{"spec": {"holderIdentity": "someone-else", "renewTime": null}}'
    lease = ("lease", "flashplane-operator", "-n", "flashplane-system")
    control_plane.kubectl("patch", *lease, "--type=merge", "-p", thief)
    try:
        assert operator.process.wait(timeout=30) == 1
    finally:
        control_plane.kubectl("delete", *lease)


def test_an_operator_without_a_namespace_serves_all(operator_account: Path, kubectl: Kubectl, tmp_path: Path) -> None:
    with OperatorProcess(operator_account, tmp_path / "operator.log", namespace=None) as everywhere:
        everywhere.wait_until_leading()
        assert len(apply_quickstart(kubectl)) == 10


def test_a_taken_port_is_told_plainly(
    operator: OperatorProcess, operator_account: Path, namespace: str, tmp_path: Path
) -> None:
    second = OperatorProcess(operator_account, tmp_path / "second.log", namespace=namespace, port=operator.port)
    with second:
        assert second.process.wait(timeout=30) == 1
    assert f"--metrics-port {operator.port} cannot be used" in second.log.read_text()
    assert "Traceback" not in second.log.read_text()


def test_an_exceeded_quota_is_told_in_the_status(operator: OperatorProcess, kubectl: Kubectl) -> None:
    kubectl("create", "quota", "few", "--hard=services=1")
    kubectl("apply", "-f", str(QUICKSTART))
    eventually("the status says so", lambda: ready_reason(kubectl) == "ApplyFailed")
    ready = kubectl.get("fd", "quickstart")["status"]["conditions"][0]
    assert "exceeded quota: few" in ready["message"]
    assert "Traceback" not in ready["message"]


def test_an_object_of_someone_else_is_not_taken_over(operator: OperatorProcess, kubectl: Kubectl) -> None:
    kubectl("create", "service", "clusterip", "quickstart-gateway", "--tcp=80:80")
    kubectl("apply", "-f", str(QUICKSTART))
    eventually("the status says so", lambda: ready_reason(kubectl) == "ApplyFailed")
    assert "Service quickstart-gateway exists" in str(kubectl.get("fd", "quickstart")["status"])
    assert kubectl.get("service", "quickstart-gateway")["spec"]["ports"][0]["port"] == 80
    kubectl("delete", "service", "quickstart-gateway")
    eventually("it goes on by itself", lambda: ready_reason(kubectl) == "EnginesStarting")


def test_a_refused_spec_leaves_what_runs_alone(operator: OperatorProcess, kubectl: Kubectl) -> None:
    before = apply_quickstart(kubectl)
    kubectl("patch", "fd", "quickstart", "--type=merge", "-p", '{"spec": {"model": {"source": "http://host/m.gguf"}}}')
    eventually("it is refused", lambda: ready_reason(kubectl) == "SourceNotServed")
    conditions = {c["type"]: c["status"] for c in kubectl.get("fd", "quickstart")["status"]["conditions"]}
    assert (conditions["Accepted"], conditions["Stalled"], conditions["Reconciling"]) == ("False", "True", "False")
    assert children(kubectl).keys() == before.keys()


def test_the_operators_account_may_do_nothing_else(
    operator_account: Path, control_plane: ControlPlane, namespace: str
) -> None:
    may = control_plane.kubectl(
        "-n", namespace, "auth", "can-i", "list", "flashdeployments", kubeconfig=operator_account
    )
    assert may.strip() == "yes"
    for verb, resource in (("get", "secrets"), ("create", "pods"), ("update", "flashdeployments"), ("get", "nodes")):
        with pytest.raises(KubectlFailed):
            control_plane.kubectl("-n", namespace, "auth", "can-i", verb, resource, kubeconfig=operator_account)


@pytest.mark.parametrize(
    "written", ["1000m", "0.5", "1.5", "2", "1024Mi", "1.5Gi", "0.5Ki", "2000M", "1000", "1048576"]
)
def test_the_api_server_stores_quantities_in_our_canonical_form(control_plane: ControlPlane, written: str) -> None:
    container = {"name": "c", "image": "i", "resources": {"requests": {"cpu": written}}}
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}
    answer = control_plane.api.request("POST", "/api/v1/namespaces/default/pods?dryRun=All", pod)
    assert answer.status == 201, answer.text
    stored = answer.json()["spec"]["containers"][0]["resources"]["requests"]["cpu"]
    assert stored == canonical(written)
