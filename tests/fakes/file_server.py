"""A web server on the loopback interface that serves bytes as told: in parts, broken off, moved, only with a token."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import http.client
import json
import threading
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

from flash_runtime.model.transfer import Redirects, Web

COMMIT = "c0ffee" + "0" * 34


@dataclass
class Served:
    """What the server has, and what it was asked."""

    files: dict[str, bytes] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    statuses: list[int] = field(default_factory=list)
    """Answered first, one a request."""
    breaks: list[int] = field(default_factory=list)
    """Each of the next answers with a body ends after that many bytes."""
    token: str | None = None
    """Asked for by all files."""
    ranges: bool = True
    etags: bool = True
    url: str = ""
    asked: list[tuple[str, str | None, str | None]] = field(default_factory=list)
    """Path, Range and Authorization of each request."""

    def ranges_asked(self) -> list[str | None]:
        return [wanted for _, wanted, _ in self.asked]

    def repository(self, name: str, folder: Path, *, revision: str = "main") -> None:
        """Offer a folder as a model hub does: the first large file as LFS, all at one commit."""
        siblings = []
        for path in sorted(folder.iterdir()):
            content = path.read_bytes()
            self.files[f"/{name}/resolve/{COMMIT}/{path.name}"] = content
            git = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
            entry = {"rfilename": path.name, "size": len(content), "blobId": git}
            if path.suffix in (".safetensors", ".gguf"):
                entry["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
            siblings.append(entry)
        document = json.dumps({"id": name, "sha": COMMIT, "siblings": siblings}).encode()
        for end in ("", f"/revision/{revision}", f"/revision/{COMMIT}"):
            self.files[f"/api/models/{name}{end}"] = document


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, served: Served, *arguments: object) -> None:
        self.served = served
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        served, path = self.served, unquote(urlsplit(self.path).path)
        wanted, authorization = self.headers.get("Range"), self.headers.get("Authorization")
        served.asked.append((path, wanted, authorization))
        if served.statuses:
            return self._answer(served.statuses.pop(0))
        if path in served.moved:
            return self._answer(302, Location=served.moved[path])
        if served.token is not None and authorization != f"Bearer {served.token}":
            return self._answer(401)
        if path not in served.files:
            return self._answer(404, **({"X-Error-Code": "RevisionNotFound"} if "/revision/" in path else {}))
        content = served.files[path]
        etag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": etag} if served.etags else {}
        if served.etags and self.headers.get("If-None-Match") == etag:
            return self._answer(304, **headers)
        same = self.headers.get("If-Range") in (None, etag)
        if wanted and served.ranges and same:
            first = int(wanted.removeprefix("bytes=").removesuffix("-"))
            if first >= len(content):
                return self._answer(416)
            headers["Content-Range"] = f"bytes {first}-{len(content) - 1}/{len(content)}"
            return self._body(206, content[first:], headers)
        return self._body(200, content, headers)

    def _body(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        is_file = not self.path.startswith("/api/")
        self.wfile.write(body[: self.served.breaks.pop(0)] if self.served.breaks and is_file else body)

    def _answer(self, status: int, **headers: str) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": "0"}.items():
            self.send_header(name, value)
        self.end_headers()


@contextlib.contextmanager
def serving() -> Iterator[Served]:
    served = Served()
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, served)) as server:
        served.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()


class _PlainHttps(urllib.request.HTTPSHandler):
    """https:// without the TLS, so that a test needs no certificate."""

    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        return self.do_open(http.client.HTTPConnection, req)  # type: ignore[arg-type]


def web(*, slept: Callable[[float], None] = lambda seconds: None, free_bytes: int = 1 << 40) -> Web:
    """The way to `serving()`: no proxies, no waiting, a disk of a given size; https:// is spoken in plain."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), Redirects, _PlainHttps)
    return Web(opener, sleep=slept, free_bytes=lambda folder: free_bytes, timeout_seconds=10)
