"""The least that is needed to speak to an API server: JSON over HTTPS, and kubeconfig files.

Knows one server and one client certificate. Does not know resources or retries: tests that need those use a real client
with `ControlPlane.kubeconfig`.
"""

import base64
import http.client
import json
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hermetic_pki import Pair, write_private

REQUEST_TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Response:
    """What the server said. `text` is the body as it came; `json()` reads it."""

    status: int
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class Api:
    """The API server at 127.0.0.1:`port`, as the user that `client` names."""

    def __init__(self, port: int, authority: Path, client: Pair) -> None:
        self._port = port
        self._tls = ssl.create_default_context(cafile=str(authority))
        self._tls.load_cert_chain(client.certificate, client.key)

    def request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Response:
        """Raises OSError or http.client.HTTPException when there is no answer; an answer of any status is returned."""
        connection = http.client.HTTPSConnection(
            "127.0.0.1", self._port, timeout=REQUEST_TIMEOUT_SECONDS, context=self._tls
        )
        try:
            content = None if body is None else json.dumps(body)
            connection.request(method, path, content, {"Content-Type": "application/json"})
            response = connection.getresponse()
            return Response(response.status, response.read().decode())
        finally:
            connection.close()

    def watch(self, path: str, version: str) -> Iterator[dict[str, Any]]:
        """The events at `path` after `version`, until the server ends the watch. Raises as `request` does."""
        connection = http.client.HTTPSConnection("127.0.0.1", self._port, context=self._tls)
        try:
            connection.request("GET", f"{path}?watch=true&resourceVersion={version}")
            response = connection.getresponse()
            for line in response:
                yield json.loads(line)
        finally:
            connection.close()

    def answers(self, path: str) -> bool:
        """Whether a GET of `path` succeeds; no server yet is an ordinary "no"."""
        try:
            return self.request("GET", path).status == 200
        except (OSError, http.client.HTTPException):
            return False


def certificate_user(client: Pair) -> dict[str, str]:
    """The kubeconfig user who proves itself by a client certificate."""
    return {
        "client-certificate-data": _base64(client.certificate.read_bytes()),
        "client-key-data": _base64(client.key.read_bytes()),
    }


def write_kubeconfig(
    path: Path, *, url: str, authority: Path, user: Mapping[str, str], namespace: str = "default"
) -> Path:
    """Writes a kubeconfig (as JSON, which is YAML) that only this user can read."""
    cluster = {"server": url, "certificate-authority-data": _base64(authority.read_bytes())}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "hermetic", "cluster": cluster}],
        "users": [{"name": "hermetic", "user": dict(user)}],
        "contexts": [
            {"name": "hermetic", "context": {"cluster": "hermetic", "user": "hermetic", "namespace": namespace}}
        ],
        "current-context": "hermetic",
    }
    return write_private(path, json.dumps(config, indent=2).encode())


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()
