"""A pod template as processes: tables of what becomes what."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from flash_api.manifest import stored_deployment
from flash_operator.local.pods import MissingObjectError, translate
from flash_operator.local.podspec import Machine, PodSpec, Probe
from flash_operator.plan import PlanSettings, plan

DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "flashplane.dev/v1alpha1",
    "kind": "FlashDeployment",
    "metadata": {"name": "chat", "namespace": "default", "uid": "u"},
    "spec": {
        "model": {"source": "file:///tmp/models/tiny"},
        "gateway": {"auth": {"apiKeysSecretRef": {"name": "chat-keys"}}},
    },
}
SECRET = {
    "kind": "Secret",
    "metadata": {"name": "chat-keys"},
    "data": {"api-keys": base64.b64encode(b"key-1\n").decode()},
}


def planned(component: str, machine: Machine, *, secret: dict[str, Any] | None = SECRET) -> PodSpec:
    """The pod of one component of the real plan."""
    objects = {
        (o["kind"], o["metadata"]["name"]): o for o in plan(stored_deployment(DEPLOYMENT), PlanSettings()).objects
    }
    if secret is not None:
        objects["Secret", "chat-keys"] = secret
    return translated(
        objects["Deployment", f"chat-{component}"]["spec"]["template"],
        machine,
        ports={8000: 5000, 8001: 5001, 8002: 5002, 8080: 9090},
        passed={8080},
        objects=objects,
    )


def translated(
    template: Any,
    machine: Machine,
    *,
    ports: dict[int, int],
    passed: set[int] = frozenset(),
    objects: Any = None,  # type: ignore[assignment]
) -> PodSpec:
    return translate(
        template,
        name="pod",
        namespace="default",
        machine=machine,
        ports=ports,
        passed=passed,
        find=lambda kind, name: (objects or {}).get((kind, name)),
    )


def a_template(*, volumes: tuple[Any, ...] = (), **container: Any) -> dict[str, Any]:
    entry = {"name": "main", "command": ["run"], **container}
    return {"metadata": {"labels": {}}, "spec": {"containers": [entry], "volumes": list(volumes)}}


def volume(pod: PodSpec, name: str) -> Path:
    return pod.directory / "volumes" / name


def test_the_engine_listens_on_its_own_loopback_ports(machine: Machine) -> None:
    pod = planned("engine", machine)
    assert pod.containers[0].argv == (
        str(machine.bin / "flash-engine"),
        *("--config", f"{volume(pod, 'config')}/engine.json"),
        *("--address", "127.0.0.1", "--http-port", "5000", "--grpc-port", "5001", "--metrics-port", "5002"),
    )


def test_a_draft_listens_on_its_own_loopback_ports_and_is_asked_there(machine: Machine) -> None:
    drafted = {**DEPLOYMENT, "spec": {**DEPLOYMENT["spec"], "draft": {"model": {"source": "file:///tmp/models/tiny"}}}}
    objects = {(o["kind"], o["metadata"]["name"]): o for o in plan(stored_deployment(drafted), PlanSettings()).objects}
    (template,) = [
        o["spec"]["template"] for (kind, name), o in objects.items() if kind == "Deployment" and "-draft-" in name
    ]
    pod = translated(template, machine, ports={8000: 5000, 8001: 5001, 8002: 5002}, objects=objects)
    draft = pod.containers[0]
    assert draft.argv == (
        str(machine.bin / "flash-draft"),
        *("--config", f"{volume(pod, 'config')}/draft.json"),
        *("--address", "127.0.0.1", "--http-port", "5000", "--grpc-port", "5001", "--metrics-port", "5002"),
    )
    assert draft.liveness is not None
    assert draft.liveness.command is not None
    assert draft.liveness.command[-3:] == ("--draft", "--http-port", "5000")


def test_the_gateway_gets_its_socket_instead_of_a_port(machine: Machine) -> None:
    pod = planned("gateway", machine)
    gateway = pod.containers[0]
    assert gateway.argv == (str(machine.bin / "flash-gateway"), "--config", f"{volume(pod, 'config')}/gateway.json")
    assert gateway.takes_sockets
    assert gateway.readiness is not None
    assert (gateway.readiness.http, gateway.readiness.shared) == ("http://127.0.0.1:9090/readyz", True)


def test_a_file_source_is_a_path_of_this_machine_and_stays(machine: Machine) -> None:
    pod = planned("engine", machine)
    assert pod.init[0].argv[:3] == (str(machine.bin / "flash-pull"), "--source", "file:///tmp/models/tiny")
    assert pod.init[0].argv[-2:] == ("--to", str(volume(pod, "models")))


def test_configuration_files_name_local_folders(machine: Machine) -> None:
    pod = planned("engine", machine)
    (config,) = pod.files
    assert config.path == volume(pod, "config") / "engine.json"
    text = config.content.decode()
    assert f'"model_dir": "{volume(pod, "models")}"' in text
    assert '"source": "file:///tmp/models/tiny"' in text


def test_a_secret_becomes_a_file_with_its_value_and_the_gateway_is_told_where(machine: Machine) -> None:
    pod = planned("gateway", machine)
    contents = {file.path: file.content for file in pod.files}
    key_file = volume(pod, "api-keys") / "api-keys"
    assert contents[key_file] == b"key-1\n"
    assert f'"api_keys_file": "{key_file}"' in contents[volume(pod, "config") / "gateway.json"].decode()


@pytest.mark.parametrize(
    ("secret", "message"),
    [
        (None, "Secret 'chat-keys' does not exist"),
        ({**SECRET, "data": {"other": ""}}, "Secret 'chat-keys' has no key 'api-keys'; it has other"),
    ],
)
def test_a_missing_secret_is_named(machine: Machine, secret: dict[str, Any] | None, message: str) -> None:
    with pytest.raises(MissingObjectError, match=message):
        planned("gateway", machine, secret=secret)


def test_the_token_of_a_source_is_a_file_that_the_pull_is_told_of(machine: Machine) -> None:
    ref = {"name": "hub-token", "key": "token"}
    secret = {"kind": "Secret", "metadata": {"name": "hub-token"}, "data": {"token": base64.b64encode(b"t1").decode()}}
    spec = {"model": {"source": "hf://a/b", "credentialsSecretRef": ref}}
    objects = {
        (o["kind"], o["metadata"]["name"]): o
        for o in plan(stored_deployment({**DEPLOYMENT, "spec": spec}), PlanSettings()).objects
    }
    objects["Secret", "hub-token"] = secret
    template = objects["Deployment", "chat-engine"]["spec"]["template"]
    pod = translated(template, machine, ports={8000: 5000, 8001: 5001, 8002: 5002}, objects=objects)
    file = volume(pod, "source-token") / "token"
    assert {found.path: found.content for found in pod.files}[file] == b"t1"
    assert pod.init[0].env["FLASHPLANE_TOKEN_FILE"] == str(file)
    assert "FLASHPLANE_TOKEN_FILE" not in pod.containers[0].env


def test_a_claim_is_refused_with_what_to_write_here(machine: Machine) -> None:
    template = a_template(volumes=({"name": "source", "persistentVolumeClaim": {"claimName": "weights"}},))
    with pytest.raises(MissingObjectError, match=r"'weights' does not exist on this machine; write file:///PATH"):
        translated(template, machine, ports={})


def test_a_probe_by_command_uses_this_python_and_the_local_port(machine: Machine) -> None:
    liveness = planned("engine", machine).containers[0].liveness
    assert liveness is not None
    assert liveness.command == (str(machine.python), "-m", "flash_runtime.backend.canary", "--http-port", "5000")


def test_probes_keep_their_thresholds(machine: Machine) -> None:
    template = a_template(
        ports=[{"name": "web", "containerPort": 80}],
        readinessProbe={"httpGet": {"path": "/ok", "port": "web"}, "periodSeconds": 7, "failureThreshold": 2},
    )
    found = translated(template, machine, ports={80: 6000}).containers[0].readiness
    assert found == Probe(http="http://127.0.0.1:6000/ok", period_seconds=7, timeout_seconds=1, failure_threshold=2)


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("/data", "{data}"),
        ("/data/model.bin", "{data}/model.bin"),
        ("--to=/data/x", "--to={data}/x"),
        ("/database", "/database"),
        ("/var/data", "/var/data"),
        ("file:///data/x", "file:///data/x"),
        ("/data-old/x", "/data-old/x"),
    ],
)
def test_only_whole_container_paths_move(machine: Machine, argument: str, expected: str) -> None:
    template = a_template(
        args=[argument],
        volumeMounts=[{"name": "data", "mountPath": "/data"}],
        volumes=({"name": "data", "emptyDir": {}},),
    )
    pod = translated(template, machine, ports={})
    assert pod.containers[0].argv == ("run", expected.format(data=volume(pod, "data")))


def test_shared_memory_stays_where_tritonserver_looks_for_it(machine: Machine) -> None:
    template = a_template(
        args=["/dev/shm/x"],
        volumeMounts=[{"name": "shm", "mountPath": "/dev/shm"}],
        volumes=({"name": "shm", "emptyDir": {"medium": "Memory"}},),
    )
    assert translated(template, machine, ports={}).containers[0].argv == ("run", "/dev/shm/x")


def test_processes_know_the_hosts_file_the_cache_and_whose_they_are(machine: Machine) -> None:
    env = translated(a_template(env=[{"name": "MODE", "value": "fast"}]), machine, ports={}).containers[0].env
    assert env["FLASHPLANE_HOSTS"] == str(machine.place.hosts)
    assert env["FLASHPLANE_CACHE"] == str(machine.cache)
    assert env["FLASHPLANE_LOCAL"] == str(machine.place.root)
    assert env["PATH"].startswith(f"{machine.bin}:")
    assert env["MODE"] == "fast"
