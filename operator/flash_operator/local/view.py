"""What local mode shows in a terminal. Knows rich and the shape of a report, asks nobody."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from flash_operator.local.follow import Failed

_ABNORMAL = frozenset({"Reconciling", "Stalled"})
"""Conditions that are good when false."""


def condition(entry: Mapping[str, Any], kind: str) -> Mapping[str, Any]:
    status = entry["manifest"].get("status") or {}
    return next((c for c in status.get("conditions", ()) if c["type"] == kind), {})


def overview(entries: Sequence[Mapping[str, Any]], *, running: bool, now: datetime, namespaces: bool = False) -> Table:
    """One line for each deployment, as `kubectl get fd` prints it; with `-A` also the namespace."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    columns = ("NAME", "READY", "VARIANT", "MODEL", "REPLICAS", "TTFT", "ENDPOINT", "AGE")
    for column in (*(("NAMESPACE",) if namespaces else ()), *columns):
        table.add_column(column, overflow="fold", no_wrap=column != "MODEL")
    for entry in entries:
        manifest = entry["manifest"]
        status, spec = manifest.get("status") or {}, manifest["spec"]
        ready = condition(entry, "Ready").get("status", "Unknown") if running else "stopped"
        table.add_row(
            *((manifest["metadata"]["namespace"],) if namespaces else ()),
            manifest["metadata"]["name"],
            Text(ready, style="green" if ready == "True" else "yellow"),
            spec.get("variant", "Lite"),
            spec["model"].get("source") or spec["model"].get("modelRef", {}).get("name", ""),
            status.get("replicas", "") if running else "-",
            _milliseconds((status.get("latency") or {}).get("ttftMilliseconds")) if running else "-",
            status.get("endpoint", "") if running else "-",
            age(manifest["metadata"]["creationTimestamp"], now),
        )
    return table


def _milliseconds(felt: int | None) -> str:
    return "" if felt is None else f"{felt} ms"


def conditions(status: Mapping[str, Any]) -> Table:
    """The conditions of a status; what one repeats of another is said once."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("CONDITION", "STATUS", "REASON", "MESSAGE"):
        table.add_column(column, overflow="fold")
    said: set[str] = set()
    for fact in status.get("conditions", ()):
        good = fact["status"] == ("False" if fact["type"] in _ABNORMAL else "True")
        text = Text(fact["status"], style="green" if good else "yellow")
        message = fact.get("message", "")
        table.add_row(fact["type"], text, fact["reason"], "(as above)" if message in said else message)
        said |= {message} - {""}
    return table


def details(entry: Mapping[str, Any]) -> RenderableType:
    """Conditions, processes and what does not hold here."""
    status = entry["manifest"].get("status") or {}
    processes = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("PROCESS", "STATE", "PID", "PORTS", "RESTARTS", "MEMORY", "EXIT"):
        # In a narrow terminal only what is made of several words may wrap.
        processes.add_column(column, overflow="fold", no_wrap=column in ("PROCESS", "PID", "MEMORY"))
    for row in entry["processes"]:
        if not row["init"] or row["pid"] or row["restarts"]:
            processes.add_row(*_process(row, entry["manifest"]["metadata"]["name"]))
    parts: list[RenderableType] = [conditions(status)]
    for use, by in credits(entry["processes"]).items():
        parts += ["", Text.assemble((f"{use.upper()}  ", "bold"), by)]
    if worth := proposals(status):
        parts += ["", Text.assemble(("DRAFT  ", "bold"), worth)]
    if processes.row_count:
        parts += ["", processes]
    if ignored := status.get("ignoredFields"):
        parts += ["", Text("Not in force on this machine:", style="bold"), *(f"  {field}" for field in ignored)]
    return Group(*parts)


def proposals(status: Mapping[str, Any]) -> str:
    """What proposals for speculative decoding are worth; empty where there is no draft, or nothing is known yet."""
    draft = status.get("draft") or {}
    if "active" not in draft:
        return ""
    parts = ["proposals are used" if draft["active"] else f"proposals are not used ({draft.get('whyNot', 'Unknown')})"]
    if "acceptancePercent" in draft:
        parts.append(f"{draft['acceptancePercent']} % of them hold")
    if "tokensPerStep" in draft:
        parts.append(f"{draft['tokensPerStep']} tokens a step")
    if "speedupPercent" in draft:
        parts.append(f"{draft['speedupPercent'] / 100:.2f}x as fast as without, measured")
    return ", ".join(parts)


def _process(row: Mapping[str, Any], deployment: str) -> Iterator[str]:
    container = "" if row["container"] == row["component"] else f" {row['container']}"
    yield f"{row['pod'].removeprefix(f'{deployment}-')}{container}"
    yield row["state"] + (f" ({row['probeFailure']})" if row["probeFailure"] else "")
    yield str(row["pid"] or "-")
    yield " ".join(f"{name}:{port}" for name, port in row["ports"].items()) or "-"
    yield str(row["restarts"])
    yield size(row["residentBytes"]) if row["residentBytes"] else "-"
    if row["lastExitCode"] is None:
        yield "-"
    else:
        # Of a process that recovered, its former last words say nothing about now.
        yield str(row["lastExitCode"]) if row["ready"] else f"{row['lastExitCode']}: {row['lastLine']}"


def credits(processes: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """Whose `model` is served, and whose `draft` helps, under which licences; what no pull has told is left out."""
    found: dict[str, str] = {}
    for row in sorted(processes, key=lambda row: row["component"] == "draft"):
        if model := (row["progress"] or {}).get("model"):
            use = "draft" if row["component"] == "draft" else "model"
            found.setdefault(
                use, " · ".join(model[field] for field in ("name", "license", "attribution") if field in model)
            )
    return found


def up_message(
    name: str, endpoint: str, seconds: float, *, api_key: bool, credits: Mapping[str, str]
) -> RenderableType:
    """What to do with a deployment that is up."""
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    key = "the key of its Secret" if api_key else "any text as api_key"
    table.add_row("OpenAI API", Text(endpoint, style="bold cyan"), f'model "{name}", {key}')
    for use, by in credits.items():
        table.add_row(use, Text(by.partition(" · ")[0]), by.partition(" · ")[2])
    table.add_row("talk to it", Text(f"flash chat {name}", style="bold"))
    table.add_row("look at it", Text("flash status", style="bold"), f"logs: flash logs {name} -f")
    table.add_row("stop it", Text(f"flash down {name}", style="bold"))
    return Group(Text.assemble(("✓ ", "green"), (name, "bold"), f" is ready ({seconds:.1f} s)"), table)


def failure_message(name: str, failed: Failed, log_lines: Sequence[str]) -> RenderableType:
    """Why a deployment does not come up, what to do, and the last words of what failed."""
    parts: list[RenderableType] = [
        Text.assemble(("✗ ", "red"), (name, "bold"), f" is not ready: {failed.condition} is {failed.reason}"),
        Text(f"  {failed.message}"),
    ]
    if failed.remedy:
        parts.append(Text(f"  {failed.remedy}", style="bold"))
    if log_lines:
        parts += ["", Text(f"  {failed.log}", style="dim"), *(Text(f"  | {line}", style="dim") for line in log_lines)]
    return Group(*parts)


def age(created: str, now: datetime) -> str:
    seconds = int((now - datetime.strptime(created, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)).total_seconds())
    for unit, length in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= length:
            return f"{seconds // length}{unit}"
    return f"{max(0, seconds)}s"


def size(count: float) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"
