"""The whole of local mode: `flash up` with the real operator loop, tritonserver, engine, gateway and weights."""

from __future__ import annotations

import json
import os
import signal
import socket
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from local_plugin import Stack, local_stack
from tritonserver_plugin import children

from flash_operator.local.place import ENV_OWNER
from flash_operator.local.processes import marked

pytestmark = pytest.mark.timeout(300)


def ask(stack: Stack, *, max_tokens: int = 4) -> int:
    """One completion; the HTTP status, or raises what a client would see."""
    body = {"model": stack.model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": max_tokens}
    request = urllib.request.Request(
        f"{stack.base_url}/chat/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {stack.api_key}"},
    )
    with urllib.request.urlopen(request, timeout=60) as response:
        response.read()
        return int(response.status)


class Client(threading.Thread):
    """Asks again and again, and writes down what fails."""

    def __init__(self, stack: Stack) -> None:
        super().__init__()
        self.answered = 0
        self.failures: list[str] = []
        self._stack = stack
        self._leave = threading.Event()

    def run(self) -> None:
        while not self._leave.is_set():
            try:
                ask(self._stack)
                self.answered += 1
            except urllib.error.HTTPError as error:
                self.failures.append(f"{error.code}: {error.read().decode()}")
            except OSError as error:
                self.failures.append(repr(error))

    def leave(self) -> None:
        self._leave.set()
        self.join()


@contextmanager
def asking(stack: Stack) -> Iterator[Client]:
    client = Client(stack)
    client.start()
    try:
        yield client
    finally:
        client.leave()


def test_a_deployment_that_is_up_says_so_in_every_condition(stack: Stack) -> None:
    conditions = {kind: entry["status"] for kind, entry in stack.conditions().items()}
    assert conditions["Ready"] == "True"
    assert conditions["Stalled"] == conditions["Reconciling"] == "False"
    assert conditions["EnginesReady"] == conditions["EndpointReady"] == conditions["ModelReady"] == "True"


def test_status_shows_processes_and_what_does_not_hold_here(stack: Stack) -> None:
    shown = stack.flash("status").stdout
    assert str(stack.process("engine")["pid"]) in shown
    assert stack.base_url in shown
    assert "engine.resources.memory: a process on this machine is not limited" in shown


def test_chat_streams_an_answer_with_its_times_and_takes_the_key_from_the_local_secret(stack: Stack) -> None:
    answer = stack.flash("chat", "--prompt", "What is the capital of France? Answer in one sentence.").stdout
    assert "Paris" in answer
    assert "first token" in answer
    assert "tokens/s" in answer


def test_chat_with_a_wrong_key_says_what_to_do(stack: Stack) -> None:
    refused = stack.flash("chat", "--prompt", "Hi", "--api-key", "sk-wrong", check=False)
    assert refused.returncode == 1
    assert "401" in refused.stderr
    assert "--api-key" in refused.stderr


def test_neither_keys_nor_prompts_are_in_the_logs(stack: Stack) -> None:
    stack.flash("chat", "--prompt", "Zanzibarmarmalade")
    logs = "".join(path.read_text() for path in stack.state.rglob("*.log"))
    assert "Zanzibarmarmalade" not in logs
    assert stack.api_key not in logs


def test_logs_are_shown_by_component(stack: Stack) -> None:
    shown = stack.flash("logs", stack.model, "gateway").stdout
    assert "gateway/gateway | " in shown
    assert "engine/engine | " not in shown


def test_up_again_with_nothing_changed_leaves_the_processes_alone(stack: Stack) -> None:
    before = stack.process("engine")["pid"]
    stack.up()
    assert stack.process("engine")["pid"] == before


def test_an_edited_manifest_rolls_without_one_failed_request(stack: Stack) -> None:
    before = stack.process("engine")["pid"]
    with asking(stack) as client:
        stack.until(lambda: client.answered >= 3)
        stack.write(concurrency=8)
        stack.up()
        answered = client.answered
        stack.until(lambda: client.answered > answered)
    assert client.failures == []
    assert stack.process("engine")["pid"] != before
    engines = stack.status()["manifest"]["status"]["engine"]
    assert (engines["desired"], engines["replicas"], engines["ready"], engines["updated"]) == (1, 1, 1, 1)


def test_gateways_roll_without_one_failed_request(stack: Stack) -> None:
    before = stack.process("gateway")["pid"]
    with asking(stack) as client:
        stack.until(lambda: client.answered >= 3)
        manifest = stack.manifest.read_text()
        stack.manifest.write_text(
            manifest.replace("  gateway:\n", "  gateway:\n    limits: {maxInflightRequests: 99}\n")
        )
        stack.up()
        answered = client.answered
        stack.until(lambda: client.answered > answered)
    assert client.failures == []
    assert stack.process("gateway")["pid"] != before


def test_a_killed_engine_comes_back_and_ready_tells_the_story(stack: Stack) -> None:
    before, ready_before = stack.process("engine"), stack.conditions()["Ready"]
    os.kill(before["pid"], signal.SIGKILL)

    def fell_and_rose() -> bool:
        # A start takes less than a second, so a look every now and then may miss the fall; its time stays.
        ready = stack.conditions()["Ready"]
        return ready["status"] == "True" and ready["lastTransitionTime"] != ready_before["lastTransitionTime"]

    stack.until(fell_and_rose)
    after = stack.process("engine")
    assert after["pid"] != before["pid"]
    assert after["restarts"] == before["restarts"] + 1
    assert after["lastExitCode"] == -signal.SIGKILL
    assert ask(stack) == 200


