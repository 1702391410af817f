"""The chart on a real Kubernetes API: installed, upgraded, rolled back, uninstalled, and for named namespaces only."""

import contextlib
import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import a_manifest
from control_plane import ControlPlane
from helm_plugin import CHART, NAMESPACE, RELEASE, Helm
from hermetic_binaries import Binaries
from hermetic_errors import KubectlFailed
from operator_process import OperatorProcess, eventually

from flash_api import names

WAYS = "deployments,serviceaccounts,roles,rolebindings,networkpolicies,poddisruptionbudgets"


@pytest.fixture(scope="module")
def fresh(binaries: Binaries) -> Iterator[ControlPlane]:
    """A cluster that has never heard of Flashplane."""
    with ControlPlane(binaries) as cluster:
        yield cluster


def of_release(cluster: ControlPlane, kinds: str) -> set[str]:
    text = cluster.kubectl("get", kinds, "-A", "-l", f"app.kubernetes.io/instance={RELEASE}", "-o", "name")
    return set(text.split())


def test_a_release_is_installed_upgraded_rolled_back_and_leaves_only_the_crds(fresh: ControlPlane, helm: Helm) -> None:
    on = helm.on(fresh.kubeconfig)
    where = ("--namespace", NAMESPACE)
    notes = on("install", RELEASE, str(CHART), *where, "--create-namespace")
    assert "kubectl get fd --watch" in notes
    installed = of_release(fresh, WAYS)
    assert f"deployment.apps/{RELEASE}-operator" in installed
    assert of_release(fresh, "crds") == {f"{kind}/{name}.flashplane.dev" for kind, name in crds()}

    on("upgrade", RELEASE, str(CHART), *where, "--set", "replicas=2")
    assert of_release(fresh, WAYS) - installed == {f"poddisruptionbudget.policy/{RELEASE}-operator"}
    on("upgrade", RELEASE, str(CHART), *where, "--reuse-values")
    assert replicas(fresh) == 2
    on("rollback", RELEASE, "1", *where)
    assert replicas(fresh) == 1
    assert of_release(fresh, WAYS) == installed

    manifest = {**a_manifest("chat"), "metadata": {"name": "chat", "namespace": "default"}}
    fresh.kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
    on("uninstall", RELEASE, *where)
    eventually("everything is gone", lambda: not of_release(fresh, WAYS))
    cluster_wide = "clusterroles,clusterrolebindings"
    assert of_release(fresh, cluster_wide) == set()
    policies = "validatingadmissionpolicies,validatingadmissionpolicybindings"
    assert "flashplane" not in fresh.kubectl("get", policies, "-o", "name")
    assert "chat" in fresh.kubectl("get", "fd", "-n", "default", "-o", "name")
    # A second release takes over what the first one left.
    on("install", RELEASE, str(CHART), *where, "--take-ownership")
    on("uninstall", RELEASE, *where)


def crds() -> list[tuple[str, str]]:
    return [("customresourcedefinition.apiextensions.k8s.io", plural) for plural in (names.PLURAL, names.MODEL_PLURAL)]


def replicas(cluster: ControlPlane) -> int:
    found = cluster.kubectl(
        "get", "deployment", f"{RELEASE}-operator", "-n", NAMESPACE, "-o", "jsonpath={.spec.replicas}"
    )
    return int(found)


