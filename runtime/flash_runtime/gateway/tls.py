"""The certificate that clients see, taken anew when its files are. Knows no HTTP.

A new handshake begins in one context, which never changes, and goes on in the context of the newest certificate;
streams that run keep the one they began with.

Errors: `CertificateError`, which names the file and what to do.
"""

from __future__ import annotations

import logging
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Final

from flash_api.config.gateway import GatewayTls

logger = logging.getLogger(__name__)

CHECK_EVERY_SECONDS: Final = 1.0

Version = tuple[tuple[int, int, int], ...]


class CertificateError(Exception):
    """Files that cannot be used at start."""


class Certificate:
    """The certificate and key of two PEM files. `context` is what a server is given."""

    def __init__(self, files: GatewayTls, *, clock: Callable[[], float]) -> None:
        self._files = files
        self._clock = clock
        self._checked_at = clock()
        self._failing = False
        try:
            self._version = self._look()
            self._newest, self._expires_at = self._load(), self._end()
            self.context = self._load()
        except (OSError, ValueError) as error:  # SSLError is an OSError
            raise CertificateError(
                f"tls ({files.certificate_file}, {files.key_file}) cannot be used: {_reason(error)}; "
                "provide a certificate chain and its key, not encrypted, as PEM"
            ) from error
        # Called for clients that name no server, too.
        self.context.sni_callback = self._show

    def expires_at(self) -> float:
        """When the newest certificate ends, in Unix time."""
        self._refresh()
        return self._expires_at

    def _show(self, handshake: ssl.SSLObject | ssl.SSLSocket, name: str | None, context: ssl.SSLContext) -> None:
        self._refresh()
        handshake.context = self._newest

    def _refresh(self) -> None:
        now = self._clock()
        if now - self._checked_at < CHECK_EVERY_SECONDS:
            return
        self._checked_at = now
        try:
            version = self._look()
            if version != self._version:
                self._newest, self._expires_at, self._version = self._load(), self._end(), version
                logger.info("certificate renewed")
            self._failing = False
        except (OSError, ValueError) as error:
            # The old one may still be good, and between two writes the files need not belong together.
            if not self._failing:
                logger.error("certificate cannot be renewed: the old one stays", extra={"error": _reason(error)})
            self._failing = True

    def _look(self) -> Version:
        stats = (Path(file).stat() for file in (self._files.certificate_file, self._files.key_file))
        return tuple((stat.st_mtime_ns, stat.st_size, stat.st_ino) for stat in stats)

    def _end(self) -> float:
        # Imported late: most gateways end no TLS.
        from cryptography.x509 import load_pem_x509_certificate

        return load_pem_x509_certificate(
            Path(self._files.certificate_file).read_bytes()
        ).not_valid_after_utc.timestamp()

    def _load(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # With a password given, nobody is asked for one.
        context.load_cert_chain(self._files.certificate_file, self._files.key_file, password="")
        return context


def _reason(error: OSError | ValueError) -> str:
    return getattr(error, "reason", None) or getattr(error, "strerror", None) or str(error)
