"""Who may call: API keys from a file. Keys are held as digests only. Knows no HTTP.

Errors: `ApiKeysError`, which names the file and what to do; `TokenRefused` and `ProviderSilent` of tokens.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
from collections.abc import Callable
from pathlib import Path

logger = logging.getLogger(__name__)

CHECK_EVERY_SECONDS = 1.0


class ApiKeysError(Exception):
    """A keys file that cannot be used at start."""


class TokenRefused(Exception):
    """Why a token opens nothing, as the end of a sentence that begins with it."""


class ProviderSilent(Exception):
    """The provider of tokens does not answer, or not with what it must, so nobody can tell."""


class ApiKeys:
    """The keys of one file, one a line, `#` starts a comment. A changed file holds within a second.

    A file that becomes unreadable or empty accepts nobody: access ends when its proof does.
    """

    def __init__(self, path: Path, *, clock: Callable[[], float]) -> None:
        self._path = path
        self._clock = clock
        self._version: tuple[int, int, int] | None = None
        self._digests: tuple[bytes, ...] = ()
        self._checked_at: float = clock()
        try:
            self._load()
        except (OSError, UnicodeDecodeError) as error:
            raise ApiKeysError(
                f"api_keys_file ({path}) cannot be read: {_reason(error)}; create it with one key a line"
            ) from error
        if not self._digests:
            raise ApiKeysError(f"api_keys_file ({path}) must hold at least one key; add one a line")

    def accept(self, key: str) -> bool:
        """Whether this is one of the keys. Takes the same time whichever it is."""
        self._refresh()
        digest = _digest(key)
        accepted = False
        for known in self._digests:
            accepted |= hmac.compare_digest(known, digest)
        return accepted

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked_at < CHECK_EVERY_SECONDS:
            return
        self._checked_at = now
        try:
            self._load()
        except (OSError, UnicodeDecodeError) as error:
            if self._digests:
                logger.error("API keys file became unreadable: nobody is let in", extra={"error": _reason(error)})
            self._version, self._digests = None, ()

    def _load(self) -> None:
        stat = self._path.stat()
        version = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
        if version == self._version:
            return
        self._digests = tuple(map(_digest, parse_keys(self._path.read_text(encoding="utf-8"))))
        self._version = version


def tenant_of(key: str) -> str:
    """Who a key stands for, as a name that does not reveal it."""
    return hashlib.blake2b(_digest(key), digest_size=16, person=b"flash-tenant").hexdigest()


def tenant_of_caller(issuer: str, name: str) -> str:
    """Who a caller is that a provider vouches for. Of other numbers than those of keys, so neither can be the other."""
    text = f"{len(issuer)}:{issuer}{name}".encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16, person=b"flash-caller").hexdigest()


def cache_salt(tenant: str, chosen: str | None) -> str:
    """What separates cached prompts: tenants always, and within a tenant whatever salts it chose itself."""
    if chosen is None:
        return tenant
    # Of fixed length and keyed by the tenant, so that no choice can look like another tenant's salt.
    text = chosen.encode("utf-8", "surrogatepass")
    return hashlib.blake2b(text, digest_size=16, key=tenant.encode(), person=b"flash-salt").hexdigest()


def parse_keys(text: str) -> list[str]:
    """The keys in the text. `#` starts a comment at the start of a line or after a space, so a key may hold one."""
    lines = (line.split(" #", 1)[0].strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()


def _reason(error: OSError | UnicodeDecodeError) -> str:
    return error.strerror or str(error) if isinstance(error, OSError) else "it is not UTF-8"
