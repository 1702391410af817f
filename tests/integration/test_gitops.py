"""What GitOps tools rely on, on a real Kubernetes API: no differences, statuses that they can read, and an operator
that can be replaced under what it has made."""

from __future__ import annotations

import io
import subprocess
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml
from audit_plugin import Permission, recorded_statuses
from control_plane import ControlPlane
from gitops.argo import HEALTHS, HealthCheck
from gitops.kstatus import Kstatus, kstatus
from hermetic_errors import KubectlFailed
from operator_process import ROOT, Kubectl, OperatorProcess, eventually

from flash_api import names
from flash_api.conditions import Reason

EXAMPLES = ("quickstart.yaml", "shared-model.yaml")
GOLDEN = "tests/operator/golden/quickstart.yaml"
SOURCES = ("operator", GOLDEN)


def settled(kubectl: Kubectl, name: str) -> bool:
    """Whether the operator has seen the latest spec."""
    found = kubectl.get("fd", name)
    return bool(found.get("status", {}).get("observedGeneration") == found["metadata"]["generation"])


@pytest.mark.parametrize("mode", [(), ("--server-side",)], ids=["client-side", "server-side"])
@pytest.mark.parametrize("example", EXAMPLES)
def test_the_same_manifest_again_is_no_difference(
    operator: OperatorProcess, kubectl: Kubectl, example: str, mode: tuple[str, ...]
) -> None:
    file = ROOT / "examples" / example
    deployments = [m["metadata"]["name"] for m in yaml.safe_load_all(file.read_text()) if m["kind"] == names.KIND]
    kubectl("apply", *mode, "-f", str(file))
    for name in deployments:
        eventually("it is looked at", lambda name=name: settled(kubectl, name))
    assert kubectl("diff", *mode, "-f", str(file)) == ""
    before = {name: kubectl.get("fd", name)["metadata"]["generation"] for name in deployments}
    kubectl("apply", *mode, "-f", str(file))
    assert {name: kubectl.get("fd", name)["metadata"]["generation"] for name in deployments} == before
    # kubectl diff ends with 1 where there is one.
    text = file.read_text().replace("variant: Lite", "variant: Cloud")
    with pytest.raises(KubectlFailed):
        kubectl("diff", *mode, "-f", "-", stdin=text)


def git(*arguments: str) -> bytes:
    """What git answers; skips where the tests did not come from a repository with a history."""
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"the release before cannot be had: git {arguments[0]}: {done.stderr.decode().strip()}")
    return done.stdout


@pytest.fixture
def before(tmp_path: Path) -> Path:
    """The operator's sources and its golden plan as of the commit before."""
    folder = tmp_path / "before"
    with tarfile.open(fileobj=io.BytesIO(git("archive", "HEAD^", *SOURCES))) as archive:
        archive.extractall(folder, filter="data")
    return folder


def templates(plan: Path) -> dict[str, Any]:
    found = [m for m in yaml.safe_load_all(plan.read_text()) if m["kind"] == "Deployment"]
    return {m["metadata"]["name"]: m["spec"]["template"] for m in found}


def stored(kubectl: Kubectl) -> dict[str, Any]:
    return {m["metadata"]["name"]: m["spec"]["template"] for m in kubectl.items("deployments")}


def test_another_release_of_the_operator_replaces_no_pod_unless_its_golden_plan_says_so(
    operator_account: Path, kubectl: Kubectl, before: Path, tmp_path: Path
) -> None:
    old, new = templates(before / GOLDEN), templates(ROOT / GOLDEN)
    meant = {name for name in old if old[name] != new.get(name)}
    former = OperatorProcess(
        operator_account, tmp_path / "former.log", namespace=kubectl.namespace, source=before / "operator"
    )
    with former:
        former.wait_until_leading()
        kubectl("apply", "-f", str(ROOT / "examples" / "quickstart.yaml"))
        eventually("it is looked at", lambda: settled(kubectl, "quickstart"))
        made = stored(kubectl)
    assert made.keys() == old.keys()
    with OperatorProcess(operator_account, tmp_path / "new.log", namespace=kubectl.namespace) as latest:
        latest.wait_until_leading()
        eventually("it has passed over all", lambda: latest.metric("flashplane_reconcile_passes_total") >= 1)
        eventually("and has nothing left to do", lambda: latest.metric("flashplane_queue_depth") == 0)
        now = stored(kubectl)
    assert {name for name in made if made[name] != now[name]} == meant


def test_gitops_tools_can_read_every_status_that_the_tests_have_seen(
    recorded_calls: set[Permission], control_plane: ControlPlane, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = {names.PLURAL: names.KIND, names.MODEL_PLURAL: names.MODEL_KIND}
    checks = {plural: HealthCheck(kind) for plural, kind in kinds.items()}
    found = Counter[str]()
    for plural, status in recorded_statuses(control_plane.audit_log):
        resource = {"metadata": {"generation": status["observedGeneration"]}, "spec": {}, "status": status}
        health, message = checks[plural](resource)
        conditions = {c["type"]: c for c in status["conditions"]}
        assert {"Ready", "Reconciling", "Stalled"} <= conditions.keys()
        assert health in HEALTHS
        assert message
        verdict = kstatus(resource)
        assert (verdict is Kstatus.FAILED) == (health == "Degraded")
        assert verdict is not Kstatus.CURRENT or health in ("Healthy", "Suspended")
        if health == "Healthy":
            ready = conditions["Ready"]
            assert ready["status"] == "True" or ready["reason"] == Reason.SCALED_TO_ZERO
        found[f"{kinds[plural]} {health}"] += 1
    with capsys.disabled():
        print(f" [{dict(found)}]", end="")
