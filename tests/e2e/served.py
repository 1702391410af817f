"""A deployment that serves on a cluster, and what may be done to it: updated, scaled, drained, killed, left alone."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from cluster import Cluster
from helm_plugin import NAMESPACE, RELEASE
from operator_process import Kubectl, eventually
from shown import told

from flash_api import names

READY_SECONDS = 600.0
SECONDS = f"--timeout={READY_SECONDS:.0f}s"
OPERATOR = f"deployment/{RELEASE}-operator"
ENGINE, GATEWAY, DRAFT = names.COMPONENT_ENGINE, names.COMPONENT_GATEWAY, names.COMPONENT_DRAFT

Pod = dict[str, Any]


class Served:
    """The FlashDeployment `name`. Everything here returns when it has happened, and what was gone is back."""

    def __init__(self, cluster: Cluster, kubectl: Kubectl, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self._kubectl = kubectl
        self._system = Kubectl(cluster.control_plane, NAMESPACE)

    def until_ready(self) -> None:
        """Of the spec as it is now. Fails with what the deployment says of itself."""

        def ready() -> bool:
            found = self._kubectl.get("fd", self.name)
            status = found.get("status") or {}
            says = [c["status"] for c in status.get("conditions", []) if c["type"] == "Ready"]
            components = [ENGINE, GATEWAY, *([DRAFT] if "draft" in found["spec"] else [])]
            is_new = status.get("observedGeneration") == found["metadata"]["generation"]
            return is_new and says == ["True"] and all(self._rolled_out(component) for component in components)

        try:
            eventually(f"{self.name} is Ready", ready, seconds=READY_SECONDS)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{told(self._kubectl, self.name)}") from error

    def patch(self, **spec: Any) -> None:
        """Change fields of the spec, and wait until what serves is what it says."""
        self._kubectl("patch", "fd", self.name, "--type=merge", "-p", json.dumps({"spec": spec}))
        self.until_ready()

    def kill(self, component: str) -> None:
        """SIGKILL to the first process of a pod's container, as the kernel does when memory is short."""
        pod = self.pods(component)[0]
        name, (container,) = pod["metadata"]["name"], pod["status"]["containerStatuses"]
        node = self.cluster.nodes[pod["spec"]["nodeName"]]
        node.ctr("tasks", "kill", "--signal=SIGKILL", container["containerID"].removeprefix("containerd://"))

        def restarted() -> bool:
            (now,) = self._kubectl.get("pod", name)["status"]["containerStatuses"]
            return bool(now["restartCount"] > container["restartCount"] and now["ready"])

        eventually(f"{name} has restarted", restarted, seconds=READY_SECONDS)
        self.until_ready()

    def delete_a_pod(self, component: str) -> None:
        """As an eviction does."""
        self._kubectl("delete", "pod", self.pods(component)[0]["metadata"]["name"], SECONDS)
        eventually(f"a new {component} serves", lambda: self._rolled_out(component), seconds=READY_SECONDS)

    def drain(self, node: str) -> None:
        """Evict what can be evicted, as fast as the budgets allow, and take the node into service again."""
        plane = self.cluster.control_plane
        flags = ("--ignore-daemonsets", "--delete-emptydir-data", "--force", SECONDS)
        try:
            plane.kubectl("drain", node, *flags)
            assert node not in {pod["spec"].get("nodeName") for pod in self.pods()}
            self.until_ready()
        finally:
            plane.kubectl("uncordon", node)

    def may_be_evicted(self) -> dict[str, int]:
        """How many pods of each component its budget would let go now."""
        found = self._kubectl.items("poddisruptionbudgets", "-l", self._labels(None))
        allowed = {each["metadata"]["labels"][names.LABEL_COMPONENT]: each.get("status", {}) for each in found}
        return {component: status.get("disruptionsAllowed", 0) for component, status in allowed.items()}

    def restart_operator(self) -> None:
        self._system("rollout", "restart", OPERATOR)
        self._system("rollout", "status", OPERATOR, SECONDS)

    @contextmanager
    def without_operator(self) -> Iterator[None]:
        """It is gone meanwhile, and leads again afterwards."""
        self._system("scale", OPERATOR, "--replicas=0")
        eventually("no operator runs", lambda: not self._operators(), seconds=READY_SECONDS)
        try:
            yield
        finally:
            self._system("scale", OPERATOR, "--replicas=1")
            self._system("rollout", "status", OPERATOR, SECONDS)

    def nodes(self, component: str) -> list[str]:
        """Where its pods are."""
        return sorted({pod["spec"]["nodeName"] for pod in self.pods(component)})

    def pods(self, component: str | None = None) -> list[Pod]:
        """Those that are not on their way out."""
        found = self._kubectl.items("pods", "-l", self._labels(component))
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def num_broken_off(self) -> int:
        """Streams that gateways went on with elsewhere, by what the pods that are there now have logged."""
        said = self._kubectl("logs", "-l", self._labels(GATEWAY), "--tail=-1")
        return said.count('"a stream broke off"')

    def delete(self) -> None:
        self._kubectl("delete", "fd", self.name, SECONDS)
        eventually("no pod of it is left", lambda: not self._kubectl.items("pods", "-l", self._labels(None)))

    def _operators(self) -> list[Pod]:
        return self._system.items("pods", "-l", f"app.kubernetes.io/instance={RELEASE}")

    def _labels(self, component: str | None) -> str:
        mine = f"{names.LABEL_DEPLOYMENT}={self.name}"
        return mine if component is None else f"{mine},{names.LABEL_COMPONENT}={component}"

    def _rolled_out(self, component: str) -> bool:
        """One Deployment, of whose pods all are new, ready and as many as wanted, and no other is left."""
        found = self._kubectl.items("deployments", "-l", self._labels(component))
        if len(found) != 1:
            return False  # draft pods of two revisions
        (each,) = found
        wanted, status = each["spec"]["replicas"], each.get("status", {})
        counts = {status.get(name, 0) for name in ("replicas", "updatedReplicas", "availableReplicas")}
        return (
            status.get("observedGeneration") == each["metadata"]["generation"]
            and counts == {wanted}
            and len(self._kubectl.items("pods", "-l", self._labels(component))) == wanted
        )
