"""A way to a server on which things go wrong as told: answers cut off, replaced or changed. It writes down what passes.

The Host header stays as the client wrote it, so that signatures of requests hold.
"""

from __future__ import annotations

import contextlib
import functools
import http.client
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What happens to the next `times` answers for addresses with `where` in them."""

    where: str
    times: int = 1
    skip: int = 0
    """So many pass first."""
    cut: int | None = None
    """The body ends after so many bytes."""
    status: int | None = None
    """Answered instead of the server's answer, with `body`."""
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    change: tuple[bytes, bytes] | None = None
    """Bytes of the body that become others of the same length."""


@dataclass
class FaultProxy:
    """Where it listens, what it does and what it saw."""

    upstream: str
    host: str = ""
    faults: list[Fault] = field(default_factory=list)
    asked: list[tuple[str, str, str | None, str | None]] = field(default_factory=list)
    """Method, address, Range and Authorization of each request."""

    @property
    def url(self) -> str:
        return f"http://{self.host}"

    def fault_for(self, address: str) -> Fault | None:
        for fault in self.faults:
            if fault.where in address and fault.times:
                if fault.skip:
                    fault.skip -= 1
                    return None
                fault.times -= 1
                return fault
        return None

    def ranges(self, where: str) -> list[str | None]:
        return [wanted for _, address, wanted, _ in self.asked if where in address]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def __init__(self, proxy: FaultProxy, lock: threading.Lock, *arguments: object) -> None:
        self.proxy, self.lock = proxy, lock
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        with self.lock:
            self.proxy.asked.append(
                (self.command, self.path, self.headers.get("Range"), self.headers.get("Authorization"))
            )
            fault = self.proxy.fault_for(self.path)
        if fault is not None and fault.status is not None:
            return self._answer(fault.status, fault.headers, fault.body, len(fault.body))
        upstream = http.client.HTTPConnection(self.proxy.upstream, timeout=30)
        try:
            upstream.request(self.command, self.path, headers=dict(self.headers.items()))
            answer = upstream.getresponse()
            body = answer.read()
            headers = {
                k: v for k, v in answer.getheaders() if k.lower() not in ("connection", "transfer-encoding", "date")
            }
        finally:
            upstream.close()
        promised = len(body) if self.command == "GET" else int(headers.get("Content-Length", 0))
        if fault is not None and fault.change is not None:
            body = body.replace(*fault.change)
        self._answer(answer.status, headers, body if fault is None else body[: fault.cut], promised)

    do_HEAD = do_GET  # noqa: N815

    def _answer(self, status: int, headers: dict[str, str], body: bytes, promised: int) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        self.send_header("Content-Length", str(promised))
        self.send_header("Connection", "close")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)
        self.close_connection = True


@contextlib.contextmanager
def between(upstream: str) -> Iterator[FaultProxy]:
    """A proxy in front of `host:port`."""
    proxy, lock = FaultProxy(upstream), threading.Lock()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, proxy, lock)) as server:
        server.daemon_threads = True
        proxy.host = f"127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield proxy
        finally:
            server.shutdown()
            thread.join()
