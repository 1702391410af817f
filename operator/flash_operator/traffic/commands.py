"""`flash traffic`: says and asks; the work is in the driver.

Exit codes: 0 = every stream came through unchanged, 1 = one did not, 2 = there could be no traffic.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Final, NoReturn

import typer
from rich.console import Console
from rich.live import Live
from rich.text import Text

from flash_operator.local import commands as here
from flash_operator.traffic import goldens as golden_files
from flash_operator.traffic import prompts as prompt_files
from flash_operator.traffic import view
from flash_operator.traffic.driver import FIRST_WINDOW, Driver
from flash_operator.traffic.stream import Endpoint, Question, TrafficError, served_model
from flash_operator.traffic.tally import Window, total

EXIT_FLAWED: Final = 1
EXIT_USAGE: Final = 2
SECONDS_AROUND: Final = 3.0
REFRESH_SECONDS: Final = 0.5
_WIDTH_WITHOUT_TERMINAL: Final = 160

out = Console(highlight=False, width=None if sys.stdout.isatty() else _WIDTH_WITHOUT_TERMINAL)
err = Console(highlight=False, width=None if sys.stderr.isatty() else _WIDTH_WITHOUT_TERMINAL, stderr=True)


class Format(StrEnum):
    """How results are printed."""

    TEXT = "text"
    JSON = "json"


def register(app: typer.Typer) -> None:
    """Add the command to the `flash` program."""
    app.command("traffic", rich_help_panel="This machine or a cluster")(traffic)


def traffic(
    name: here.Name = None,
    base_url: Annotated[
        str | None,
        typer.Option(help="OpenAI endpoint, with /v1; unset = the deployment that runs on this machine."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="Served model; unset = the first that the endpoint names.")] = None,
    api_key_env: Annotated[
        str, typer.Option(help="Environment variable with the API key; unset or empty = the local Secret's, or none.")
    ] = "FLASHPLANE_API_KEY",
    concurrency: Annotated[int, typer.Option("--concurrency", "-c", min=1, max=512, help="Clients.")] = 4,
    duration: Annotated[float | None, typer.Option(min=0.1, help="Seconds; unset = until Ctrl-C.")] = None,
    requests: Annotated[int | None, typer.Option(min=1, help="Streams in all, instead of a duration.")] = None,
    prompts: Annotated[Path | None, typer.Option(help="One prompt per line; unset = sixteen short questions.")] = None,
    max_tokens: Annotated[int, typer.Option(min=1, max=100_000, help="Longest answer, in tokens.")] = 32,
    golden: Annotated[
        Path | None,
        typer.Option(help="Digests of the right answers: written if the file is missing, else compared with."),
    ] = None,
    during: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=COMMAND", help="Run a shell command in a window of its own. May be repeated."),
    ] = None,
    mark: Annotated[
        bool, typer.Option("--mark", help="Each line of standard input begins a new window of that name.")
    ] = False,
    output: Annotated[Format, typer.Option("--output", "-o", help="text for people, json for tools.")] = Format.TEXT,
    namespace: here.Namespace = None,
) -> None:
    """Send greedy streams without a pause, and count what fails, breaks off or changes.

    Every prompt is asked once in peace; from then on the same prompt must get the same text, whatever is done to what
    serves it. Of prompts and answers nothing is printed or stored but digests.

    Examples:

        flash traffic --duration 30

        flash traffic --base-url https://chat.example.com/v1 --api-key-env KEY
        --during 'restart=kubectl rollout restart deploy/chat-engine && kubectl rollout status deploy/chat-engine'
    """
    actions = [_action(text) for text in during or ()]
    if duration is not None and requests is not None:
        _fail("--duration and --requests exclude each other: leave one out")
    if actions and (duration is not None or requests is not None):
        _fail("--during ends with its last command: leave out --duration and --requests")
    try:
        endpoint = _endpoint(name, namespace, base_url, model, os.environ.get(api_key_env) or None)
        texts = prompt_files.read(prompts) if prompts is not None else prompt_files.DEFAULT
        questions = [Question(text, max_tokens) for text in texts]
        known = golden_files.load(golden, questions) if golden is not None else {}
        driver = Driver(endpoint, questions, concurrency=concurrency, max_streams=requests, goldens=known)
        err.print(f"asking each of {len(questions)} prompts once, to know its answer", style="dim")
        driver.learn()
        if golden is not None and driver.goldens != known:
            golden_files.save(golden, driver.goldens)
    except TrafficError as error:
        _fail(str(error))
    driver.start()
    if mark:
        threading.Thread(target=_marks, args=(driver,), daemon=True).start()
    failed_commands = _drive(driver, actions, duration)
    _report(driver, output)
    for failed in failed_commands:
        err.print(Text.assemble(("✗ ", "red"), failed), soft_wrap=True)
    raise typer.Exit(0 if driver.flawless and not failed_commands else EXIT_FLAWED)


def _drive(driver: Driver, actions: Sequence[tuple[str, str]], duration: float | None) -> list[str]:
    """Until it is over or somebody presses Ctrl-C; what the commands of `--during` complained of."""
    failed: list[str] = []
    with Live(console=err, refresh_per_second=4, transient=True) as live:

        def wait(seconds: float | None, done: Callable[[], bool] = lambda: False) -> None:
            deadline = None if seconds is None else time.monotonic() + seconds
            while not done() and (deadline is None or time.monotonic() < deadline):
                driver.look(lambda windows, now: live.update(view.table(windows, now)))
                if driver.wait(REFRESH_SECONDS if deadline is None else min(REFRESH_SECONDS, seconds or 0.0)):
                    return

        try:
            if not actions:
                wait(duration)
            for name, command in actions:
                wait(SECONDS_AROUND)
                driver.mark(name)
                # A shell, because what people try on a cluster are commands with && and |. It is their own command.
                with subprocess.Popen(command, shell=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL) as run:
                    wait(None, lambda: run.poll() is not None)
                if run.returncode:
                    failed.append(f"{name}: the command ended with {run.returncode}")
                driver.mark(f"after {name}")
            if actions:
                wait(SECONDS_AROUND)
        except KeyboardInterrupt:
            pass  # the usual end of it
        driver.stop()
    return failed


def _report(driver: Driver, output: Format) -> None:
    windows = [window for window in driver.windows if window.num_streams or window.name != FIRST_WINDOW]
    if output is Format.JSON:
        print(json.dumps({"windows": [_json(w) for w in windows], "all": _json(total(windows))}, indent=2))
        return
    out.print(view.table(windows, 0.0))
    for line in view.causes(windows):
        out.print(f"  {line}", style="red")


def _json(window: Window) -> dict[str, object]:
    return window.as_json(window.began)


def _marks(driver: Driver) -> None:
    for line in sys.stdin:
        if name := line.strip():
            driver.mark(name[:80])


def _action(text: str) -> tuple[str, str]:
    name, separator, command = text.partition("=")
    if not (separator and name.strip() and command.strip()):
        _fail(
            f"--during ({text}) must be NAME=COMMAND, such as 'restart=kubectl rollout restart deployment/chat-engine'"
        )
    return name.strip(), command


def _endpoint(
    name: str | None, namespace: str | None, base_url: str | None, model: str | None, api_key: str | None
) -> Endpoint:
    if base_url is None:
        found = here.local_endpoint(name, namespace)
        return Endpoint(found.base_url, model or found.model, api_key or found.api_key)
    if name is not None:
        _fail("a deployment's NAME and --base-url exclude each other: leave one out")
    url = base_url.rstrip("/")
    return Endpoint(url, model or served_model(url, api_key), api_key)


def _fail(message: str) -> NoReturn:
    err.print(Text.assemble(("✗ ", "red"), message), soft_wrap=True)
    raise typer.Exit(EXIT_USAGE)
