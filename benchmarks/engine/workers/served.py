"""Our engine inside tritonserver, asked over gRPC streams as the gateway does: options as those of `ours`.

The clients run in this process, on the same cores as the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Final

import protocol
from configuration import engine_config

from flash_api.names import TRITON_MODEL
from flash_runtime.gateway.triton import TritonReplica
from flash_runtime.wire import GenerateRequest

_READY_SECONDS: Final = 60.0
_POLL_SECONDS: Final = 0.02


class Served:
    """One tritonserver, gone when this process is."""

    def __init__(self, options: dict[str, Any]) -> None:
        folder = tempfile.mkdtemp(prefix="flash-bench-")
        path = Path(folder) / "engine.json"
        path.write_text(engine_config(options).model_dump_json())
        http_port, grpc_port, metrics_port = _free_ports(3)
        self._address = f"127.0.0.1:{grpc_port}"
        ports = (f"--http-port={http_port}", f"--grpc-port={grpc_port}", f"--metrics-port={metrics_port}")
        self._server = subprocess.Popen(
            [Path(sys.executable).parent / "flash-engine", "--config", path, "--address", "127.0.0.1", *ports],
            stdout=sys.stderr,
        )
        self._wait(http_port)

    def generate(self, prompts: list[list[int]], tokens: int) -> protocol.Generation:
        """All prompts at once, a stream each."""
        return asyncio.run(self._generate(prompts, tokens))

    def close(self) -> None:
        """End the server and wait for it."""
        self._server.send_signal(signal.SIGTERM)
        try:
            self._server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self._server.kill()

    async def _generate(self, prompts: list[list[int]], tokens: int) -> protocol.Generation:
        replica = TritonReplica(self._address, stall_timeout_seconds=60)
        request = GenerateRequest(max_tokens=tokens, ignore_eos=True)
        moments: list[list[tuple[float, int]]] = [[] for _ in prompts]

        async def one(index: int) -> None:
            async with contextlib.aclosing(replica.generate(prompts[index], request)) as stream:
                async for chunk in stream:
                    if chunk.token_ids:
                        moments[index].append((time.perf_counter(), len(chunk.token_ids)))

        start = time.perf_counter()
        try:
            await asyncio.gather(*(one(index) for index in range(len(prompts))))
        finally:
            await replica.close()
        first = max(stream[0][0] for stream in moments)
        rest = sum(count for stream in moments for moment, count in stream if moment > first)
        last = max(stream[-1][0] for stream in moments)
        return protocol.Generation(first - start, last - first, rest)

    def _wait(self, port: int) -> None:
        deadline = time.monotonic() + _READY_SECONDS
        while not _is_ready(port):
            if self._server.poll() is not None or time.monotonic() > deadline:
                self._server.kill()
                raise RuntimeError("flash-engine did not become ready; its log is above")
            time.sleep(_POLL_SECONDS)


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", f"/v2/models/{TRITON_MODEL}/ready")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [int(one.getsockname()[1]) for one in sockets]


if __name__ == "__main__":
    engines: list[Served] = []

    def _make(options: dict[str, Any]) -> Served:
        engines.append(Served(options))
        return engines[0]

    try:
        protocol.main(_make)
    finally:
        for engine in engines:
            engine.close()
