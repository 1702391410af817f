"""A FlashDeployment on the cluster as kubectl shows it: Ready, its conditions, its row, and that nothing is left."""

import re
from typing import Any

from hermetic_errors import KubectlFailed
from operator_process import Kubectl, eventually

MADE = (
    "deployments,services,configmaps,networkpolicies,serviceaccounts,poddisruptionbudgets,pods,endpointslices,secrets"
)
READY_SECONDS = 300


def ready(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """The FlashDeployment once it is Ready; fails with what it says of itself."""
    try:
        kubectl("wait", "--for=condition=Ready", f"fd/{name}", f"--timeout={READY_SECONDS}s")
    except KubectlFailed as error:
        raise AssertionError(f"{error}\n{told(kubectl, name)}") from error
    found: dict[str, Any] = kubectl.get("fd", name)
    return found


def told(kubectl: Kubectl, name: str) -> str:
    """What the FlashDeployment and its namespace say of themselves, for whoever reads why a test failed."""
    asked = ("describe", f"fd/{name}"), ("get", "pods", "-o", "wide"), ("get", "events")
    return "\n".join(kubectl(*each) for each in asked)


def condition(kubectl: Kubectl, name: str, kind: str) -> dict[str, Any]:
    """One condition of the FlashDeployment."""
    conditions = kubectl.get("fd", name)["status"]["conditions"]
    return next(dict(each) for each in conditions if each["type"] == kind)


def columns(kubectl: Kubectl, kind: str, name: str) -> dict[str, str]:
    """What `kubectl get -o wide` prints of an object, by the heads of its columns."""
    head, row = kubectl("get", kind, name, "-o", "wide").splitlines()
    starts = [word.start() for word in re.finditer(r"\S+", head)]
    ends = [*starts[1:], None]
    return {head[at:end].strip(): row[at:end].strip() for at, end in zip(starts, ends, strict=True)}


def check_nothing_is_left(kubectl: Kubectl, name: str) -> None:
    """Of a FlashDeployment that was deleted."""
    selector = f"flashplane.dev/deployment={name}"
    eventually("nothing of it is left", lambda: not kubectl.items(MADE, "-l", selector), seconds=120)
