"""The certificate of one operator process, and the bundle by which the API server knows those of all. No files, no API.

Each process makes its own key, which nobody else ever holds, and adds its self-signed certificate to the bundle. So no
Secret is shared, and a process that is gone is forgotten when its certificate ends.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALID: Final = timedelta(days=7)
RENEWED_AFTER: Final = timedelta(days=4)
CLOCK_SKEW: Final = timedelta(minutes=10)
BUNDLE_MAX: Final = 16
"""Certificates in the bundle; a process that is restarted for ever would make it grow for a week."""
_PEM: Final = serialization.Encoding.PEM


@dataclass(frozen=True)
class Credentials:
    """A certificate and its key, in PEM."""

    certificate: bytes
    key: bytes
    made_at: datetime

    def is_old(self, now: datetime) -> bool:
        """Whether it is time for the next one."""
        return not self.made_at <= now < self.made_at + RENEWED_AFTER


def issue(host: str, now: datetime) -> Credentials:
    """New ones for a server that is asked for as `host`."""
    key = ec.generate_private_key(ec.SECP256R1())
    # The host is a name of its own kind, with room for its length; a common name has 64 characters.
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "flashplane external metrics")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - CLOCK_SKEW)
        .not_valid_after(now + VALID)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    unprotected = serialization.NoEncryption()
    private = key.private_bytes(_PEM, serialization.PrivateFormat.PKCS8, unprotected)
    return Credentials(certificate.public_bytes(_PEM), private, now)


def bundle(former: bytes, own: bytes, now: datetime) -> bytes:
    """The newest certificates of `former` that still hold, with `own` among them. Unreadable ones are left out."""
    certificates = {each.public_bytes(_PEM): each for pem in (former, own) for each in _read(pem)}
    holding = [each for each in certificates.values() if each.not_valid_after_utc > now]
    newest = sorted(holding, key=lambda each: each.not_valid_before_utc, reverse=True)[:BUNDLE_MAX]
    return b"".join(sorted({own, *(each.public_bytes(_PEM) for each in newest)}))


def _read(pem: bytes) -> list[x509.Certificate]:
    try:
        return x509.load_pem_x509_certificates(pem)
    except ValueError:
        return []
