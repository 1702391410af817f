"""The certificate that clients see: handshakes in memory, and a real gateway that renews it under a running stream."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import ssl
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from fakes.authority import Authority
from fakes.scripted_engine import Clock
from fakes.tiny_text import CHATML, tokenizer_json

from flash_api.config.gateway import GatewayConfig, GatewayTls
from flash_api.names import ENV_HOSTS
from flash_runtime.gateway.serve import main
from flash_runtime.gateway.tls import Certificate, CertificateError
from flash_runtime.packed import PackedWriter

SECONDS = 30


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


def files_of(folder: Path) -> GatewayTls:
    return GatewayTls(certificate_file=str(folder / "tls.crt"), key_file=str(folder / "tls.key"))


def shown(certificate: Certificate, authority: Authority, name: str | None = "localhost") -> str:
    """The common name of the certificate that a client gets, by a whole handshake."""
    trusting = authority.trusting()
    trusting.check_hostname = name is not None
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = trusting.wrap_bio(to_client, to_server, server_hostname=name)
    server = certificate.context.wrap_bio(to_server, to_client, server_side=True)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
    found = client.getpeercert()
    assert found is not None
    return str(dict(pair for part in found["subject"] for pair in part)["commonName"])


@pytest.mark.parametrize("name", ["localhost", None])
def test_a_renewed_certificate_is_shown_a_second_later(tmp_path: Path, authority: Authority, name: str | None) -> None:
    clock = Clock()
    authority.issue(tmp_path, "first")
    certificate = Certificate(files_of(tmp_path), clock=clock)
    assert shown(certificate, authority, name) == "first"
    authority.issue(tmp_path, "second")
    assert shown(certificate, authority, name) == "first"
    clock.now += 1.0
    assert shown(certificate, authority, name) == "second"


def test_files_that_do_not_belong_together_leave_the_old_certificate_in_force(
    tmp_path: Path, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    clock, other = Clock(), tmp_path / "other"
    other.mkdir()
    authority.issue(tmp_path, "first")
    certificate = Certificate(files_of(tmp_path), clock=clock)
    cert, key = authority.issue(other, "second")
    (tmp_path / "tls.crt").write_bytes(cert.read_bytes())
    for _ in range(3):
        clock.now += 1.0
        assert shown(certificate, authority) == "first"
    assert [record.message for record in caplog.records] == ["certificate cannot be renewed: the old one stays"]
    (tmp_path / "tls.key").write_bytes(key.read_bytes())
    clock.now += 1.0
    with caplog.at_level(logging.INFO):
        assert shown(certificate, authority) == "second"
    assert caplog.records[-1].message == "certificate renewed"


def test_a_certificate_that_vanishes_stays_in_force(tmp_path: Path, authority: Authority) -> None:
    clock = Clock()
    authority.issue(tmp_path, "first")
    certificate = Certificate(files_of(tmp_path), clock=clock)
    (tmp_path / "tls.crt").unlink()
    clock.now += 1.0
    assert shown(certificate, authority) == "first"


def test_old_versions_of_tls_are_refused(tmp_path: Path, authority: Authority) -> None:
    authority.issue(tmp_path)
    assert Certificate(files_of(tmp_path), clock=Clock()).context.minimum_version == ssl.TLSVersion.TLSv1_2


def test_files_that_are_no_certificate_are_named(tmp_path: Path, authority: Authority) -> None:
    with pytest.raises(CertificateError, match=r"tls.crt.*No such file"):
        Certificate(files_of(tmp_path), clock=Clock())
    _, key = authority.issue(tmp_path)
    private = serialization.load_pem_private_key(key.read_bytes(), None)
    encryption = serialization.BestAvailableEncryption(b"secret")
    pem = private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
    key.write_bytes(pem)
    with pytest.raises(CertificateError, match="not encrypted"):
        Certificate(files_of(tmp_path), clock=Clock())


def test_a_gateway_without_its_certificate_says_so_in_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--config", str(config_file(tmp_path)), "--address", "127.0.0.1", "--port", "0"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("flash-gateway: tls (")
    assert said.count("\n") == 1


def config_file(folder: Path) -> Path:
    """Of a gateway whose engine never answers."""
    with PackedWriter(folder / "model.flash") as writer:
        writer.add_bytes("tokenizer.json", tokenizer_json())
        writer.set_header({"text": {"chat_template": CHATML, "eos_token_ids": [2]}, "model": {}})
    config = GatewayConfig(
        served_model_name="tiny", engine="engine.svc:8001", model_dir=str(folder), tls=files_of(folder)
    )
    path = folder / "gateway.json"
    path.write_text(config.model_dump_json())
    return path


def test_a_gateway_speaks_tls_and_keeps_connections_through_a_renewal(tmp_path: Path, authority: Authority) -> None:
    authority.issue(tmp_path, "first")
    command = [sys.executable, "-c", "import sys; from flash_runtime.gateway.serve import main; sys.exit(main())"]
    log = tmp_path / "log"
    with socket.create_server(("127.0.0.1", 0)) as listener, log.open("w") as written:
        port = listener.getsockname()[1]
        shell = f'exec "$@" 3<&{listener.fileno()}'
        with subprocess.Popen(
            ["bash", "-c", shell, "bash", *command, "--config", str(config_file(tmp_path))],
            env={**os.environ, "LISTEN_FDS": "1", ENV_HOSTS: str(tmp_path / "hosts")},
            pass_fds=[listener.fileno()],
            stderr=written,
        ) as process:
            try:
                kept = http.client.HTTPSConnection("localhost", port, timeout=SECONDS, context=authority.trusting())
                assert models(kept) == ["tiny"]
                authority.issue(tmp_path, "second")
                while peer(port, authority) != "second":
                    assert models(kept) == ["tiny"]
                assert models(kept) == ["tiny"]
                kept.close()
                plain = http.client.HTTPConnection("localhost", port, timeout=SECONDS)
                with pytest.raises((http.client.HTTPException, ConnectionError)):
                    models(plain)
                plain.close()
            finally:
                process.terminate()
                process.wait(SECONDS)
    assert process.returncode == 0
    assert any(json.loads(line)["message"] == "certificate renewed" for line in log.read_text().splitlines())


def models(connection: http.client.HTTPConnection) -> list[str]:
    connection.request("GET", "/v1/models")
    return [model["id"] for model in json.loads(connection.getresponse().read())["data"]]


def peer(port: int, authority: Authority) -> str:
    """The name in the certificate that a new connection gets."""
    with (
        socket.create_connection(("localhost", port), timeout=SECONDS) as raw,
        authority.trusting().wrap_socket(raw, server_hostname="localhost") as wrapped,
    ):
        found = wrapped.getpeercert()
        assert found is not None
        return str(dict(pair for part in found["subject"] for pair in part)["commonName"])
