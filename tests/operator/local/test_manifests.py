"""Manifest files at the door."""

from __future__ import annotations

import base64
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from flash_operator.local.client import Snapshot
from flash_operator.local.listeners import free_ports
from flash_operator.local.manifests import ManifestError, read, require_free_ports

SECRET = "apiVersion: v1\nkind: Secret\nmetadata: {name: keys}\nstringData: {api-keys: sk-1}\n"
DEPLOYMENT = """\
apiVersion: flashplane.dev/v1alpha1
kind: FlashDeployment
metadata: {name: chat, uid: elsewhere, resourceVersion: "7"}
spec:
  model: {source: "builtin://smollm2-135m-instruct"}
"""


def a_file(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "flash.yaml"
    path.write_text(text)
    return path


def a_deployment(name: str, port: int) -> dict[str, Any]:
    return {"metadata": {"name": name, "namespace": "default"}, "spec": {"endpoint": {"port": port}}}


def running(*deployments: dict[str, Any]) -> Snapshot:
    return Snapshot(4711, tuple({"manifest": manifest, "processes": []} for manifest in deployments))


def test_what_was_written_is_stored_and_what_a_cluster_filled_in_is_not(tmp_path: Path) -> None:
    wanted = read([a_file(tmp_path, DEPLOYMENT)])
    assert wanted.deployments == (
        {
            "apiVersion": "flashplane.dev/v1alpha1",
            "kind": "FlashDeployment",
            "metadata": {"name": "chat", "namespace": "default"},
            "spec": {"model": {"source": "builtin://smollm2-135m-instruct"}},
        },
    )


def test_a_secret_in_the_same_file_comes_along(tmp_path: Path) -> None:
    (secret,) = read([a_file(tmp_path, f"{SECRET}---\n{DEPLOYMENT}")]).secrets
    assert secret["data"] == {"api-keys": base64.b64encode(b"sk-1").decode()}
    assert secret["kind"] == "Secret"


def test_every_problem_is_told_with_its_place(tmp_path: Path) -> None:
    text = DEPLOYMENT + "  engine: {replicas: many}\n  endpoint: {port: 0}\n"
    with pytest.raises(ManifestError) as refused:
        read([a_file(tmp_path, text)])
    message = str(refused.value)
    assert "spec.engine.replicas" in message
    assert "spec.endpoint.port" in message
    assert "flash.yaml:6" in message


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match=r"none\.yaml cannot be read: No such file"):
        read([tmp_path / "none.yaml"])


def test_a_port_of_another_process_is_refused_with_its_holder() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = holder.getsockname()[1]
        with pytest.raises(ManifestError, match=rf"default/chat: port {port} .* \(pid {os.getpid()}\)"):
            require_free_ports([a_deployment("chat", port)], running())


def test_the_port_that_a_deployment_serves_on_already_is_its_own() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        chat = a_deployment("chat", holder.getsockname()[1])
        require_free_ports([chat], running(chat))


def test_two_deployments_cannot_share_a_port() -> None:
    (port,) = free_ports(1, ())
    with pytest.raises(ManifestError, match=rf"spec.endpoint.port \({port}\) of default/b is the port of default/a"):
        require_free_ports([a_deployment("a", port), a_deployment("b", port)], running())


def test_an_object_in_two_files_is_refused(tmp_path: Path) -> None:
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(DEPLOYMENT)
    second.write_text(DEPLOYMENT)
    with pytest.raises(ManifestError, match="FlashDeployment default/chat stands in more than one file"):
        read([first, second])
