"""The public keys of an OpenID Connect provider: found below its URL, kept, and asked for anew. Knows no tokens.

What is known goes on to be used while the provider is silent, for a day; what is not known is never guessed.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

import httpx2
from jwt import PyJWK
from jwt.exceptions import PyJWTError

from flash_runtime.gateway.auth import ProviderSilent

logger = logging.getLogger(__name__)

REFRESH_SECONDS: Final = 600.0
"""A key that the provider has withdrawn is believed for no longer, as long as the provider answers."""
BELIEVED_SECONDS: Final = 86_400.0
"""How long keys are believed of a provider that does not answer."""
PAUSE_SECONDS: Final = 10.0
"""Between two questions, so that tokens with made-up key ids are no way to harass the provider."""
TIMEOUT_SECONDS: Final = 5.0
DOCUMENT_MAX_BYTES: Final = 1024**2
RSA_MIN_BITS: Final = 2048

_RSA: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512")
_BY_CURVE: Final = {"P-256": ("ES256",), "P-384": ("ES384",), "P-521": ("ES512",), "Ed25519": ("EdDSA",)}
ALGORITHMS: Final = frozenset((*_RSA, *(name for names in _BY_CURVE.values() for name in names)))
"""All of two keys. One key for both sides would make everybody who can check a token able to make one."""

Fetch = Callable[[str], Awaitable[bytes]]
"""GET a URL. Raises ProviderSilent."""


@dataclass(frozen=True)
class Key:
    """A public key and the algorithms that it may be used with."""

    id: str | None
    by_algorithm: Mapping[str, PyJWK]


class ProviderKeys:
    """Implements `tokens.Keys` for one provider. Must be used in one event loop."""

    def __init__(self, issuer: str, fetch: Fetch, *, clock: Callable[[], float]) -> None:
        self._issuer = issuer
        self._fetch = fetch
        self._clock = clock
        self._keys: tuple[Key, ...] = ()
        self._fetched_at: float | None = None
        self._asked_at = float("-inf")
        self._running: asyncio.Task[None] | None = None

    async def find(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        """The key for such a token. Without an id there must be one key only that fits. Raises ProviderSilent."""
        age = float("inf") if self._fetched_at is None else self._clock() - self._fetched_at
        if age >= BELIEVED_SECONDS:
            await self._refresh()
        elif age >= REFRESH_SECONDS and self._may_ask:
            self._start()
        found = self._known(key_id, algorithm)
        if found is None and self._may_ask:
            # A provider signs with a new key before anybody has heard of it.
            await self._refresh()
            found = self._known(key_id, algorithm)
        return found

    @property
    def _may_ask(self) -> bool:
        return self._clock() - self._asked_at >= PAUSE_SECONDS

    def _known(self, key_id: str | None, algorithm: str) -> PyJWK | None:
        fitting = [key.by_algorithm[algorithm] for key in self._keys if algorithm in key.by_algorithm]
        if key_id is None:
            return fitting[0] if len(fitting) == 1 else None
        mine = (key for key in self._keys if key.id == key_id)
        return next((key.by_algorithm[algorithm] for key in mine if algorithm in key.by_algorithm), None)

    async def _refresh(self) -> None:
        if self._running is None and not self._may_ask:
            raise ProviderSilent("it was asked a moment ago")
        await asyncio.shield(self._start())

    def _start(self) -> asyncio.Task[None]:
        """Everybody who waits, waits for the same answer."""
        if self._running is None:
            self._asked_at = self._clock()
            self._running = asyncio.create_task(self._ask())
            self._running.add_done_callback(self._ended)
        return self._running

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._running = None
        error = None if task.cancelled() else task.exception()
        if error is not None:
            logger.warning("token provider cannot be used", extra={"issuer": self._issuer, "error": str(error)})

    async def _ask(self) -> None:
        found = _object(await self._fetch(f"{self._issuer.rstrip('/')}/.well-known/openid-configuration"))
        if found.get("issuer") != self._issuer:
            raise ProviderSilent("its configuration names another issuer")
        place = found.get("jwks_uri")
        if not isinstance(place, str) or urlsplit(place).scheme != "https":
            raise ProviderSilent("its configuration names no https:// place for its keys")
        keys = _object(await self._fetch(place)).get("keys")
        if not isinstance(keys, list):
            raise ProviderSilent("its keys are no list")
        self._keys = tuple(key for key in map(_key, keys) if key is not None)
        self._fetched_at = self._clock()


class HttpsFetch:
    """GET with a deadline and a bound, over https:// only and without going elsewhere. Close it by `aclose`."""

    def __init__(self, trusted: ssl.SSLContext | None = None) -> None:
        self._client = httpx2.AsyncClient(
            verify=trusted or ssl.create_default_context(), timeout=TIMEOUT_SECONDS, follow_redirects=False
        )

    async def __call__(self, url: str) -> bytes:
        body = bytearray()
        try:
            async with asyncio.timeout(TIMEOUT_SECONDS), self._client.stream("GET", url) as answer:
                if answer.status_code != 200:
                    raise ProviderSilent(f"{url} answered {answer.status_code}")
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > DOCUMENT_MAX_BYTES:
                        raise ProviderSilent(f"{url} is larger than {DOCUMENT_MAX_BYTES} bytes")
        except TimeoutError:
            raise ProviderSilent(f"{url} did not answer within {TIMEOUT_SECONDS:g} s") from None
        except (httpx2.HTTPError, httpx2.InvalidURL) as error:
            raise ProviderSilent(f"{url}: {error or type(error).__name__}") from error
        return bytes(body)

    async def aclose(self) -> None:
        """Close the connections."""
        await self._client.aclose()


def _object(document: bytes) -> Mapping[str, Any]:
    try:
        found = json.loads(document)
    except (ValueError, RecursionError):
        raise ProviderSilent("it does not answer in JSON") from None
    if not isinstance(found, dict):
        raise ProviderSilent("its answer is no object")
    return found


def _key(entry: Any) -> Key | None:
    """None for what is no key for signatures, or not a safe one."""
    if not isinstance(entry, dict) or entry.get("use", "sig") != "sig":
        return None
    if "d" in entry:
        return None  # the private half, which everybody can read by now
    possible = _RSA if entry.get("kty") == "RSA" else _BY_CURVE.get(str(entry.get("crv")), ())
    chosen = [name for name in possible if entry.get("alg") in (None, name)]
    try:
        found = {name: PyJWK(entry, algorithm=name) for name in chosen}
    except (PyJWTError, ValueError, TypeError):
        return None
    if entry.get("kty") == "RSA" and any(key.key.key_size < RSA_MIN_BITS for key in found.values()):
        return None
    key_id = entry.get("kid")
    return Key(key_id if isinstance(key_id, str) else None, found) if found else None
