"""The main path as a user walks it: the chart installed, the demo's own manifest applied, a chat, and nothing left.

The pods are our images under a kubelet, behind Services and NetworkPolicies that are enforced, as uid 65532 with a
read-only root. `make e2e` prints where the time goes.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from chatting import forwarded, streamed, streamed_in_a_pod
from cluster import Cluster
from installation import IS_FULL, ROOT
from operator_process import Kubectl, eventually
from phases import Phases
from shown import check_nothing_is_left, columns, condition, ready

DRAFT_SECONDS = 240
"""Figures of drafts come from two looks of a gateway, at least 10 s apart, and from tokens in between."""


@contextmanager
def the_path(
    example: str, name: str, installed: Cluster, kubectl: Kubectl, phases: Phases, answer: str
) -> Iterator[str]:
    """Served and asked from everywhere, inside; the base URL on this host. Deleted, outside."""
    manifest = str(ROOT / "examples" / f"{example}.yaml")
    with phases(f"{name}: apply to Ready"):
        kubectl("apply", "-f", manifest)
        ready(kubectl, name)
    start = eventually("the start is told in phases", lambda: kubectl.get("fd", name)["status"].get("coldStart"))
    print(json.dumps(start, indent=1))

    with phases(f"{name}: a streamed chat from a pod"):
        kubectl("wait", "--for=condition=Ready", "pod/client", "--timeout=60s")
        said = streamed_in_a_pod(kubectl, "client", f"http://{name}-gateway:8080/v1", name)
    assert said["text"] == answer
    assert said["ends"] == 1
    assert int(str(said["pieces"])) > 1, "it comes in one piece"

    plane = installed.control_plane
    with forwarded(plane.binaries.kubectl, plane.kubeconfig, f"{name}-gateway", 8080, kubectl.namespace) as base_url:
        with phases(f"{name}: a streamed chat from the host"):
            assert "".join(streamed(base_url, name)) == answer
        yield base_url

    for pod in kubectl.items("pods", "-l", f"flashplane.dev/deployment={name}"):
        assert pod["spec"]["securityContext"]["runAsUser"] == 65532
        assert all(c["restartCount"] == 0 for c in pod["status"]["containerStatuses"]), pod["metadata"]["name"]

    with phases(f"{name}: deleted, nothing left"):
        kubectl("delete", "-f", manifest, "--timeout=60s")
        check_nothing_is_left(kubectl, name)


@pytest.mark.timeout(900)
def test_the_demo_manifest_serves_the_same_answer_on_a_cluster_and_leaves_nothing(
    installed: Cluster, kubectl: Kubectl, phases: Phases, local_answer: str
) -> None:
    assert "Paris" in local_answer
    with the_path("quickstart", "quickstart", installed, kubectl, phases, local_answer):
        found = condition(kubectl, "quickstart", "NetworkIsolated")
        assert (found["status"], found["reason"]) == ("True", "PolicyEnforced")


@pytest.mark.timeout(900)
@pytest.mark.skipif(not IS_FULL, reason="draft pods are part of `make e2e-full`")
def test_draft_pods_leave_the_answer_as_it_is_and_the_status_tells_what_they_are_worth(
    installed: Cluster, kubectl: Kubectl, phases: Phases, local_answer: str
) -> None:
    with the_path("draft", "drafted", installed, kubectl, phases, local_answer) as base_url:
        kubectl("wait", "--for=condition=DraftReady", "fd/drafted", "--timeout=120s")

        def told() -> dict[str, Any]:
            assert "".join(streamed(base_url, "drafted")) == local_answer
            draft: dict[str, Any] = kubectl.get("fd", "drafted")["status"]["draft"]
            # Engines stop asking where proposals cost more than they bring, and say that it is so.
            explained = draft.get("active") or draft.get("whyNot")
            return draft if explained and "acceptancePercent" in draft else {}

        with phases("drafted: chats until the status has figures"):
            draft = eventually("the status tells what drafts are worth", told, seconds=DRAFT_SECONDS)
        assert (draft["desired"], draft["ready"]) == (1, 1)
        assert 0 < draft["acceptancePercent"] <= 100
        print(json.dumps(draft, indent=1))

        def shown() -> bool:
            row, status = columns(kubectl, "fd", "drafted"), kubectl.get("fd", "drafted")["status"]["draft"]
            wanted = (str(status["active"]).lower(), str(status["acceptancePercent"]))
            return (row["DRAFT"], row["DRAFTING"], row["ACCEPTED"]) == ("Pods", *wanted)

        eventually("`kubectl get fd -o wide` shows the same", shown)
