"""What `flash status`, `explain` and `doctor` show of a cluster in a terminal. Knows rich, asks nobody."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flash_api import names
from flash_api.v1alpha1.status_details import REPLACING
from flash_operator import pod_reports
from flash_operator.cockpit.explain import Sentence
from flash_operator.cockpit.facts import Served
from flash_operator.cockpit.findings import Finding, Severity
from flash_operator.local import view as local_view

Manifest = Mapping[str, Any]

_MARKS: Final = {
    Severity.ERROR: ("✗", "red"),
    Severity.WARNING: ("!", "yellow"),
    Severity.NOTE: ("·", "dim"),
    Severity.OK: ("✓", "green"),
}


def cluster_status(found: Sequence[Served], *, now: datetime, namespaces: bool, details: bool) -> RenderableType:
    """The overview and, of each deployment, everything else."""
    parts: list[RenderableType] = [overview(found, now=now, namespaces=namespaces)]
    for served in found if details else ():
        parts += ["", Text(served.name, style="bold"), deployment(served, now)]
    return Group(*parts)


def overview(found: Sequence[Served], *, now: datetime, namespaces: bool) -> Table:
    """One line for each, as local mode shows them."""
    entries = [{"manifest": served.manifest} for served in found]
    return local_view.overview(entries, running=True, now=now, namespaces=namespaces)


def models(found: Sequence[Manifest], *, namespaces: bool) -> RenderableType:
    """One line for each FlashModel, and below it what keeps it from being ready."""
    table = _table(
        *(("NAMESPACE",) if namespaces else ()), "SHARED MODEL", "READY", "SOURCE", "PACKED", "SIZE", "USED BY"
    )
    waits: list[RenderableType] = []
    for model in found:
        meta, status = model["metadata"], model.get("status") or {}
        ready: Manifest = next((c for c in status.get("conditions") or () if c.get("type") == "Ready"), {})
        size = local_view.size(status["sizeBytes"]) if "sizeBytes" in status else "-"
        table.add_row(
            *((meta["namespace"],) if namespaces else ()),
            meta["name"],
            Text(ready.get("status", "Unknown"), style="green" if ready.get("status") == "True" else "yellow"),
            model["spec"]["source"],
            ", ".join(entry["variant"] for entry in status.get("variants") or ()) or "-",
            size,
            str(status.get("usedBy", 0)),
        )
        if ready and ready["status"] != "True":
            waits.append(_fact(meta["name"], f"{ready.get('reason', '')}: {ready.get('message', '')}", "yellow"))
    return Group(table, *waits)


def deployment(served: Served, now: datetime) -> RenderableType:
    """Conditions, roles, rollout, scaling, the last failure and pods of one."""
    parts: list[RenderableType] = [local_view.conditions(served.status), "", _roles(served)]
    facts = [*_facts(served)]
    if facts:
        parts += ["", *facts]
    if served.pods:
        parts += ["", _pods(served, now)]
    return Group(*parts)


def _roles(served: Served) -> Table:
    table = _table("ROLE", "WANTED", "READY", "UPDATED", "STARTING", "EXIST")
    for role in (names.COMPONENT_ENGINE, names.COMPONENT_DRAFT, names.COMPONENT_GATEWAY):
        counts = served.status.get(role)
        if counts and (role != names.COMPONENT_DRAFT or counts.get("selector")):
            keys = ("desired", "ready", "updated", "starting", "replicas")
            table.add_row(role, *(str(counts.get(key, 0)) for key in keys))
    return table


def _facts(served: Served) -> Iterable[Text]:
    status = served.status
    engine = status.get("engine") or {}
    desired, updated = engine.get("desired", 0), engine.get("updated", 0)
    if trial := _trial(status.get("rollout") or {}):
        yield _fact("ROLLOUT", trial)
    elif updated < desired or engine.get("replicas", 0) > desired:
        yield _fact(
            "ROLLOUT", f"{_bar(updated, desired)} {updated} of {desired} engine pods are of the newest revision"
        )
    if scaling := status.get("scaling"):
        text = f"{scaling.get('desiredReplicas', 0)} wanted, {scaling.get('reason', '')}: {scaling.get('message', '')}"
        yield _fact("SCALING", text.rstrip(": "))
    if model := status.get("model"):
        size = f" · {local_view.size(model['sizeBytes'])}" if "sizeBytes" in model else ""
        yield _fact("MODEL", f"{model.get('name', '')} · {model.get('digest', '')}{size}")
    if worth := local_view.proposals(status):
        yield _fact("DRAFT", worth)
    if felt := status.get("latency"):
        kinds = (("ttftMilliseconds", "to the first token"), ("tpotMilliseconds", "per further token"))
        figures = ", ".join(f"{felt[key]} ms {what}" for key, what in kinds if key in felt)
        yield _fact("FELT", f"{figures}, by nine of ten requests of the last minutes")
    if start := status.get("coldStart"):
        yield _fact("START", f"{start.get('totalMilliseconds', 0) / 1000:g} s from creation to ready")
    if failure := status.get("lastFailure"):
        code = f"code {failure['exitCode']} " if "exitCode" in failure else ""
        text = (
            f"{failure['pod']}/{failure['container']} {code}{failure.get('reason', '')}: {failure.get('message', '')}"
        )
        when = f" ({failure['time']})" if failure.get("time") else ""
        yield _fact("FAILED", f"{text.rstrip(': ')}{when}", "yellow")
    for field in status.get("ignoredFields") or ():
        yield _fact("NOT IN FORCE", field)


def _trial(rollout: Manifest) -> str:
    """How far a revision on trial has got; empty when there is none."""
    step = "Paused" if rollout.get("paused") else rollout.get("step")
    if not step or rollout.get("step") == REPLACING:
        return ""
    beside = f" beside {rollout['previousRevision']}" if rollout.get("previousRevision") else ""
    share = f", {rollout['canaryPercent']} % of the requests" if rollout.get("canaryPercent") else ""
    history: Sequence[Manifest] = rollout.get("history") or ({},)
    last = history[0]
    why = f". {last['reason']}: {last.get('message', '')}" if last.get("reason") else ""
    return f"revision {rollout.get('revision', '')}{beside}: {step}{share}{why}"


def _pods(served: Served, now: datetime) -> Table:
    table = _table("POD", "ROLE", "READY", "STATE", "RESTARTS", "NODE", "AGE")
    for pod in sorted(served.pods, key=lambda each: str(each["metadata"]["name"])):
        meta, status = pod["metadata"], pod.get("status") or {}
        containers = status.get("containerStatuses") or ()
        ready = sum(bool(container.get("ready")) for container in containers)
        table.add_row(
            meta["name"],
            (meta.get("labels") or {}).get(names.LABEL_COMPONENT, ""),
            f"{ready}/{len((pod.get('spec') or {}).get('containers') or containers)}",
            _state(pod),
            str(sum(int(container.get("restartCount") or 0) for container in containers)),
            (pod.get("spec") or {}).get("nodeName") or "-",
            local_view.age(meta["creationTimestamp"], now),
        )
    return table


def _state(pod: Manifest) -> str:
    """As `kubectl get pods` says it: the first container that waits for a reason of its own, else the phase."""
    if pod["metadata"].get("deletionTimestamp"):
        return "Terminating"
    status = pod.get("status") or {}
    for field, prefix in (("initContainerStatuses", "Init:"), ("containerStatuses", "")):
        for container in status.get(field) or ():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason") in pod_reports.BROKEN_WAITS:
                return f"{prefix}{waiting['reason']}"
    return str(status.get("phase") or "Unknown")


def explanation(sentences: Sequence[Sentence]) -> Table:
    """Sentences under their topics."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    before = ""
    for sentence in sentences:
        table.add_row("" if sentence.topic == before else sentence.topic, Text(sentence.text))
        before = sentence.topic
    return table


def diagnosis(findings: Sequence[Finding]) -> RenderableType:
    """One line for each finding, and below it what to do."""
    lines: list[RenderableType] = []
    for finding in findings:
        mark, style = _MARKS[finding.severity]
        joint = " " if finding.severity is Severity.OK else ": "
        lines.append(Text.assemble((f"{mark} ", style), (finding.subject, "bold"), joint, finding.cause))
        if finding.remedy:
            lines.append(Text(f"    {finding.remedy}", style="green"))
    return Group(*lines)


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def _fact(name: str, text: str, style: str = "") -> Text:
    return Text.assemble((f"{name}  ", "bold"), (text, style))


def _bar(done: int, total: int, width: int = 20) -> str:
    filled = width * done // total if total else 0
    return "█" * filled + "░" * (width - filled)