def test_in_named_namespaces_roles_suffice_and_others_are_left_alone(
    fresh: ControlPlane, helm: Helm, tmp_path: Path
) -> None:
    on = helm.on(fresh.kubeconfig)
    for namespace in ("alpha", "beta"):
        fresh.kubectl("create", "namespace", namespace)
    on(
        *("install", RELEASE, str(CHART), "--namespace", NAMESPACE, "--create-namespace", "--take-ownership"),
        *("--set", "namespaces={alpha}"),
    )
    account = fresh.kubeconfig_for_service_account(NAMESPACE, f"{RELEASE}-operator")
    assert of_release(fresh, "clusterroles") == set()
    with OperatorProcess(account, tmp_path / "operator.log", namespace="alpha") as operator:
        operator.wait_until_leading()
        for namespace in ("alpha", "beta"):
            manifest = {**a_manifest("chat", residency={"regions": ["eu"]}), "metadata": {"name": "chat"}}
            fresh.kubectl("apply", "-n", namespace, "-f", "-", stdin=yaml.safe_dump(manifest))
        eventually("the engine is planned", lambda: "chat-engine" in listed(fresh, "alpha"))
        residency = eventually("its status tells of regions", lambda: condition(fresh, "ResidencyCompliant"))
        operator.stop()
    assert listed(fresh, "beta") == ""
    assert residency["status"] == "Unknown"
    assert "may not" in residency["message"]
    refused = [line for line in operator.log.read_text().splitlines() if "Traceback" in line]
    assert refused == []
    on("uninstall", RELEASE, "--namespace", NAMESPACE)


def listed(cluster: ControlPlane, namespace: str) -> str:
    return cluster.kubectl("get", "deployments", "-n", namespace, "-o", "name").strip()


def condition(cluster: ControlPlane, kind: str) -> dict[str, Any] | None:
    status = json.loads(cluster.kubectl("get", "fd", "chat", "-n", "alpha", "-o", "json")).get("status") or {}
    return next((each for each in status.get("conditions") or () if each["type"] == kind), None)


class ReadyPods(threading.Thread):
    """Says of every pod of a namespace that it is ready: the part of a kubelet that a rollout waits for."""

    def __init__(self, cluster: ControlPlane, namespace: str) -> None:
        super().__init__(daemon=True)
        self._cluster = cluster
        self._namespace = namespace
        self._leave = threading.Event()

    def run(self) -> None:
        ready = {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}
        while not self._leave.wait(0.2):
            found = json.loads(self._cluster.kubectl("get", "pods", "-n", self._namespace, "-o", "json"))
            for pod in found["items"]:
                name, told = pod["metadata"]["name"], pod["status"].get("phase") == "Running"
                with contextlib.suppress(KubectlFailed):  # it went while we looked
                    if "deletionTimestamp" in pod["metadata"]:
                        self._cluster.kubectl("delete", "pod", name, "-n", self._namespace, "--force", "--now")
                    elif not told:
                        patch = ("--subresource=status", "-p", json.dumps({"status": ready}))
                        self._cluster.kubectl("patch", "pod", name, "-n", self._namespace, *patch)

    def leave(self) -> None:
        self._leave.set()
        self.join()


def test_an_upgrade_can_be_waited_for(fresh: ControlPlane, helm: Helm) -> None:
    on = helm.on(fresh.kubeconfig)
    where = ("--namespace", NAMESPACE, "--wait", "--timeout", "60s")
    kubelet = ReadyPods(fresh, NAMESPACE)
    kubelet.start()
    try:
        on("upgrade", "--install", RELEASE, str(CHART), *where, "--create-namespace", "--take-ownership")
        on("upgrade", RELEASE, str(CHART), *where, "--set", "replicas=2,log.verbose=true")
    finally:
        kubelet.leave()
    status = json.loads(fresh.kubectl("get", "deployment", f"{RELEASE}-operator", "-n", NAMESPACE, "-o", "json"))[
        "status"
    ]
    assert (status["updatedReplicas"], status["availableReplicas"]) == (2, 2)
    # Nothing says any more that pods are ready, so an upgrade that needs new ones must not come to its end.
    failed = on.run(
        "upgrade", RELEASE, str(CHART), "--namespace", NAMESPACE, "--wait", "--timeout", "5s", "--set", "replicas=3"
    )
    assert failed.returncode != 0
    on("uninstall", RELEASE, "--namespace", NAMESPACE)
