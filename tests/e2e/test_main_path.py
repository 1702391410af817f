"""The main path as a user walks it: the chart installed, the demo's own manifest applied, a chat, and nothing left.

The pods are our images under a kubelet, behind Services and NetworkPolicies that are enforced, as uid 65532 with a
read-only root. `make e2e` prints where the time goes.
"""

import json
from pathlib import Path
from typing import Any

import pytest
from chatting import forwarded, streamed, streamed_in_a_pod
from cluster import Cluster
from helm_plugin import NAMESPACE
from installation import GATEWAY_IMAGE, IS_FULL, ROOT
from local_plugin import local_stack
from operator_process import Kubectl, eventually
from phases import Phases
from pods import a_pod, apply

DEMO = "demo"
MADE = (
    "deployments,services,configmaps,networkpolicies,serviceaccounts,poddisruptionbudgets,pods,endpointslices,secrets"
)
READY_SECONDS = 300


@pytest.fixture(scope="module")
def kubectl(installed: Cluster) -> Kubectl:
    """In a namespace with a pod that chats."""
    installed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": DEMO}})
    made = Kubectl(installed.control_plane, DEMO)
    eventually("pods may be made", lambda: made.get("serviceaccount", "default"))
    client = a_pod("client")
    client["spec"]["containers"][0] |= {
        "image": GATEWAY_IMAGE,
        "command": ["python", "-c", "import signal; signal.pause()"],
        "args": [],
    }
    apply(made, client)
    return made


@pytest.fixture(scope="module")
def local_answer(phases: Phases) -> str:
    """What local mode says, on the same machine and of the same model."""
    with phases("local mode: up, chat, down"), local_stack("quickstart") as stack:
        stack.up()
        return "".join(streamed(stack.base_url, stack.model, stack.api_key))


def ready(kubectl: Kubectl, name: str) -> dict[str, Any]:
    """The FlashDeployment once it is Ready; fails with what it says of itself."""
    try:
        kubectl("wait", "--for=condition=Ready", f"fd/{name}", f"--timeout={READY_SECONDS}s")
    except Exception as error:
        seen = [kubectl("describe", f"fd/{name}"), kubectl("get", "pods", "-o", "wide"), kubectl("get", "events")]
        raise AssertionError("\n".join([str(error), *seen])) from error
    found: dict[str, Any] = kubectl.get("fd", name)
    return found


def check_the_path(
    manifest: Path, name: str, installed: Cluster, kubectl: Kubectl, phases: Phases, answer: str
) -> None:
    with phases(f"{name}: apply to Ready"):
        kubectl("apply", "-f", str(manifest))
        status = ready(kubectl, name)["status"]
    print(json.dumps(status.get("startup") or status.get("coldStart"), indent=1))

    with phases(f"{name}: a streamed chat from a pod"):
        kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
        said = streamed_in_a_pod(kubectl, "client", f"http://{name}-gateway:8080/v1", name)
    assert said["text"] == answer
    assert said["ends"] == 1
    assert int(str(said["pieces"])) > 1, "it comes in one piece"

    plane = installed.control_plane
    with (
        phases(f"{name}: a streamed chat from the host"),
        forwarded(plane.binaries.kubectl, plane.kubeconfig, f"{name}-gateway", 8080, DEMO) as base_url,
    ):
        assert "".join(streamed(base_url, name)) == answer

    for pod in kubectl.items("pods", "-l", f"flashplane.dev/deployment={name}"):
        assert pod["spec"]["securityContext"]["runAsUser"] == 65532
        assert all(c["restartCount"] == 0 for c in pod["status"]["containerStatuses"]), pod["metadata"]["name"]

    with phases(f"{name}: deleted, nothing left"):
        kubectl("delete", "-f", str(manifest), "--timeout=60s")
        eventually(
            "nothing of it is left",
            lambda: not kubectl.items(MADE, "-l", f"flashplane.dev/deployment={name}"),
            seconds=90,
        )


@pytest.mark.timeout(900)
def test_the_demo_manifest_serves_the_same_answer_on_a_cluster_and_leaves_nothing(
    installed: Cluster, kubectl: Kubectl, phases: Phases, local_answer: str
) -> None:
    assert "Paris" in local_answer
    check_the_path(ROOT / "examples" / "quickstart.yaml", "quickstart", installed, kubectl, phases, local_answer)


@pytest.mark.timeout(900)
@pytest.mark.skipif(not IS_FULL, reason="draft pods are part of `make e2e-full`")
def test_a_manifest_with_draft_pods_serves_the_same_answer_and_tells_what_drafts_are_worth(
    installed: Cluster, kubectl: Kubectl, phases: Phases, local_answer: str
) -> None:
    check_the_path(ROOT / "examples" / "draft.yaml", "drafted", installed, kubectl, phases, local_answer)


def test_the_operator_hears_events_without_a_break_as_a_user_without_a_name(installed: Cluster) -> None:
    log = Kubectl(installed.control_plane, NAMESPACE)("logs", "deployment/flashplane-operator")
    assert "leading as" in log
    assert "events are watched anew" not in log
