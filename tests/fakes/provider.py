"""An OpenID Connect provider on this machine: keys, tokens, and a real HTTPS server that may misbehave."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jwt
from aiohttp import web
from aiohttp.test_utils import TestServer
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from fakes.authority import Authority
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

PrivateKey = rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey

_MAKE: dict[str, Callable[[], PrivateKey]] = {
    "RS256": lambda: rsa.generate_private_key(65537, 2048),
    "PS384": lambda: rsa.generate_private_key(65537, 2048),
    "ES256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "ES384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate,
}
_TO_JWK: dict[str, Any] = {"R": RSAAlgorithm, "P": RSAAlgorithm, "ES": ECAlgorithm, "Ed": OKPAlgorithm}
AUDIENCE = "flashplane"


@dataclass
class SigningKey:
    """One key of the provider."""

    id: str
    algorithm: str = "ES256"
    private: PrivateKey = field(init=False)

    def __post_init__(self) -> None:
        self.private = _MAKE[self.algorithm]()

    def public(self, **fields: Any) -> dict[str, Any]:
        """As the provider publishes it."""
        maker = next(value for prefix, value in _TO_JWK.items() if self.algorithm.startswith(prefix))
        found: dict[str, Any] = json.loads(maker.to_jwk(self.private.public_key()))
        return {**found, "kid": self.id, "use": "sig", **fields}

    def token(
        self, issuer: str, *, kid: str | None = None, headers: dict[str, Any] | None = None, **claims: Any
    ) -> str:
        """A token of this key, valid unless a claim says otherwise; None leaves a claim out."""
        now = int(time.time())
        whole = {"iss": issuer, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600, **claims}
        body = {name: value for name, value in whole.items() if value is not None}
        return jwt.encode(body, self.private, self.algorithm, headers={"kid": kid or self.id, **(headers or {})})


@dataclass
class Provider:
    """What the server says; tests change it."""

    issuer: str = ""
    keys: list[dict[str, Any]] = field(default_factory=list)
    configuration: dict[str, Any] = field(default_factory=dict)
    """Fields that differ from the right ones."""
    status: int = 200
    body: bytes | None = None
    """Instead of everything."""
    num_asked: int = 0

    async def answer(self, request: web.Request) -> web.Response:
        self.num_asked += 1
        if self.status != 200:
            return web.Response(status=self.status, headers={"Location": f"{self.issuer}/keys"})
        if self.body is not None:
            return web.Response(body=self.body)
        if request.path.endswith("/.well-known/openid-configuration"):
            return web.json_response({"issuer": self.issuer, "jwks_uri": f"{self.issuer}/keys", **self.configuration})
        return web.json_response({"keys": self.keys})


@asynccontextmanager
async def serving(authority: Authority, folder: Path, *keys: SigningKey) -> AsyncIterator[Provider]:
    """A provider that listens by TLS."""
    provider = Provider(keys=[key.public() for key in keys])
    app = web.Application()
    app.router.add_get("/{path:.*}", provider.answer)
    server = TestServer(app, scheme="https", host="localhost")
    await server.start_server(ssl=authority.serving(folder))
    provider.issuer = str(server.make_url("/realms/acme"))
    try:
        yield provider
    finally:
        await server.close()
