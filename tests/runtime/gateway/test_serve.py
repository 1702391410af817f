"""The `flash-gateway` process: how it starts, where it listens, how it leaves."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from fakes.tiny_text import CHATML, tokenizer_json
from tritonclient.grpc import service_pb2, service_pb2_grpc

from flash_api.config.gateway import GatewayConfig
from flash_api.names import ENV_HOSTS
from flash_runtime.gateway.listen import passed_socket
from flash_runtime.gateway.serve import main
from flash_runtime.packed import PackedWriter

COMMAND = [sys.executable, "-c", "import sys; from flash_runtime.gateway.serve import main; sys.exit(main())"]
SECONDS = 30


class SlowEngine(service_pb2_grpc.GRPCInferenceServiceServicer):
    """Sends a token, waits to be told, and finishes."""

    def __init__(self) -> None:
        self.started = threading.Event()
        self.finish = threading.Event()

    def ModelStreamInfer(self, request_iterator: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        next(request_iterator)
        yield self._response([40], b"{}")
        self.started.set()
        assert self.finish.wait(SECONDS)
        yield self._response([41], b'{"finish_reason":"stop"}')

    @staticmethod
    def _response(ids: list[int], event: bytes) -> Any:
        infer = service_pb2.ModelInferResponse()
        infer.outputs.add(name="output_ids", datatype="INT32", shape=[len(ids)])
        infer.outputs.add(name="event", datatype="BYTES", shape=[1])
        infer.raw_output_contents.append(b"".join(id_.to_bytes(4, "little") for id_ in ids))
        infer.raw_output_contents.append(len(event).to_bytes(4, "little") + event)
        return service_pb2.ModelStreamInferResponse(infer_response=infer)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    with PackedWriter(tmp_path / "model.flash") as writer:
        writer.add_bytes("tokenizer.json", tokenizer_json())
        writer.set_header({"text": {"chat_template": CHATML, "eos_token_ids": [2]}, "model": {}})
    return tmp_path


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SlowEngine]:
    """A server behind the name `engine.svc:8001` in the hosts file."""
    servicer = SlowEngine()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    (tmp_path / "hosts").write_text(f"engine.svc:8001 127.0.0.1:{port}\n")
    yield servicer
    servicer.finish.set()
    server.stop(None).wait()


def config_file(folder: Path, **fields: Any) -> Path:
    config = GatewayConfig(
        **{"served_model_name": "tiny", "engine": "engine.svc:8001", "model_dir": str(folder), **fields}
    )
    path = folder / "gateway.json"
    path.write_text(config.model_dump_json())
    return path


class Gateway:
    """A gateway process on a socket that this test passes to it."""

    def __init__(self, folder: Path, listener: socket.socket, **fields: Any) -> None:
        self.port = listener.getsockname()[1]
        self._connections: list[http.client.HTTPConnection] = []
        # What `LISTEN_FDS` promises is file descriptor 3, which Popen cannot place by itself.
        shell = f'exec "$@" 3<&{listener.fileno()}'
        self.process = subprocess.Popen(
            ["bash", "-c", shell, "bash", *COMMAND, "--config", str(config_file(folder, **fields))],
            env={**os.environ, "LISTEN_FDS": "1", ENV_HOSTS: str(folder / "hosts")},
            pass_fds=[listener.fileno()],
            stderr=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Gateway:
        return self

    def __exit__(self, *_: object) -> None:
        for connection in self._connections:
            connection.close()
        with self.process:
            self.process.kill()

    def request(self, method: str, path: str, body: Any = None) -> http.client.HTTPResponse:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        self._connections.append(connection)
        headers = {"content-type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        return connection.getresponse()

    def terminate_and_wait_for(self, message: str) -> None:
        """SIGTERM, then read the log until it says so."""
        self.process.terminate()
        assert self.process.stderr is not None
        assert any(f'"{message}"' in line for line in self.process.stderr)

    def end(self) -> tuple[int, str]:
        """SIGTERM, the exit code and the log."""
        self.process.terminate()
        _, log = self.process.communicate(timeout=SECONDS)
        return self.process.returncode, log


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def refused_start(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """What a start that fails says; it is one line."""
    assert main(arguments) == 1
    said = capsys.readouterr().err
    assert said.startswith("flash-gateway: ")
    assert said.count("\n") == 1
    return said


def test_running_streams_finish_after_sigterm_and_the_exit_code_is_0(
    model_dir: Path, engine: SlowEngine, listener: socket.socket
) -> None:
    with Gateway(model_dir, listener) as gateway:
        body = {"model": "tiny", "messages": [{"role": "user", "content": "x"}], "stream": True}
        answer = gateway.request("POST", "/v1/chat/completions", body)
        assert answer.status == 200
        assert engine.started.wait(SECONDS)
        gateway.terminate_and_wait_for("draining")
        engine.finish.set()
        events = answer.read().decode()
        assert '"finish_reason":"stop"' in events
        assert events.endswith("data: [DONE]\n\n")
        assert gateway.process.wait(SECONDS) == 0


def test_the_next_process_answers_on_the_same_socket(
    model_dir: Path, engine: SlowEngine, listener: socket.socket
) -> None:
    engine.finish.set()
    for _ in range(2):
        with Gateway(model_dir, listener) as gateway:
            assert gateway.request("GET", "/v1/models").status == 200
            assert gateway.request("GET", "/readyz").status == 200
            assert gateway.end()[0] == 0


def test_a_stream_that_outlasts_the_drain_is_cut_off(
    model_dir: Path, engine: SlowEngine, listener: socket.socket
) -> None:
    with Gateway(model_dir, listener, drain_seconds=1) as gateway:
        answer = gateway.request("POST", "/v1/completions", {"model": "tiny", "prompt": "x", "stream": True})
        assert engine.started.wait(SECONDS)
        assert gateway.end()[0] == 0
        with pytest.raises(http.client.IncompleteRead):
            answer.read()


def test_the_log_is_one_json_object_a_line(model_dir: Path, engine: SlowEngine, listener: socket.socket) -> None:
    engine.finish.set()
    with Gateway(model_dir, listener) as gateway:
        assert gateway.request("POST", "/v1/completions", {"model": "tiny", "prompt": "x"}).status == 200
        lines = [json.loads(line) for line in gateway.end()[1].splitlines()]
    assert [line["message"] for line in lines] == ["listening", "request", "draining", "stopped"]
    assert lines[1]["completion_tokens"] == 2


def test_without_an_engine_the_gateway_starts_and_says_what_is_missing(
    model_dir: Path, listener: socket.socket
) -> None:
    with Gateway(model_dir, listener) as gateway:
        assert gateway.request("GET", "/livez").status == 200
        answer = gateway.request("GET", "/readyz")
        assert (answer.status, answer.read().split(b".")[0]) == (503, b"No engine can be reached at the moment")
        assert gateway.end()[0] == 0


@pytest.mark.parametrize("stream", [False, True])
def test_where_no_engine_of_the_region_is_left_clients_get_a_typed_error_and_an_answer_once_one_is_back(
    model_dir: Path, engine: SlowEngine, listener: socket.socket, stream: bool
) -> None:
    hosts, body = model_dir / "hosts", {"model": "tiny", "prompt": "x", "stream": stream}
    there = hosts.read_text()
    engine.finish.set()
    with socket.create_server(("127.0.0.1", 0)) as nobody:
        gone = f"127.0.0.1:{nobody.getsockname()[1]}"
    with Gateway(model_dir, listener, regions=("eu",)) as gateway:
        # No address at all, then one where nobody listens any more.
        for addresses in ("", gone):
            hosts.write_text(f"engine.svc:8001 {addresses}\n")
            answer = gateway.request("POST", "/v1/completions", body)
            error = json.load(answer)["error"]
            assert (answer.status, error["type"], error["code"]) == (503, "server_error", "no_engine_in_region")
            assert error["message"].startswith("No engine in eu can be reached")
            assert gateway.request("GET", "/readyz").status == 503
        hosts.write_text(there)
        assert gateway.request("POST", "/v1/completions", body).status == 200


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model_dir": "/nowhere"}, "/nowhere/model.flash: No such file or directory; pull or pack the model again"),
        ({"engine": "nohost"}, "engine (nohost) must be host:port"),
        ({"api_keys_file": "/nowhere/keys"}, "api_keys_file (/nowhere/keys) cannot be read: No such file"),
    ],
)
def test_what_a_configuration_names_wrongly_is_one_line_with_what_to_do(
    model_dir: Path, fields: dict[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    config = config_file(model_dir, **fields)
    assert says in refused_start(capsys, "--config", str(config), "--address", "127.0.0.1", "--port", "0")


def test_a_port_in_use_is_one_line(
    model_dir: Path, listener: socket.socket, capsys: pytest.CaptureFixture[str]
) -> None:
    port = str(listener.getsockname()[1])
    said = refused_start(capsys, "--config", str(config_file(model_dir)), "--address", "127.0.0.1", "--port", port)
    assert f"--port {port} cannot be used: Address already in use; stop what listens there" in said


@pytest.mark.parametrize(("content", "says"), [(None, "No such file"), ("{", "Invalid JSON"), ("{}", "Field required")])
def test_a_bad_configuration_is_one_line(
    tmp_path: Path, content: str | None, says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gateway.json"
    if content is not None:
        path.write_text(content)
    said = refused_start(capsys, "--config", str(path))
    assert f"--config ({path})" in said
    assert says in said


def test_a_promised_socket_that_is_none_is_named(model_dir: Path) -> None:
    ended = subprocess.run(
        [*COMMAND, "--config", str(config_file(model_dir))],
        env={**os.environ, "LISTEN_FDS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert ended.returncode == 1
    assert "LISTEN_FDS (1) promises a listening socket" in ended.stderr


def test_a_socket_for_another_process_is_left_alone() -> None:
    assert passed_socket({}) is None
    assert passed_socket({"LISTEN_FDS": "1", "LISTEN_PID": "1"}) is None


def test_help_names_every_way_to_be_configured(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    said = capsys.readouterr().out
    for word in ("--config", "--address", "--port", ENV_HOSTS, "LISTEN_FDS"):
        assert word in said
