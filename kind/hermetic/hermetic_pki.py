"""Keys and certificates of one throw-away cluster: who may speak as whom.

Knows X.509. Does not know addresses beyond those given, nor how the files are handed to programs.
"""

import datetime
import ipaddress
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

VALIDITY = datetime.timedelta(days=365)
CLOCK_SKEW = datetime.timedelta(minutes=5)


@dataclass(frozen=True)
class Pair:
    """The files of one certificate and its key."""

    certificate: Path
    key: Path


@dataclass(frozen=True)
class ServiceAccountKey:
    """The files that sign and verify service account tokens."""

    private: Path
    public: Path


@dataclass(frozen=True)
class Pki:
    """Every key of the cluster."""

    authority: Pair
    issuer: "Authority"
    """Signs with `authority`, for who joins later."""
    apiserver: Pair
    admin: Pair
    kubelet_client: Pair
    """The API server's, towards kubelets: logs, exec, port-forward."""
    controller_manager: Pair
    front_proxy_authority: Pair
    front_proxy_client: Pair
    service_account: ServiceAccountKey


def write_pki(directory: Path, server_names: Sequence[str], now: datetime.datetime) -> Pki:
    """Makes all keys and writes them to `directory`. `server_names` are DNS names and IP addresses."""
    authority = Authority("flashplane-hermetic-ca", directory / "ca", now)
    # An authority of its own: whoever holds a certificate from it may name any user in a request header.
    front_proxy = Authority("flashplane-hermetic-front-proxy-ca", directory / "front-proxy-ca", now)
    service_account = ec.generate_private_key(ec.SECP256R1())
    return Pki(
        authority=authority.files,
        issuer=authority,
        apiserver=authority.issue("kube-apiserver", directory / "apiserver", server_names=server_names),
        admin=authority.issue("flashplane-admin", directory / "admin", group="system:masters"),
        kubelet_client=authority.issue(
            "kube-apiserver-kubelet-client", directory / "kubelet-client", group="system:masters"
        ),
        controller_manager=authority.issue("system:kube-controller-manager", directory / "controller-manager"),
        front_proxy_authority=front_proxy.files,
        front_proxy_client=front_proxy.issue("front-proxy-client", directory / "front-proxy-client"),
        service_account=ServiceAccountKey(
            private=write_private(directory / "service-account.key", _private_pem(service_account)),
            public=write_private(
                directory / "service-account.pub",
                service_account.public_key().public_bytes(
                    serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
                ),
            ),
        ),
    )


def write_private(path: Path, content: bytes) -> Path:
    """Writes a file that was never readable by others, not even for a moment."""
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
        file.write(content)
    return path


class Authority:
    """Who signs certificates."""

    def __init__(self, common_name: str, stem: Path, now: datetime.datetime) -> None:
        self._now = now
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        certificate = (
            self._builder(self._name, self._key.public_key())
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(_key_usage(signs_certificates=True), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        self.files = _write_pair(stem, certificate, self._key)

    def issue(
        self, common_name: str, stem: Path, *, group: str | None = None, server_names: Sequence[str] = ()
    ) -> Pair:
        """A client certificate for the user `common_name`; with `server_names` a serving certificate instead."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = [x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
        if group is not None:
            subject.append(x509.NameAttribute(NameOID.ORGANIZATION_NAME, group))
        purpose = ExtendedKeyUsageOID.SERVER_AUTH if server_names else ExtendedKeyUsageOID.CLIENT_AUTH
        builder = (
            self._builder(x509.Name(subject), key.public_key())
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_key_usage(signs_certificates=False), critical=True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        )
        if server_names:
            names = x509.SubjectAlternativeName([_general_name(name) for name in server_names])
            builder = builder.add_extension(names, critical=False)
        return _write_pair(stem, builder.sign(self._key, hashes.SHA256()), key)

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(self._now - CLOCK_SKEW)
            .not_valid_after(self._now + VALIDITY)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            # Python 3.13 verifies strictly and asks for it.
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key()), critical=False)
        )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _key_usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        encipher_only=False,
        decipher_only=False,
    )


def _private_pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def _write_pair(stem: Path, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Pair:
    return Pair(
        certificate=write_private(
            stem.with_name(f"{stem.name}.crt"), certificate.public_bytes(serialization.Encoding.PEM)
        ),
        key=write_private(stem.with_name(f"{stem.name}.key"), _private_pem(key)),
    )
