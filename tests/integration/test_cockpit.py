"""`flash status`, `explain` and `doctor` on a real API server: what is there is shown, what is broken is named."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import a_manifest
from control_plane import ControlPlane
from operator_process import Kubectl, OperatorProcess, eventually
from typer.testing import CliRunner, Result

from flash_api import names
from flash_operator.cli import app
from flash_operator.cockpit.commands import AS_KUBECTL_PLUGIN, register

REPOSITORY = Path(__file__).parents[2]
CRD = f"{names.PLURAL}.{names.GROUP}"
ROLE = "clusterrole/flashplane-operator"
LEASE = ("lease", "flashplane-operator", "-n", "flashplane-system")

register(app)
runner = CliRunner(env={"KUBECONFIG": "/nowhere", "COLUMNS": "200"})


class Flash:
    """`flash` with the kubeconfig of the control plane, in one namespace."""

    def __init__(self, control_plane: ControlPlane, namespace: str) -> None:
        self._options = ("--kubeconfig", str(control_plane.kubeconfig), "-n", namespace)

    def __call__(self, *arguments: str) -> Result:
        return runner.invoke(app, [*arguments, *self._options])

    def errors(self) -> list[dict[str, str]]:
        """What `doctor` calls wrong."""
        result = self("doctor", "-o", "json")
        found: list[dict[str, str]] = [each for each in json.loads(result.stdout) if each["severity"] == "error"]
        assert result.exit_code == bool(found), result.output
        return found

    def finds(self, subject: str, cause: str) -> bool:
        """Whether `doctor` names this cause of that subject, with a remedy."""
        errors = self.errors()
        return any(e["subject"].startswith(subject) and cause in e["cause"] and e["remedy"] for e in errors)


@pytest.fixture
def flash(control_plane: ControlPlane, namespace: str) -> Flash:
    return Flash(control_plane, namespace)


@pytest.fixture
def kubectl(control_plane: ControlPlane, namespace: str, operator_rbac: Path) -> Kubectl:
    control_plane.kubectl("apply", "-f", str(operator_rbac))
    return Kubectl(control_plane, namespace)


@pytest.fixture
def operator(kubectl: Kubectl, operator_account: Path, namespace: str, tmp_path: Path) -> Iterator[OperatorProcess]:
    with OperatorProcess(operator_account, tmp_path / "operator.log", namespace=namespace) as process:
        process.wait_until_leading()
        yield process


def apply(kubectl: Kubectl, **spec: Any) -> None:
    manifest = a_manifest("chat", **spec)
    del manifest["metadata"]["namespace"]
    kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))


def looked_at(kubectl: Kubectl) -> bool:
    found = kubectl.get("fd", "chat")
    return bool(found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"])


def set_pod(kubectl: Kubectl, component: str, status: dict[str, Any]) -> str:
    """What a scheduler and a kubelet would say of the role's pod."""

    def pods() -> list[dict[str, Any]]:
        return kubectl.items("pods", "-l", f"{names.LABEL_DEPLOYMENT}=chat,{names.LABEL_COMPONENT}={component}")

    name = str(eventually("a pod", pods)[0]["metadata"]["name"])
    kubectl("patch", "pod", name, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))
    return name


def test_status_shows_what_the_operator_wrote(operator: OperatorProcess, kubectl: Kubectl, flash: Flash) -> None:
    apply(kubectl)
    eventually("a status", lambda: looked_at(kubectl))
    shown = flash("status", "chat").stdout
    assert "EnginesStarting" in shown
    assert f"http://chat-gateway.{kubectl.namespace}.svc:8080/v1" in shown
    assert "ROLE" in shown
    (entry,) = json.loads(flash("status", "-o", "json").stdout)["deployments"]
    assert entry["manifest"]["status"]["appliedRevision"]
    assert "1 is wanted, because spec.engine.replicas is not set" in flash("explain", "chat").stdout


def test_kubectl_flash_means_the_cluster(control_plane: ControlPlane, kubectl: Kubectl) -> None:
    environment = {"KUBECONFIG": str(control_plane.kubeconfig)}
    shown = runner.invoke(app, ["status", "-n", kubectl.namespace], obj=AS_KUBECTL_PLUGIN, env=environment)
    assert f"No FlashDeployment is in namespace {kubectl.namespace}" in shown.stdout


def test_a_name_that_is_not_there_is_told_plainly(kubectl: Kubectl, flash: Flash) -> None:
    result = flash("status", "nobody")
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"no FlashDeployment is called nobody in namespace {kubectl.namespace}" in result.stderr


def test_nothing_is_wrong_with_a_fresh_installation(operator: OperatorProcess, flash: Flash) -> None:
    assert flash.errors() == []


