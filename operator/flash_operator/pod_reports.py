"""What the pods of a FlashDeployment say of themselves: failures, why they wait, where the time of a start went. Pure.

Read leniently, as any kubelet writes it. Nothing here counts on what was seen before: restarts, last states and times
are the kubelet's own, so the same pods always give the same answer.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from flash_api import names
from flash_api.v1alpha1.status_details import MILLISECONDS_MAX, ColdStart, LastFailure, ModelFacts

Manifest = Mapping[str, Any]

LINE_MAX: Final = 300
JOB_LABEL: Final = "batch.kubernetes.io/job-name"
BROKEN_WAITS: Final = frozenset(
    {
        "CrashLoopBackOff",
        "ErrImagePull",
        "ImagePullBackOff",
        "InvalidImageName",
        "ErrImageNeverPull",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    }
)
"""Waiting states of a container that do not end by waiting."""


@dataclass(frozen=True)
class Ended:
    """A container that failed, or cannot start."""

    pod: str
    component: str
    container: str
    exit_code: int | None
    reason: str
    message: str
    time: str
    persists: bool
    """The container is not well now: it failed and has not become ready since, or cannot start at all."""


def of_component(pods: Sequence[Manifest], component: str) -> tuple[Manifest, ...]:
    """Those that serve one role and are not on their way out, the newest first."""
    chosen = [
        pod
        for pod in pods
        if (pod["metadata"].get("labels") or {}).get(names.LABEL_COMPONENT) == component
        and not pod["metadata"].get("deletionTimestamp")
    ]
    return tuple(sorted(chosen, key=lambda pod: (_created(pod), _name(pod)), reverse=True))


def last_failure(pods: Sequence[Manifest]) -> LastFailure | None:
    """The newest failure of a container of a pod that still exists; one that cannot start at all comes first."""
    found = max(_failures(pods), key=lambda each: (each.exit_code is None, each.time, each.pod), default=None)
    if found is None:
        return None
    return LastFailure(
        pod=found.pod,
        container=found.container,
        exit_code=found.exit_code,
        reason=found.reason[:64],
        message=found.message,
        time=found.time or None,
    )


def failing(pods: Sequence[Manifest], component: str) -> str | None:
    """Why pods of the role keep failing, as a clause; None while they do not. No counts: they would change for ever."""
    broken = [each for each in _failures(of_component(pods, component)) if each.persists]
    if not broken:
        return None
    worst = max(broken, key=lambda each: (each.exit_code is not None, each.time, each.pod))
    return f"container {worst.container} of pod {worst.pod} {_clause(worst)}"


def waiting(pods: Sequence[Manifest], component: str) -> str | None:
    """Why pods of the role have no node, as a clause; None when all have one."""
    for pod in of_component(pods, component):
        scheduled = _conditions(pod).get("PodScheduled", {})
        if scheduled.get("status") == "False":
            why = one_line(str(scheduled.get("message") or scheduled.get("reason") or "no reason given"))
            return f"pod {_name(pod)} has no node: {why}"
    return None


def cold_start(pods: Sequence[Manifest], previous: ColdStart | None) -> ColdStart | None:
    """Where the time of the newest engine pod's start went, once it is ready.

    A pod that lost its readiness for a while has a younger time for it, so what was found first of a pod stays.
    """
    for pod in of_component(pods, names.COMPONENT_ENGINE):
        if previous is not None and previous.pod == _name(pod):
            return previous
        if _conditions(pod).get("Ready", {}).get("status") == "True":
            return _phases(pod)
    return None


def pulled(pods: Sequence[Manifest], job: str) -> Manifest | None:
    """What the pull of this Job has said at its end; None where no pod of it is left that has succeeded."""
    for pod in pods:
        if (pod["metadata"].get("labels") or {}).get(JOB_LABEL) != job:
            continue
        for status in (pod.get("status") or {}).get("containerStatuses") or ():
            ended = (status.get("state") or {}).get("terminated") or {}
            if status.get("name") == names.CONTAINER_PULL and ended.get("exitCode") == 0:
                return _said(str(ended.get("message") or ""))
    return None


def model_facts(pods: Sequence[Manifest]) -> ModelFacts | None:
    """The model as the newest engine pod's pull has reported it, None where none has."""
    for pod in of_component(pods, names.COMPONENT_ENGINE):
        for status in (pod.get("status") or {}).get("initContainerStatuses") or ():
            written = (status.get("state") or {}).get("terminated") or {}
            if status.get("name") == names.CONTAINER_PULL and written.get("exitCode") == 0:
                facts = _model(str(written.get("message") or ""))
                if facts is not None:
                    return facts
    return None


