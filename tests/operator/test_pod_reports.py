"""What pods say becomes the status: failures with their last line, why there is no node, the phases of a start."""

from typing import Any

import pytest

from flash_api import names
from flash_api.v1alpha1.status import ColdStart
from flash_operator import pod_reports


def a_pod(
    name: str = "chat-engine-1", component: str = "engine", *, created: str = "2026-01-01T12:00:00Z", **status: Any
) -> dict[str, Any]:
    labels = {names.LABEL_DEPLOYMENT: "chat", names.LABEL_COMPONENT: component}
    return {"metadata": {"name": name, "labels": labels, "creationTimestamp": created}, "status": status}


def a_container(name: str = "engine", *, restarts: int = 0, ready: bool = False, **states: Any) -> dict[str, Any]:
    return {"name": name, "restartCount": restarts, "ready": ready, **states}


def died(code: int = 137, reason: str = "OOMKilled", at: str = "2026-01-01T12:05:00Z", **rest: Any) -> dict[str, Any]:
    return {"terminated": {"exitCode": code, "reason": reason, "finishedAt": at, **rest}}


def waits(reason: str, message: str = "") -> dict[str, Any]:
    return {"waiting": {"reason": reason, "message": message}}


CRASHING = a_container(restarts=1, state=waits("CrashLoopBackOff", "back-off 10s"), lastState=died())


def test_the_last_failure_names_container_code_and_the_last_line() -> None:
    log = "loading\nerror: digest mismatch\n\n"
    pod = a_pod(initContainerStatuses=[a_container("pull", state=died(3, "Error", message=log))])
    found = pod_reports.last_failure([pod])
    assert found is not None
    assert (found.pod, found.container, found.exit_code) == ("chat-engine-1", "pull", 3)
    assert (found.reason, found.message, found.time) == ("Error", "error: digest mismatch", "2026-01-01T12:05:00Z")


def test_the_newest_of_several_failures_is_told() -> None:
    pods = [
        a_pod(str(n), containerStatuses=[a_container(lastState=died(n, at=f"2026-01-01T12:0{n}:00Z"))])
        for n in (2, 3, 1)
    ]
    assert getattr(pod_reports.last_failure(pods), "exit_code", None) == 3


def test_what_cannot_start_at_all_comes_before_what_ended() -> None:
    pods = [
        a_pod("a", containerStatuses=[a_container(lastState=died())]),
        a_pod("b", containerStatuses=[a_container(state=waits("ImagePullBackOff", "not found"))]),
    ]
    found = pod_reports.last_failure(pods)
    assert found is not None
    assert (found.pod, found.exit_code, found.reason, found.message) == ("b", None, "ImagePullBackOff", "not found")


def test_containers_that_ended_well_are_no_failure() -> None:
    pod = a_pod(initContainerStatuses=[a_container("pull", ready=True, state=died(0, "Completed"))])
    assert pod_reports.last_failure([pod]) is None


@pytest.mark.parametrize(
    ("container", "says"),
    [
        (CRASHING, "container engine of pod chat-engine-1 ended with code 137 (OOMKilled)"),
        (a_container(restarts=2, state={"running": {}}, lastState=died(1, "Error", message="no")), "with code 1: no"),
        (a_container(state=waits("ImagePullBackOff", "not found")), "cannot start (ImagePullBackOff): not found"),
        (a_container(state=waits("CreateContainerConfigError", 'secret "k" not found')), 'secret "k" not found'),
    ],
)
def test_a_container_that_keeps_failing_is_named(container: dict[str, Any], says: str) -> None:
    assert says in str(pod_reports.failing([a_pod(containerStatuses=[container])], "engine"))


@pytest.mark.parametrize(
    "container",
    [
        a_container(restarts=1, state={"running": {}}, lastState=died()),
        a_container(restarts=9, ready=True, state={"running": {}}, lastState=died()),
        a_container(state=waits("ContainerCreating")),
        a_container(state=waits("PodInitializing")),
    ],
)
def test_a_container_that_may_yet_be_well_does_not_keep_failing(container: dict[str, Any]) -> None:
    assert pod_reports.failing([a_pod(containerStatuses=[container])], "engine") is None


