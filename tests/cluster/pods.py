"""The pods of the tests: restricted as ours are, running the program in pod/."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from operator_process import Kubectl, eventually

IMAGE = "flashplane.dev/tests/pod:1"
RESTRICTED = {
    "allowPrivilegeEscalation": False,
    "capabilities": {"drop": ["ALL"]},
    "readOnlyRootFilesystem": True,
    "runAsNonRoot": True,
    "seccompProfile": {"type": "RuntimeDefault"},
}


def a_pod(
    name: str, *arguments: str, labels: Mapping[str, str] | None = None, node: str | None = None, **spec: Any
) -> dict[str, Any]:
    """A pod that serves on port 8080 unless `arguments` say otherwise."""
    container = {
        "name": "main",
        "image": IMAGE,
        "args": list(arguments or ("serve", "8080")),
        "securityContext": RESTRICTED,
    }
    if node is not None:
        spec["nodeSelector"] = {"kubernetes.io/hostname": node}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": dict(labels or {"app": name})},
        "spec": {"containers": [container], "terminationGracePeriodSeconds": 0, **spec},
    }


def apply(kubectl: Kubectl, *objects: Mapping[str, Any]) -> None:
    kubectl(
        "apply", "--server-side", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": objects})
    )


def run(kubectl: Kubectl, *pods: Mapping[str, Any]) -> dict[str, str]:
    """The addresses of these pods, by name, once all are Ready."""
    apply(kubectl, *pods)
    names = [pod["metadata"]["name"] for pod in pods]
    kubectl("wait", "--for=condition=Ready", "--timeout=60s", *(f"pod/{name}" for name in names))
    return {name: kubectl.get("pod", name)["status"]["podIP"] for name in names}


def dial(kubectl: Kubectl, pod: str, *addresses: str) -> list[str]:
    """How it goes when `pod` connects to each of these."""
    return kubectl("exec", pod, "--", "/bin/pod", "dial", *addresses).split()


def eventually_dials(kubectl: Kubectl, pod: str, addresses: Sequence[str], outcomes: Sequence[str]) -> None:
    """Rules follow a change within moments, not at once."""
    seen: list[str] = []

    def as_wanted() -> bool:
        seen[:] = dial(kubectl, pod, *addresses)
        return seen == list(outcomes)

    try:
        eventually(f"{pod} finds {outcomes} at {addresses}", as_wanted)
    except AssertionError as error:
        raise AssertionError(f"{error}; at last {seen}") from None