def test_a_dead_model_process_breaks_no_stream_and_answers_again_within_ten_seconds(stack: Stack) -> None:
    with open_stream(stack) as undisturbed:
        expected = text_of(undisturbed.read())
    (server,) = children(stack.process("engine")["pid"])
    (stub,) = children(server)
    with open_stream(stack) as stream:
        begin = stream.readline()
        assert b'"choices"' in begin
        os.kill(stub, signal.SIGKILL)
        deadline = time.monotonic() + 10.0
        stack.until(lambda: answers(stack), seconds=deadline - time.monotonic())
        assert text_of(begin + stream.read()) == expected


def text_of(stream: bytes) -> str:
    """What a client has read when a stream is over; raises KeyError for an error event."""
    data = [line.removeprefix(b"data: ") for line in stream.split(b"\n") if line]
    assert data[-1] == b"[DONE]"
    return "".join(json.loads(event)["choices"][0]["text"] for event in data[:-1])


def open_stream(stack: Stack) -> Any:
    """A streamed answer that goes on for long, after its first line."""
    body = {"model": stack.model, "prompt": "Hi", "max_tokens": 300, "ignore_eos": True, "stream": True}
    body |= {"temperature": 0}
    request = urllib.request.Request(
        f"{stack.base_url}/completions",
        json.dumps(body).encode(),
        {"Content-Type": "application/json", "Authorization": f"Bearer {stack.api_key}"},
    )
    return urllib.request.urlopen(request, timeout=60)


def answers(stack: Stack) -> bool:
    """Whether a request is answered now."""
    try:
        return ask(stack) == 200
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 503:
                raise
        return False


def test_a_port_in_use_is_refused_at_the_door_with_its_holder(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder, local_stack("other") as other:
        port = holder.getsockname()[1]
        other.manifest.write_text(other.manifest.read_text().replace(f"port: {other.port}", f"port: {port}"))
        refused = other.up(check=False)
        assert refused.returncode == 1
        assert f"port {port} on 127.0.0.1 is in use by" in refused.stderr
        assert f"(pid {os.getpid()})" in refused.stderr
        assert "spec.endpoint.port" in refused.stderr


def test_a_manifest_with_mistakes_names_field_and_line(tmp_path: Path) -> None:
    with local_stack("broken") as broken:
        broken.manifest.write_text(broken.manifest.read_text().replace("replicas: 1", "replicas: many"))
        refused = broken.up(check=False)
        assert refused.returncode == 1
        assert "spec.engine.replicas" in refused.stderr
        assert "flash.yaml:" in refused.stderr


def test_weights_that_are_not_there_are_named_and_up_does_not_wait_for_ever() -> None:
    with local_stack("lost") as lost:
        lost.write(source="file:///nowhere/model.gguf")
        failed = lost.up(check=False)
        assert failed.returncode == 1
        assert "/nowhere/model.gguf" in failed.stderr
        assert "EnginesReady" in failed.stderr


def test_an_interrupted_up_says_that_it_goes_on_and_how_to_stop_it() -> None:
    with local_stack("left") as left:
        left.write(source="file:///nowhere/model.gguf")
        with left.start("up", "-f", str(left.manifest)) as up:
            assert up.stderr is not None
            for line in up.stderr:
                if "left: " in line:
                    break
            up.send_signal(signal.SIGINT)
            rest = up.stderr.read()
        assert up.returncode == 130
        assert "flash down" in rest
        assert left.status()["manifest"]["metadata"]["name"] == "left"


def test_a_deployment_of_no_engines_is_up_at_once_and_says_what_that_means() -> None:
    with local_stack("idle") as idle:
        idle.manifest.write_text(idle.manifest.read_text().replace("replicas: 1", "replicas: 0"))
        assert "spec.engine.replicas is 0" in idle.up().stdout


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(100))
    with local_stack("damaged") as stack:
        stack.write(source=f"file://{damaged}")
        failed = stack.up(check=False)
        assert failed.returncode == 1
        assert "damaged.gguf" in failed.stderr


def test_a_missing_tritonserver_is_said_before_anything_is_started(tmp_path: Path) -> None:
    with local_stack("bare") as bare:
        failed = bare.up(check=False, FLASHPLANE_TRITONSERVER=str(tmp_path / "nothing"))
        assert failed.returncode == 1
        assert "tritonserver is missing" in failed.stderr
        assert json.loads(bare.flash("status", "--json").stdout)["deployments"] == []


def test_a_missing_secret_is_named() -> None:
    with local_stack("keyless") as keyless:
        _, _, deployment = keyless.manifest.read_text().partition("---\n")
        keyless.manifest.write_text(deployment)
        failed = keyless.up(check=False)
        assert failed.returncode == 1
        assert "keyless-keys" in failed.stderr


def test_what_a_killed_daemon_left_is_cleared_by_the_next_up() -> None:
    with local_stack("orphan") as orphan:
        orphan.up()
        pid = json.loads(orphan.flash("status", "--json").stdout)["daemonPid"]
        os.kill(pid, signal.SIGKILL)
        left = set(marked(ENV_OWNER, str(orphan.state)))
        assert left, "its processes should have outlived it for this test to mean anything"
        orphan.up()
        assert ask(orphan) == 200
        assert not left & set(marked(ENV_OWNER, str(orphan.state)))


def test_down_stops_processes_that_no_daemon_looks_after() -> None:
    with local_stack("forlorn") as forlorn:
        forlorn.up()
        os.kill(json.loads(forlorn.flash("status", "--json").stdout)["daemonPid"], signal.SIGKILL)
        forlorn.flash("down", "--all")
        assert marked(ENV_OWNER, str(forlorn.state)) == ()
