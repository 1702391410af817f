"""The hermetic control plane is a real one: it validates, authorizes, garbage-collects, and leaves nothing behind."""

import json
import os
import shlex
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import control_plane as control_plane_module
import pytest
from control_plane import ControlPlane
from hermetic_binaries import Binaries, pinned_version
from hermetic_errors import ControlPlaneFailed, KubectlFailed

HERMETIC = Path(control_plane_module.__file__).parent


def eventually(fact: str, holds: Callable[[], object], *, timeout_seconds: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_seconds
    while not holds():
        assert time.monotonic() < deadline, f"not true after {timeout_seconds:.0f} s: {fact}"
        time.sleep(0.05)


def apply(cluster: ControlPlane, namespace: str, *objects: dict[str, Any]) -> None:
    manifest = {"apiVersion": "v1", "kind": "List", "items": list(objects)}
    cluster.kubectl("apply", "--server-side", "-n", namespace, "-f", "-", stdin=json.dumps(manifest))


def is_running(pid: int) -> bool:
    """Whether a process runs. A zombie does not: it only waits for its new parent to notice."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return status.rpartition(")")[2].split()[0] != "Z"


class TestTheApi:
    def test_the_server_has_the_version_of_its_program(self, control_plane: ControlPlane) -> None:
        program = subprocess.check_output([control_plane.binaries.kube_apiserver, "--version"], text=True).split()[-1]
        server = json.loads(control_plane.kubectl("version", "-o", "json"))["serverVersion"]
        assert server["gitVersion"] == program
        if "KUBEBUILDER_ASSETS" not in os.environ:
            assert program == pinned_version()

    def test_an_unprivileged_service_account_is_denied(self, control_plane: ControlPlane, namespace: str) -> None:
        control_plane.kubectl("create", "serviceaccount", "visitor", "-n", namespace)
        visitor = control_plane.kubeconfig_for_service_account(namespace, "visitor")
        with pytest.raises(KubectlFailed, match='cannot list resource "configmaps"'):
            control_plane.kubectl("get", "configmaps", kubeconfig=visitor)

        control_plane.kubectl(
            "create",
            "rolebinding",
            "visitor",
            "-n",
            namespace,
            "--clusterrole=view",
            f"--serviceaccount={namespace}:visitor",
        )
        control_plane.kubectl("get", "configmaps", kubeconfig=visitor)
        with pytest.raises(KubectlFailed, match='cannot create resource "configmaps"'):
            control_plane.kubectl("create", "configmap", "mine", kubeconfig=visitor)

    def test_kubeconfigs_are_readable_by_their_owner_only(self, control_plane: ControlPlane, namespace: str) -> None:
        account = control_plane.kubeconfig_for_service_account(namespace, "default")
        for path in (control_plane.kubeconfig, account):
            assert path.stat().st_mode & 0o777 == 0o600

    def test_a_missing_service_account_gets_no_token(self, control_plane: ControlPlane, namespace: str) -> None:
        with pytest.raises(ControlPlaneFailed, match=r"serviceaccounts \\?\"nobody\\?\" not found"):
            control_plane.kubeconfig_for_service_account(namespace, "nobody")

    def test_a_deployment_gets_pods_and_goes_with_its_owner(self, control_plane: ControlPlane, namespace: str) -> None:
        apply(control_plane, namespace, a_configmap("owner"))
        uid = control_plane.kubectl("get", "configmap", "owner", "-n", namespace, "-o", "jsonpath={.metadata.uid}")
        apply(control_plane, namespace, a_deployment(owner_uid=uid))

        def pods() -> list[str]:
            return control_plane.kubectl("get", "pods", "-n", namespace, "-o", "name").split()

        eventually("the Deployment has its two pods", lambda: len(pods()) == 2)
        control_plane.kubectl("delete", "configmap", "owner", "-n", namespace)
        eventually("the pods are gone with the owner of their Deployment", lambda: not pods())
        assert control_plane.kubectl("get", "deployments,replicasets", "-n", namespace, "-o", "name") == ""

    def test_a_cel_rule_of_a_crd_refuses_a_bad_object(self, control_plane: ControlPlane, namespace: str) -> None:
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(A_CRD_WITH_A_RULE))
        control_plane.kubectl("wait", "--for=condition=Established", "crd/ranges.hermetic.test", "--timeout=30s")
        apply(control_plane, namespace, a_range(low=1, high=2))
        with pytest.raises(KubectlFailed, match=r"low \(3\) must not exceed high \(2\)"):
            apply(control_plane, namespace, a_range(low=3, high=2))

    def test_validating_admission_policies_are_enforced(self, control_plane: ControlPlane, namespace: str) -> None:
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(a_policy_against_a_configmap(namespace)))

        def refusal() -> bool:
            try:
                control_plane.kubectl("create", "configmap", "forbidden", "-n", namespace, "--dry-run=server")
            except KubectlFailed as error:
                return "no such thing here" in error.stderr
            return False

        eventually("the policy refuses the object", refusal)


class TestTheCrdsOfTheStart:
    def test_the_children_of_a_custom_object_go_with_it(self, binaries: Binaries, tmp_path: Path) -> None:
        (tmp_path / "ranges.json").write_text(json.dumps(A_CRD_WITH_A_RULE))
        with ControlPlane(binaries, crds=[tmp_path]) as cluster:
            owner = a_range(low=1, high=2)
            apply(cluster, "default", owner)
            uid = cluster.kubectl("get", "ranges", "r", "-o", "jsonpath={.metadata.uid}")
            reference = {"apiVersion": owner["apiVersion"], "kind": "Range", "name": "r", "uid": uid}
            apply(cluster, "default", a_configmap("child", ownerReferences=[reference]))
            cluster.kubectl("delete", "ranges", "r")
            child = ("get", "configmap", "child", "--ignore-not-found", "-o", "name")
            # Well below the half minute that it takes for a kind that is new to the controllers.
            eventually("the child is gone", lambda: not cluster.kubectl(*child), timeout_seconds=15.0)


class TestTheEnd:
    def test_stop_leaves_no_process_and_no_directory(self, binaries: Binaries) -> None:
        with ControlPlane(binaries) as cluster:
            pids, directory = cluster.pids, cluster.directory
            assert len(pids) == 4
            assert all(is_running(pid) for pid in pids)
        assert not any(is_running(pid) for pid in pids)
        assert not directory.exists()
        cluster.stop()  # harmless

    @pytest.mark.parametrize("deadly", [signal.SIGKILL, signal.SIGTERM])
    def test_the_death_of_the_owner_leaves_nothing_either(self, binaries: Binaries, deadly: signal.Signals) -> None:
        owner = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(OWNER), str(HERMETIC), *map(str, vars(binaries).values())],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert owner.stdout is not None
        facts = json.loads(owner.stdout.readline())
        owner.send_signal(deadly)
        owner.communicate(timeout=30)
        eventually("no process is left", lambda: not any(is_running(pid) for pid in facts["pids"]))
        eventually("no directory is left", lambda: not Path(facts["directory"]).exists())

    def test_a_failed_start_shows_the_last_lines_and_leaves_nothing(self, binaries: Binaries, tmp_path: Path) -> None:
        broken = tmp_path / "kube-apiserver"
        broken.write_text("#!/bin/sh\necho the disk is on fire >&2\nexit 7\n")
        broken.chmod(0o755)
        cluster = ControlPlane(Binaries(**{**vars(binaries), "kube_apiserver": broken}))
        with pytest.raises(ControlPlaneFailed, match=r"kube-apiserver ended with 7; .*\n.*the disk is on fire"):
            cluster.start()
        assert not cluster.directory.exists()
        assert not any(is_running(pid) for pid in cluster.pids)


class TestTheBackground:
    def test_up_status_and_down(self, binaries: Binaries, tmp_path: Path) -> None:
        crds, state = tmp_path / "crds.json", tmp_path / "state"
        crds.write_text(json.dumps(A_CRD_WITH_A_RULE))
        environment = {**os.environ, "XDG_STATE_HOME": str(state)}

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            program = [sys.executable, str(HERMETIC / "control_plane.py"), *arguments]
            return subprocess.run(program, env=environment, capture_output=True, text=True, check=False)

        assert run("status").returncode == 3
        try:
            first = run("up", "--crds", str(crds))
            assert first.returncode == 0, first.stderr
            assert run("up").stdout == first.stdout
            export = first.stdout.splitlines()[0]
            assert run("status").returncode == 0
            kubeconfig = Path(export.removeprefix("export KUBECONFIG="))
            # What was printed is enough for a shell that has no kubectl of its own.
            shell = f"eval {shlex.quote(first.stdout)}; kubectl get --raw /apis/hermetic.test/v1/ranges"
            assert json.loads(subprocess.check_output(["bash", "-c", shell]))["items"] == []
        finally:
            assert run("down").returncode == 0
        assert not kubeconfig.parent.exists()
        assert not list(state.iterdir())
        assert run("status").returncode == 3
        assert run("down").returncode == 0


OWNER = """
import json, sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from control_plane import ControlPlane
from hermetic_binaries import Binaries
cluster = ControlPlane(Binaries(*map(Path, sys.argv[2:])))
cluster.start()
print(json.dumps({"pids": cluster.pids, "directory": str(cluster.directory)}), flush=True)
time.sleep(300)
"""

A_CRD_WITH_A_RULE: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "ranges.hermetic.test"},
    "spec": {
        "group": "hermetic.test",
        "scope": "Namespaced",
        "names": {"plural": "ranges", "singular": "range", "kind": "Range"},
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "required": ["low", "high"],
                                "properties": {"low": {"type": "integer"}, "high": {"type": "integer"}},
                                "x-kubernetes-validations": [
                                    {
                                        "rule": "self.low <= self.high",
                                        "messageExpression": "'low (%d) must not exceed high (%d)'"
                                        ".format([self.low, self.high])",
                                    }
                                ],
                            }
                        },
                    }
                },
            }
        ],
    },
}


def a_range(*, low: int, high: int) -> dict[str, Any]:
    spec = {"low": low, "high": high}
    return {"apiVersion": "hermetic.test/v1", "kind": "Range", "metadata": {"name": "r"}, "spec": spec}


def a_configmap(name: str, **metadata: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, **metadata}}


def a_deployment(*, owner_uid: str) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {
            "name": "owned",
            "ownerReferences": [{"apiVersion": "v1", "kind": "ConfigMap", "name": "owner", "uid": owner_uid}],
        },
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "owned"}},
            "template": {
                "metadata": {"labels": {"app": "owned"}},
                "spec": {"containers": [{"name": "main", "image": "example.invalid/never-pulled"}]},
            },
        },
    }


def a_policy_against_a_configmap(namespace: str) -> dict[str, Any]:
    name = f"no-configmaps-in-{namespace}"
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    api_version = "admissionregistration.k8s.io/v1"
    policy = {
        "apiVersion": api_version,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": name},
        "spec": {
            "matchConstraints": {"resourceRules": [rule], "namespaceSelector": here},
            "validations": [{"expression": "object.metadata.name != 'forbidden'", "message": "no such thing here"}],
        },
    }
    binding = {
        "apiVersion": api_version,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": name},
        "spec": {"policyName": name, "validationActions": ["Deny"]},
    }
    return {"apiVersion": "v1", "kind": "List", "items": [policy, binding]}
