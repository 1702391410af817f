"""Nobody notices: greedy streams all the while, and what serves them is replaced, killed and scaled under them.

Each window waits for FLASHPLANE_TRAFFIC_STREAMS streams after what was done; `make traffic` asks for many more than the
tests do.
"""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from local_plugin import Stack, local_stack
from rich.console import Console

from flash_operator.traffic import prompts, view
from flash_operator.traffic.driver import Driver
from flash_operator.traffic.stream import Endpoint, Question

pytestmark = pytest.mark.timeout(1800)

STREAMS = int(os.environ.get("FLASHPLANE_TRAFFIC_STREAMS", "12"))
SECONDS_FOR_STREAMS = 30 + STREAMS * 3
CLIENTS = 6
MAX_TOKENS = 24


@pytest.fixture(scope="module")
def served() -> Iterator[Stack]:
    """Two engines behind one gateway."""
    with local_stack("traffic") as stack:
        edit(stack, replicas="2")
        stack.up()
        yield stack


def edit(stack: Stack, **fields: str) -> None:
    """Change fields of the engine in the manifest."""
    text = stack.manifest.read_text()
    for name, value in fields.items():
        text, count = re.subn(rf"(\b{name}:) \S+", rf"\1 {value}", text)
        assert count == 1, name
    stack.manifest.write_text(text)


def roll_engine(stack: Stack) -> None:
    edit(stack, maxConcurrentRequests="8")
    stack.up()


def roll_gateway(stack: Stack) -> None:
    limited = "  gateway:\n    limits: {maxInflightRequests: 99}\n"
    stack.manifest.write_text(stack.manifest.read_text().replace("  gateway:\n", limited))
    stack.up()


def kill_an_engine(stack: Stack) -> None:
    """One that has streams, so that they break off: the gateway's log says that they did."""
    before = broken_off(stack)
    for _ in range(5):
        killed = stack.process("engine")
        os.kill(killed["pid"], signal.SIGKILL)
        stack.until(lambda: stack.process("engine")["restarts"] > killed["restarts"] and engines(stack) == 2)  # noqa: B023
        if broken_off(stack) > before:
            return
    pytest.fail("no stream was on the engine that was killed, five times over")


def scale(stack: Stack) -> None:
    for replicas in ("1", "3", "1"):
        edit(stack, replicas=replicas)
        stack.up()


def engines(stack: Stack) -> int:
    return int(stack.status()["manifest"]["status"]["engine"]["ready"])


def broken_off(stack: Stack) -> int:
    logs = stack.state.rglob("*gateway*.log")
    return sum(path.read_text().count('"a stream broke off"') for path in logs)


DONE_UNDER_TRAFFIC: dict[str, Callable[[Stack], None]] = {
    "rolling update of the engine": roll_engine,
    "rolling update of the gateway": roll_gateway,
    "an engine is killed": kill_an_engine,
    "scaled 2, 1, 3, 1": scale,
}


def test_no_stream_fails_breaks_off_or_changes(served: Stack, capsys: pytest.CaptureFixture[str]) -> None:
    endpoint = Endpoint(served.base_url, served.model, served.api_key)
    questions = [Question(text, MAX_TOKENS) for text in prompts.DEFAULT]
    with Driver(endpoint, questions, concurrency=CLIENTS) as traffic:
        for name, act in DONE_UNDER_TRAFFIC.items():
            traffic.mark(name)
            act(served)
            assert traffic.wait_for_streams(STREAMS, SECONDS_FOR_STREAMS)
    with capsys.disabled():
        print()
        Console(width=140).print(view.table(traffic.windows, 0.0))
    assert traffic.flawless, view.causes(traffic.windows)


def test_the_command_compares_with_answers_of_another_run(served: Stack, tmp_path: Path) -> None:
    golden = tmp_path / "golden.json"
    asked = ("traffic", "--requests", "4", "--max-tokens", "4", "--golden", str(golden), "--output", "json")
    first = json.loads(served.flash(*asked).stdout)
    assert first["all"]["streams"] == 4
    assert first["all"]["failed"] == first["all"]["truncated"] == first["all"]["changed"] == 0
    assert first["all"]["ttftMilliseconds"]["p50"] > 0
    text = golden.read_text()
    golden.write_text(re.sub(r'": "[0-9a-f]{8}', '": "00000000', text))
    second = served.flash(*asked, check=False)
    assert second.returncode == 1
    assert json.loads(second.stdout)["all"]["changed"] == 4


def test_a_command_runs_in_a_window_of_its_own(served: Stack) -> None:
    asked = ("traffic", "--base-url", served.base_url, "--max-tokens", "2", "--during", "nap=sleep 1", "-o", "json")
    done = served.flash(*asked, FLASHPLANE_API_KEY=served.api_key)
    assert [window["window"] for window in json.loads(done.stdout)["windows"]] == ["steady", "nap", "after nap"]
    failed = served.flash(*asked[:-4], "--during", "no=exit 3", check=False, FLASHPLANE_API_KEY=served.api_key)
    assert failed.returncode == 1
    assert "ended with 3" in failed.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--duration", "1", "--requests", "1"), "exclude each other"),
        (("--base-url", "ftp://x"), "must be a URL"),
        (("--base-url", "http://127.0.0.1:9/v1"), "does not answer"),
        (("--during", "nothing"), "NAME=COMMAND"),
        (("--prompts", "/nowhere.txt"), "cannot be read"),
    ],
)
def test_what_cannot_be_is_refused_with_what_to_do(served: Stack, options: tuple[str, ...], message: str) -> None:
    refused = served.flash("traffic", *options, check=False)
    assert refused.returncode == 2
    assert message in refused.stderr