def test_an_api_that_does_not_answer_is_named(tmp_path: Path, control_plane: ControlPlane) -> None:
    config = json.loads(control_plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = "https://127.0.0.1:1"
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    result = runner.invoke(app, ["doctor", "--kubeconfig", str(tmp_path / "kubeconfig"), "-o", "json"])
    (finding,) = json.loads(result.stdout)
    assert (result.exit_code, finding["subject"]) == (1, "Kubernetes API")


def test_no_operator_and_one_that_stopped_are_named(kubectl: Kubectl, flash: Flash, operator: OperatorProcess) -> None:
    operator.stop()
    assert flash.finds("operator in flashplane-system", "No operator leads")
    kubectl("delete", *LEASE)
    assert flash.finds("operator in flashplane-system", "No operator has ever led")
    apply(kubectl)
    assert flash.finds("FlashDeployment", "No operator has looked at its generation 1 yet")


def test_an_expired_lease_is_named(kubectl: Kubectl, flash: Flash, operator: OperatorProcess) -> None:
    operator.kill()
    past = '{"spec": {"renewTime": "2020-01-01T00:00:00.000000Z"}}'
    kubectl("patch", *LEASE, "--type=merge", "-p", past)
    assert flash.finds("operator in flashplane-system", "Its Lease has expired")


def test_a_missing_permission_is_named(
    kubectl: Kubectl, control_plane: ControlPlane, operator_rbac: Path, flash: Flash
) -> None:
    rules = kubectl.get(ROLE)["rules"]
    kept = [rule for rule in rules if rule["resources"] != ["pods"]]
    assert len(kept) == len(rules) - 1
    kubectl("patch", ROLE, "--type=merge", "-p", json.dumps({"rules": kept}))
    try:
        eventually("it is named", lambda: flash.finds("permissions of the operator", "It may not list pods"))
    finally:
        control_plane.kubectl("apply", "-f", str(operator_rbac))


def test_an_old_crd_is_named(kubectl: Kubectl, flash: Flash) -> None:
    crd = kubectl.get("crd", CRD)
    spec = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["spec"]
    former = dict(spec["properties"].pop("observability"))
    kubectl("replace", "-f", "-", stdin=yaml.safe_dump({**crd, "status": None}))
    try:
        assert flash.finds(f"CRD {CRD}", "It is not the one of this version")
    finally:
        spec["properties"]["observability"] = former
        kubectl("apply", "--server-side", "--force-conflicts", "-f", str(REPOSITORY / "crds"))
    assert not flash.finds(f"CRD {CRD}", "")


def test_a_missing_crd_is_named(kubectl: Kubectl, flash: Flash) -> None:
    model = f"{names.MODEL_PLURAL}.{names.GROUP}"
    kubectl("delete", "crd", model)
    try:
        assert flash.finds(f"CRD {model}", "It is not installed")
    finally:
        kubectl("apply", "--server-side", "--force-conflicts", "-f", str(REPOSITORY / "crds"))


def test_a_crash_loop_is_named(operator: OperatorProcess, kubectl: Kubectl, flash: Flash) -> None:
    apply(kubectl)
    died = {"exitCode": 3, "reason": "Error", "message": "loading\nerror: digest mismatch\n"}
    container = {
        "name": "engine",
        "image": "i",
        "imageID": "",
        "ready": False,
        "restartCount": 4,
        "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        "lastState": {"terminated": died},
    }
    pod = set_pod(kubectl, "engine", {"phase": "Running", "containerStatuses": [container]})
    subject = f"engine pods of {kubectl.namespace}/chat"
    assert flash.finds(subject, f"Container engine of pod {pod} ended with code 3: error: digest mismatch")
    eventually("it is in the status", lambda: "EnginesFailing" in flash("status", "chat").stdout)
    assert "error: digest mismatch" in flash("explain", "chat").stdout


def test_an_unschedulable_pod_is_named(operator: OperatorProcess, kubectl: Kubectl, flash: Flash) -> None:
    apply(kubectl)
    no_node = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes fit."}
    set_pod(kubectl, "engine", {"phase": "Pending", "conditions": [no_node]})
    assert flash.finds(f"engine pods of {kubectl.namespace}/chat", "has no node: 0/3 nodes fit.")
    eventually("it is in the status", lambda: "0/3 nodes fit." in str(kubectl.get("fd", "chat")["status"]))


def test_a_missing_secret_is_named(operator: OperatorProcess, kubectl: Kubectl, flash: Flash) -> None:
    apply(kubectl, gateway={"auth": {"apiKeysSecretRef": {"name": "keys"}}})
    assert flash.finds("FlashDeployment", "Secret keys, which its spec names, does not exist")
    kubectl("create", "secret", "generic", "keys", "--from-literal=a=b")
    assert not flash.finds("FlashDeployment", "Secret keys")


def test_a_refused_spec_is_named(operator: OperatorProcess, kubectl: Kubectl, flash: Flash) -> None:
    apply(kubectl, model={"source": "http://host/m.gguf"})
    eventually("a status", lambda: looked_at(kubectl))
    assert flash.finds(f"FlashDeployment {kubectl.namespace}/chat", "Ready is False (SourceNotServed)")
    assert "It is stalled: nothing moves until someone acts." in flash("explain", "chat").stdout