def test_a_crash_loop_is_told_in_the_same_words_after_each_crash() -> None:
    def told(restarts: int) -> str | None:
        crashed = a_container(restarts=restarts, state=waits("CrashLoopBackOff"), lastState=died())
        return pod_reports.failing([a_pod(containerStatuses=[crashed])], "engine")

    assert told(2) is not None
    assert told(2) == told(30)


def test_a_pod_of_another_role_or_on_its_way_out_does_not_count() -> None:
    gateway = a_pod("g", "gateway", containerStatuses=[CRASHING])
    leaving = a_pod(containerStatuses=[CRASHING])
    leaving["metadata"]["deletionTimestamp"] = "2026-01-01T12:00:00Z"
    assert pod_reports.failing([gateway, leaving], "engine") is None


def test_a_pod_without_a_node_says_why() -> None:
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/3 nodes fit"}
    assert pod_reports.waiting([a_pod(conditions=[condition])], "engine") == (
        "pod chat-engine-1 has no node: 0/3 nodes fit"
    )


def a_started_pod(name: str = "chat-engine-1", *, ready_at: str = "12:00:30") -> dict[str, Any]:
    return a_pod(
        name,
        conditions=[
            {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2026-01-01T12:00:01Z"},
            {"type": "Ready", "status": "True", "lastTransitionTime": f"2026-01-01T{ready_at}Z"},
        ],
        initContainerStatuses=[
            {
                "name": "pull",
                "state": died(
                    0,
                    "Completed",
                    "2026-01-01T12:00:26Z",
                    startedAt="2026-01-01T12:00:05Z",
                    message='{"name": "smollm2", "digest": "sha256:ab", "sizeBytes": 7}',
                ),
            }
        ],
        containerStatuses=[a_container(ready=True, state={"running": {"startedAt": "2026-01-01T12:00:27Z"}})],
    )


def test_a_start_is_split_into_its_phases() -> None:
    assert pod_reports.cold_start([a_started_pod()], None) == ColdStart(
        pod="chat-engine-1",
        scheduled_milliseconds=1000,
        image_milliseconds=4000,
        model_milliseconds=21_000,
        load_milliseconds=3000,
        total_milliseconds=30_000,
    )


def test_a_pod_that_lost_its_readiness_for_a_while_keeps_the_times_of_its_start() -> None:
    first = pod_reports.cold_start([a_started_pod()], None)
    assert pod_reports.cold_start([a_started_pod(ready_at="13:00:00")], first) == first
    unready = a_pod(conditions=[{"type": "Ready", "status": "False"}])
    assert pod_reports.cold_start([unready], first) == first
    other = pod_reports.cold_start([a_started_pod("chat-engine-2"), unready], first)
    assert other is not None
    assert other.pod == "chat-engine-2"


def test_a_pod_that_is_not_ready_yet_has_not_started() -> None:
    assert pod_reports.cold_start([a_pod(conditions=[{"type": "Ready", "status": "False"}])], None) is None


def test_times_that_cannot_be_are_not_told() -> None:
    assert pod_reports.cold_start([a_started_pod(ready_at="11:00:00")], None) is None


def test_the_model_is_what_the_pull_has_reported() -> None:
    found = pod_reports.model_facts([a_started_pod()])
    assert found is not None
    assert (found.name, found.digest, found.size_bytes) == ("smollm2", "sha256:ab", 7)


@pytest.mark.parametrize("message", ["", "done", "[]", '{"name": "x"}'])
def test_last_words_that_are_no_report_say_nothing_of_the_model(message: str) -> None:
    pod = a_started_pod()
    pod["status"]["initContainerStatuses"][0]["state"]["terminated"]["message"] = message
    assert pod_reports.model_facts([pod]) is None
