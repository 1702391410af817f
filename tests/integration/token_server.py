"""What gives out tokens for a registry, as the distribution specification says: a login in, a signed token out."""

from __future__ import annotations

import base64
import contextlib
import datetime
import functools
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature

ISSUER, SERVICE = "tokens", "models"


@dataclass
class Tokens:
    """The server's address, whom it knows, and what it was asked."""

    certificate: Path
    key: ec.EllipticCurvePrivateKey
    login: tuple[str, str]
    identity_token: str
    url: str = ""
    asked: list[str] = field(default_factory=list)

    def token(self, scope: str) -> str:
        kind, name, actions = scope.split(":")
        now = int(time.time())
        claims = {
            "iss": ISSUER,
            "sub": self.login[0],
            "aud": SERVICE,
            "iat": now,
            "nbf": now - 10,
            "exp": now + 300,
            "jti": str(len(self.asked)),
            "access": [{"type": kind, "name": name, "actions": actions.split(",")}],
        }
        chain = [base64.b64encode(_der(self.certificate)).decode()]
        text = f"{_part({'typ': 'JWT', 'alg': 'ES256', 'x5c': chain})}.{_part(claims)}"
        r, s = decode_dss_signature(self.key.sign(text.encode(), ec.ECDSA(hashes.SHA256())))
        return f"{text}.{_base64(r.to_bytes(32, 'big') + s.to_bytes(32, 'big'))}"


class _Handler(BaseHTTPRequestHandler):
    def __init__(self, tokens: Tokens, *arguments: object) -> None:
        self.tokens = tokens
        super().__init__(*arguments)  # type: ignore[arg-type]

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        query = {name: values[0] for name, values in parse_qs(urlsplit(self.path).query).items()}
        basic = base64.b64encode(":".join(self.tokens.login).encode()).decode()
        self._answer(self.headers.get("Authorization") == f"Basic {basic}", query["scope"], "token")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        form = {name: values[0] for name, values in parse_qs(body).items()}
        self._answer(form.get("refresh_token") == self.tokens.identity_token, form["scope"], "access_token")

    def _answer(self, allowed: bool, scope: str, word: str) -> None:
        self.tokens.asked.append(scope)
        body = json.dumps({word: self.tokens.token(scope)} if allowed else {"errors": []}).encode()
        self.send_response(200 if allowed else 401)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def make_tokens(folder: Path, *, login: tuple[str, str], identity_token: str) -> Tokens:
    """A key and the certificate that the registry checks signatures with."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "tokens")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    path = folder / "tokens.pem"
    path.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    return Tokens(path, key, login, identity_token)


@contextlib.contextmanager
def giving(tokens: Tokens) -> Iterator[Tokens]:
    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Handler, tokens)) as server:
        tokens.url = f"http://127.0.0.1:{server.server_port}/token"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield tokens
        finally:
            server.shutdown()
            thread.join()


def _der(certificate: Path) -> bytes:
    return x509.load_pem_x509_certificate(certificate.read_bytes()).public_bytes(serialization.Encoding.DER)


def _part(document: dict[str, object]) -> str:
    return _base64(json.dumps(document).encode())


def _base64(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).rstrip(b"=").decode()