def tokenizers(pods: Sequence[Manifest], *components: str) -> frozenset[str]:
    """SHA-256 of the tokenizers that pods of these roles have pulled."""
    statuses = (
        status
        for component in components
        for pod in of_component(pods, component)
        for status in (pod.get("status") or {}).get("initContainerStatuses") or ()
        if status.get("name") == names.CONTAINER_PULL
    )
    ended = ((status.get("state") or {}).get("terminated") or {} for status in statuses)
    said = (_said(str(each.get("message") or "")) for each in ended if each.get("exitCode") == 0)
    return frozenset(found for each in said if isinstance(found := each.get("tokenizer"), str) and found)


def one_line(text: str) -> str:
    """The last line that says something, cut to a bound: where programs write why they end."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:LINE_MAX] if lines else ""


def _failures(pods: Sequence[Manifest]) -> Iterator[Ended]:
    for pod in pods:
        status = pod.get("status") or {}
        for field in ("initContainerStatuses", "containerStatuses"):
            for container in status.get(field) or ():
                yield from _failure(pod, container, init=field == "initContainerStatuses")


def _failure(pod: Manifest, container: Manifest, *, init: bool) -> Iterator[Ended]:
    state, last = container.get("state") or {}, container.get("lastState") or {}
    terminated = state.get("terminated") or last.get("terminated") or {}
    waits = state.get("waiting") or {}
    broken = waits.get("reason") in BROKEN_WAITS
    done = init and (state.get("terminated") or {}).get("exitCode") == 0
    where = (_name(pod), str((pod["metadata"].get("labels") or {}).get(names.LABEL_COMPONENT, "")), container["name"])
    if terminated.get("exitCode", 0) != 0:
        yield Ended(
            *where,
            exit_code=max(-255, min(255, int(terminated["exitCode"]))),
            reason=str(terminated.get("reason") or ""),
            message=one_line(str(terminated.get("message") or "")),
            time=str(terminated.get("finishedAt") or ""),
            # A container that runs again may be well: its next probe will tell. One that waits again is not.
            persists=not done
            and not container.get("ready")
            and (broken or int(container.get("restartCount") or 0) > 1),
        )
    elif broken:
        message = one_line(str(waits.get("message") or ""))
        yield Ended(*where, exit_code=None, reason=str(waits["reason"]), message=message, time="", persists=True)


def _clause(ended: Ended) -> str:
    if ended.exit_code is None:
        what = f"cannot start ({ended.reason})"
    else:
        why = f" ({ended.reason})" if ended.reason and ended.reason != "Error" else ""
        what = f"ended with code {ended.exit_code}{why}"
    return f"{what}: {ended.message}" if ended.message else what


def _phases(pod: Manifest) -> ColdStart | None:
    status = pod.get("status") or {}
    conditions = _conditions(pod)
    created = _time(_created(pod))
    scheduled = _time(conditions.get("PodScheduled", {}).get("lastTransitionTime"))
    ready = _time(conditions.get("Ready", {}).get("lastTransitionTime"))
    pull = _ran(status.get("initContainerStatuses"), names.CONTAINER_PULL)
    engine = _ran(status.get("containerStatuses"), names.COMPONENT_ENGINE)
    total = _milliseconds(created, ready)
    if total is None:
        return None
    return ColdStart(
        pod=_name(pod),
        scheduled_milliseconds=_milliseconds(created, scheduled),
        image_milliseconds=_milliseconds(scheduled, pull[0]),
        model_milliseconds=_milliseconds(*pull),
        load_milliseconds=_milliseconds(engine[0], ready),
        total_milliseconds=total,
    )


def _ran(statuses: Any, name: str) -> tuple[datetime | None, datetime | None]:
    """When a container began and, if it has, when it ended."""
    for status in statuses or ():
        if status.get("name") == name:
            state = status.get("state") or {}
            ended, running = state.get("terminated") or {}, state.get("running") or {}
            return _time(ended.get("startedAt") or running.get("startedAt")), _time(ended.get("finishedAt"))
    return None, None


def _milliseconds(begin: datetime | None, end: datetime | None) -> int | None:
    if begin is None or end is None or end < begin:
        return None
    return min(MILLISECONDS_MAX, round((end - begin).total_seconds() * 1000))


def _said(message: str) -> Manifest:
    """The JSON object that a pull leaves, empty for anything else."""
    try:
        said = json.loads(message)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}


def _model(message: str) -> ModelFacts | None:
    said = _said(message)
    if not isinstance(said.get("digest"), str):
        return None
    size = said.get("sizeBytes")
    return ModelFacts(
        name=str(said.get("name") or "")[:256],
        digest=said["digest"][:71],
        size_bytes=size if isinstance(size, int) and size >= 0 else None,
    )


def _conditions(pod: Manifest) -> dict[str, Manifest]:
    return {c.get("type", ""): c for c in (pod.get("status") or {}).get("conditions") or ()}


def _created(pod: Manifest) -> str:
    return str(pod["metadata"].get("creationTimestamp") or "")


def _name(pod: Manifest) -> str:
    return str(pod["metadata"]["name"])


def _time(text: object) -> datetime | None:
    try:
        return datetime.strptime(str(text), "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    except ValueError:
        return None
