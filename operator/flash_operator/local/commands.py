"""The commands of local mode: `flash up`, `chat`, `logs`, `down`, and the part of `status` about this machine.

Says and asks; the work is elsewhere.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

from flash_operator.local import chat as chats
from flash_operator.local import view
from flash_operator.local.client import Client, Snapshot, resolve
from flash_operator.local.follow import AtZero, Failed, Up, steps, verdict
from flash_operator.local.logs import end_of_log, read_new, tail
from flash_operator.local.place import Place, state_dir
from flash_operator.local.store import Manifest, StoreError
from flash_operator.local.tritonserver import TritonserverMissingError, provide
from flash_operator.local.waiting import Waiting
from flash_operator.local.wire import DaemonRefusedError, DaemonUnavailableError

POLL_SECONDS = 0.1
_LOG_LINES = 12
_EXIT_INTERRUPTED = 130

_WIDTH_WITHOUT_TERMINAL = 200

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)
err = Console(highlight=False, width=None if sys.stderr.isatty() else _WIDTH_WITHOUT_TERMINAL, stderr=True)

Files = Annotated[
    list[Path],
    typer.Option(
        "--file",
        "-f",
        help="Manifest with FlashDeployments, and the FlashModels and Secrets they name; - reads standard input.",
    ),
]
Name = Annotated[str | None, typer.Argument(help="Name of the FlashDeployment; not needed when there is only one.")]
Namespace = Annotated[str | None, typer.Option("--namespace", "-n", help="Only if the name exists in several.")]
MaxTokens = Annotated[int, typer.Option(min=1, help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(min=0, max=2, help="0 = always the likeliest token; higher = more varied.")]
ApiKey = Annotated[
    str | None,
    typer.Option(envvar="FLASHPLANE_API_KEY", show_envvar=True, help="Unset = the first key of the local Secret."),
]


def register(app: typer.Typer) -> None:
    """Add the commands to the `flash` program."""
    panel = "This machine"
    app.command("up", rich_help_panel=panel)(up)
    app.command("chat", rich_help_panel=panel)(chat)
    app.command("logs", rich_help_panel=panel)(logs)
    app.command("down", rich_help_panel=panel)(down)


def up(
    file: Files,
    prompt: Annotated[str | None, typer.Option(help="Ask this as soon as it is up.")] = None,
    timeout: Annotated[float, typer.Option(min=1, help="Give up waiting after so many seconds.")] = 900,
) -> None:
    """Serve a manifest on this machine, as plain processes, and wait until it answers.

    Runs the operator's own reconcile loop in the background, so the same manifest works on a cluster unchanged. Run it
    again with an edited manifest: the running deployment rolls to it, and no request is refused meanwhile. What a
    process cannot honour (limits, visibility) is listed by `flash status`.
    """
    # Imported here: pydantic is the slowest import of all, and no other command needs it.
    from flash_operator.local import manifests

    started = time.monotonic()
    client = Client(_place())
    starting = None
    try:
        starting = client.start_daemon()  # it starts while the manifest is read
        wanted = manifests.read(file)
        _provide_tritonserver()
        client.wait_for_daemon(starting)  # from here on, nothing that a former daemon left holds a port
        manifests.require_free_ports(wanted.deployments, client.snapshot())
        applied = client.apply([*wanted.secrets, *wanted.models, *wanted.deployments])
    except (
        manifests.ManifestError,
        TritonserverMissingError,
        DaemonUnavailableError,
        DaemonRefusedError,
        KeyboardInterrupt,
    ) as error:
        client.abandon_daemon(starting)
        _fail(str(error) or "interrupted; nothing was started")
    if not wanted.deployments:
        out.print("Nothing to serve: a FlashModel is pulled here as soon as a FlashDeployment names it.")
    try:
        for manifest in applied:
            if manifest["kind"] == "FlashDeployment":
                _wait_until_up(client, manifest, started, timeout)
    except KeyboardInterrupt:
        err.print("It goes on in the background; look at it: flash status, stop it: flash down")
        raise typer.Exit(_EXIT_INTERRUPTED) from None
    if prompt is not None and wanted.deployments:
        metadata = wanted.deployments[0]["metadata"]
        entry = resolve(client.snapshot(), metadata["name"], metadata["namespace"])
        _ask(_question(prompt, None, 256, 0.0), entry, api_key=_stored_key(entry))


def chat(
    name: Name = None,
    prompt: Annotated[str | None, typer.Option(help="Ask this and leave; unset = a conversation.")] = None,
    system: Annotated[str | None, typer.Option(help="Instructions that come before the conversation.")] = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.0,
    api_key: ApiKey = None,
    namespace: Namespace = None,
) -> None:
    """Talk to a deployment through its OpenAI endpoint, and see how fast it answers."""
    entry = _entry(name, namespace)
    key = api_key or _stored_key(entry)
    if prompt is not None:
        _ask(_question(prompt, system, max_tokens, temperature), entry, api_key=key)
        return
    out.print("[dim]An empty line or Ctrl-D ends the conversation.[/dim]")
    messages: list[chats.Message] = [{"role": "system", "content": system}] if system else []
    while line := _read_line():
        messages.append({"role": "user", "content": line})
        answer = _ask(chats.Question(messages, max_tokens, temperature), entry, api_key=key)
        messages.append({"role": "assistant", "content": answer})


def status(
    name: Name = None,
    *,
    as_json: bool = False,
    namespace: Namespace = None,
) -> None:
    """Show deployments: conditions, processes with their ports and restarts, and fields that do not hold here.

    The part of `flash status` that is about this machine.
    """
    snapshot = _snapshot()
    entries = [_resolved(snapshot, name, namespace)] if name else list(snapshot.deployments)
    if as_json:
        print(json.dumps({"daemonPid": snapshot.daemon_pid, "deployments": entries}, indent=2))
        return
    if not entries:
        out.print("Nothing is deployed on this machine. Start with: flash up -f MANIFEST (of a cluster: --cluster)")
        return
    out.print(view.overview(entries, running=snapshot.daemon_pid is not None, now=datetime.now(UTC)))
    if snapshot.daemon_pid is None:
        out.print("\nThe background process does not run; flash up -f MANIFEST starts it again.")
        return
    for entry in entries:
        out.print()
        if len(entries) > 1:
            out.print(f"[bold]{entry['manifest']['metadata']['name']}[/bold]")
        out.print(view.details(entry))


def logs(
    name: Name = None,
    component: Annotated[str | None, typer.Argument(help="engine or gateway; unset = both.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with what comes, until Ctrl-C.")] = False,
    lines: Annotated[int, typer.Option(min=0, help="Lines of each process to begin with.")] = 100,
    namespace: Namespace = None,
) -> None:
    """Show what the processes of a deployment wrote. Prompts and answers are never in there."""
    entry = _entry(name, namespace)
    offsets: dict[str, int] = {}
    with contextlib.suppress(KeyboardInterrupt):
        while True:
            for row in entry["processes"]:
                if component in (None, row["component"]):
                    _show_log(row, offsets, lines)
            if not follow:
                return
            time.sleep(POLL_SECONDS * 3)
            entry = _entry(entry["manifest"]["metadata"]["name"], entry["manifest"]["metadata"]["namespace"])


def down(
    name: Name = None,
    everything: Annotated[bool, typer.Option("--all", help="Stop every deployment.")] = False,
    namespace: Namespace = None,
) -> None:
    """Stop a deployment. Running requests may finish; downloads and packed models stay in the cache."""
    client = Client(_place())
    snapshot = _snapshot()
    entries = list(snapshot.deployments) if everything else [_resolved(snapshot, name, namespace)]
    metadata = [entry["manifest"]["metadata"] for entry in entries]
    with err.status("stopping") as spinner:
        client.down(
            [(item["namespace"], item["name"]) for item in metadata],
            waiting=lambda count: spinner.update(f"stopping: {count} pods finish their requests"),
        )
    for item in metadata:
        out.print(f"[green]✓[/green] {item['name']} is stopped")
    if not metadata:
        out.print("Nothing was deployed.")


def _wait_until_up(client: Client, applied: Manifest, started: float, timeout: float) -> None:
    metadata = applied["metadata"]
    deadline = time.monotonic() + timeout
    with Waiting(err, metadata["name"]) as waiting:
        while True:
            snapshot = client.snapshot()
            try:
                entry = resolve(snapshot, metadata["name"], metadata["namespace"])
            except LookupError:
                _fail(f"{metadata['name']} was removed by someone else")
            if snapshot.daemon_pid is None:
                _fail(f"the background process has ended; its log: {client.place.daemon_log}")
            seen = verdict(entry, generation=metadata["generation"])
            if isinstance(seen, Up | AtZero | Failed):
                break
            if time.monotonic() > deadline:
                _fail(
                    f"{metadata['name']} is not ready after {timeout:g} s: {seen.message.rstrip('.')}; see flash status"
                )
            waiting.show(seen.message, steps(entry["processes"]))
            time.sleep(POLL_SECONDS)
    if isinstance(seen, Failed):
        err.print(view.failure_message(metadata["name"], seen, tail(Path(seen.log), _LOG_LINES) if seen.log else ()))
        err.print("  It is tried again in the background; mend the cause, or stop it: flash down", style="dim")
        raise typer.Exit(1)
    if isinstance(seen, AtZero):
        out.print(f"[green]✓[/green] [bold]{metadata['name']}[/bold] is as it should be: {seen.message}")
        return
    asks_for_key = _stored_key(entry) is not None
    seconds, credits = time.monotonic() - started, view.credits(entry["processes"])
    out.print(view.up_message(metadata["name"], seen.endpoint, seconds, api_key=asks_for_key, credits=credits))


def _provide_tritonserver() -> None:
    with Waiting(err, "tritonserver") as waiting:
        provide(lambda phase, done, total: waiting.show(phase, [(phase, done, total, "bytes")]))


def _ask(question: chats.Question, entry: dict[str, Any], *, api_key: str | None) -> str:
    name, endpoint = entry["manifest"]["metadata"]["name"], _endpoint(entry)
    answer = chats.Answer()
    try:
        for piece in chats.stream(
            endpoint, question, model=name, api_key=api_key, clock=time.perf_counter, answer=answer
        ):
            print(piece, end="", flush=True)
    except chats.ChatError as error:
        _fail(str(error))
    except KeyboardInterrupt:
        pass  # the answer so far stands
    print(flush=True)
    if answer.timing is not None:
        out.print(str(answer.timing), style="dim")
    return answer.text


def _question(prompt: str, system: str | None, max_tokens: int, temperature: float) -> chats.Question:
    messages = [{"role": "system", "content": system}] if system else []
    return chats.Question([*messages, {"role": "user", "content": prompt}], max_tokens, temperature)


def _read_line() -> str:
    with contextlib.suppress(ImportError):
        import readline  # noqa: F401  (gives input() a history and an editor)
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return ""


def _show_log(row: dict[str, Any], offsets: dict[str, int], lines: int) -> None:
    path = Path(row["log"])
    prefix = f"{row['component']}/{row['container']} | "
    if row["log"] not in offsets:
        offsets[row["log"]] = end_of_log(path)
        fresh = tail(path, lines) if lines else []
    else:
        fresh, offsets[row["log"]] = read_new(path, offsets[row["log"]])
    for line in fresh:
        print(f"{prefix}{line}", flush=True)


def _stored_key(entry: dict[str, Any]) -> str | None:
    from flash_operator.local.clock import utc_timestamp
    from flash_operator.local.secrets import first_api_key
    from flash_operator.local.store import Store

    return first_api_key(Store(_place().objects, now=utc_timestamp), entry["manifest"])


@dataclass(frozen=True)
class LocalEndpoint:
    """How to reach a deployment of this machine."""

    base_url: str
    model: str
    api_key: str | None


def local_endpoint(name: str | None, namespace: str | None) -> LocalEndpoint:
    """Of the named deployment, or the only one; ends the program with what there is instead."""
    entry = _entry(name, namespace)
    return LocalEndpoint(_endpoint(entry), entry["manifest"]["metadata"]["name"], _stored_key(entry))


def _endpoint(entry: dict[str, Any]) -> str:
    endpoint: str = (entry["manifest"].get("status") or {}).get("endpoint", "")
    if not endpoint:
        _fail(f"{entry['manifest']['metadata']['name']} has no endpoint yet; see flash status")
    return endpoint


def _entry(name: str | None, namespace: str | None) -> dict[str, Any]:
    return _resolved(_snapshot(), name, namespace)


def _resolved(snapshot: Snapshot, name: str | None, namespace: str | None) -> dict[str, Any]:
    try:
        return resolve(snapshot, name, namespace)
    except LookupError as error:
        _fail(str(error))


def _snapshot() -> Snapshot:
    try:
        return Client(_place()).snapshot()
    except StoreError as error:
        _fail(str(error))


def _place() -> Place:
    return Place(state_dir(os.environ))


def _fail(message: str) -> NoReturn:
    err.print(Text.assemble(("✗ ", "red"), message))
    raise typer.Exit(1)
