"""What `flash status` shows, as plain data: the objects of a FlashDeployment and the processes that serve it."""

from __future__ import annotations

import json
from typing import Any

from flash_api.names import KIND, LABEL_DEPLOYMENT
from flash_operator.local.container import Container
from flash_operator.local.pod import Pod
from flash_operator.local.processes import resident_bytes
from flash_operator.local.store import Manifest, Store
from flash_operator.local.supervisor import Supervisor


def report(store: Store, supervisor: Supervisor) -> list[dict[str, Any]]:
    """One entry for each FlashDeployment."""
    return [_entry(manifest, supervisor) for manifest in store.list(KIND)]


def _entry(manifest: Manifest, supervisor: Supervisor) -> dict[str, Any]:
    metadata = manifest["metadata"]
    pods = [
        pod
        for pod in supervisor.pods()
        if pod.spec.namespace == metadata["namespace"] and pod.spec.labels.get(LABEL_DEPLOYMENT) == metadata["name"]
    ]
    return {"manifest": manifest, "processes": [row for pod in pods for row in _rows(pod)]}


def _rows(pod: Pod) -> list[dict[str, Any]]:
    return [
        _row(pod, container, is_init)
        for is_init, containers in ((True, pod.init), (False, pod.containers))
        for container in containers
    ]


def _row(pod: Pod, container: Container, is_init: bool) -> dict[str, Any]:
    state = container.state
    names = {number: name for name, number in pod.spec.port_names.items()}
    return {
        "pod": pod.spec.name,
        "component": pod.spec.component,
        "container": container.spec.name,
        "init": is_init,
        "revision": pod.revision,
        "state": _state(pod, container, is_init),
        "ready": state.ready,
        "pid": state.pid,
        "ports": {} if is_init else {names.get(number, str(number)): port for number, port in pod.spec.ports.items()},
        "restarts": state.restarts,
        "lastExitCode": state.last_exit_code,
        "lastLine": state.last_line,
        "probeFailure": state.probe_failure,
        "residentBytes": resident_bytes(state.pid) if state.pid is not None else 0,
        "log": str(container.spec.log),
        "progress": progress(container),
    }


def _state(pod: Pod, container: Container, is_init: bool) -> str:
    state = container.state
    if pod.stopping:
        return "Stopping"
    if state.done:
        return "Completed"
    if state.restart_in_seconds is not None:
        return f"Restarting in {state.restart_in_seconds:g} s"
    if state.pid is None:
        return "Waiting"
    return "Running" if state.ready or is_init else "Starting"


def progress(container: Container) -> dict[str, Any] | None:
    """`{phase, done, total, unit}`, at the end of a pull with `{model}`, as the container last wrote it."""
    if container.state.pid is None and not container.state.done:
        return None
    try:
        written = json.loads(container.spec.progress.read_bytes())
    except (OSError, ValueError):
        return None
    return written if isinstance(written, dict) else None
