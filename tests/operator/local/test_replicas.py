"""The status that a deployment controller would write."""

from __future__ import annotations

from typing import Any

from flash_operator.local.replicas import Look, deployment_status
from flash_operator.local.rollout import PodFact

DEPLOYMENT = {"metadata": {"generation": 3}, "spec": {"replicas": 2, "progressDeadlineSeconds": 600}}


def a_pod(revision: str = "new", *, ready: bool = True, stopping: bool = False) -> PodFact:
    return PodFact(f"pod-{revision}", revision, 0, ready, stopping)


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str]]:
    return {entry["type"]: (entry["status"], entry["message"]) for entry in status["conditions"]}


def test_counts_leave_out_pods_on_their_way_out() -> None:
    look = Look([a_pod(), a_pod("old"), a_pod(ready=False), a_pod("old", stopping=True)], "new")
    status = deployment_status(DEPLOYMENT, look)
    counts = {key: status[key] for key in ("observedGeneration", "replicas", "updatedReplicas", "readyReplicas")}
    assert counts == {"observedGeneration": 3, "replicas": 3, "updatedReplicas": 2, "readyReplicas": 2}


def test_a_failure_is_told_with_its_cause() -> None:
    status = deployment_status(DEPLOYMENT, Look([], "new", failure="container engine exited 1"))
    assert conditions(status)["ReplicaFailure"] == ("True", "container engine exited 1")


def test_without_a_failure_there_is_no_word_of_one() -> None:
    assert "ReplicaFailure" not in conditions(deployment_status(DEPLOYMENT, Look([a_pod()], "new")))


def test_no_progress_within_the_deadline_is_said() -> None:
    late = deployment_status(DEPLOYMENT, Look([a_pod(ready=False)], "new", failing_seconds=601))
    assert conditions(late)["Progressing"] == ("False", "no pod became ready within 600 s")
    in_time = deployment_status(DEPLOYMENT, Look([a_pod(ready=False)], "new", failing_seconds=599))
    assert conditions(in_time)["Progressing"][0] == "True"
