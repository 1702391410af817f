"""What a terminal shows of a cluster, and which place a command looks at."""

import io
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from builders import a_manifest, a_model_manifest
from rich.console import Console, RenderableType
from typer import Typer
from typer.testing import CliRunner

from flash_api import names
from flash_operator.announcements import Announcement
from flash_operator.cluster.api import context_namespace
from flash_operator.cluster.events import event
from flash_operator.cluster.protocol import ClusterError
from flash_operator.cockpit import commands, view
from flash_operator.cockpit.explain import Sentence
from flash_operator.cockpit.facts import Served
from flash_operator.cockpit.findings import Finding, Severity

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: here
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
contexts:
- {name: here, context: {cluster: c, user: u, namespace: team-a}}
- {name: bare, context: {cluster: c, user: u}}
"""


def shown(what: RenderableType, width: int = 160) -> str:
    text = io.StringIO()
    Console(file=text, width=width).print(what)
    return text.getvalue()


def a_served(**status: Any) -> Served:
    conditions = [{"type": "Ready", "status": "False", "reason": "EnginesFailing", "message": "one fails"}]
    manifest = a_manifest(status={"conditions": conditions, "replicas": "1/2", **status})
    manifest["metadata"]["creationTimestamp"] = "2026-01-01T11:00:00Z"
    container = {"name": "engine", "restartCount": 4, "state": {"waiting": {"reason": "CrashLoopBackOff"}}}
    labels = {names.LABEL_DEPLOYMENT: "chat", names.LABEL_COMPONENT: "engine"}
    pod = {
        "metadata": {"name": "chat-engine-1", "labels": labels, "creationTimestamp": "2026-01-01T11:58:00Z"},
        "spec": {"nodeName": "n7", "containers": [{}]},
        "status": {"phase": "Running", "containerStatuses": [container]},
    }
    return Served(manifest, (pod,))


def test_one_deployment_is_shown_with_roles_rollout_failure_and_pods() -> None:
    served = a_served(
        engine={"desired": 2, "replicas": 3, "ready": 1, "updated": 1, "starting": 2},
        lastFailure={"pod": "chat-engine-1", "container": "engine", "exitCode": 137, "reason": "OOMKilled"},
        scaling={"desiredReplicas": 2, "reason": "WithinTargets", "message": "p90 TTFT 90 ms"},
    )
    text = shown(view.cluster_status([served], now=NOON, namespaces=True, details=True))
    assert "default" in text
    assert "1 of 2 engine pods are of the newest revision" in text
    assert "chat-engine-1/engine code 137 OOMKilled" in text
    assert "2 wanted, WithinTargets: p90 TTFT 90 ms" in text
    (row,) = [line.split() for line in text.splitlines() if line.startswith("chat-engine-1 ")]
    assert row == ["chat-engine-1", "engine", "0/1", "CrashLoopBackOff", "4", "n7", "2m"]


def test_a_topic_is_written_once() -> None:
    text = shown(view.explanation([Sentence("State", "one."), Sentence("State", "two."), Sentence("Route", "three.")]))
    assert [line.split() for line in text.splitlines()] == [["State", "one."], ["two."], ["Route", "three."]]


def test_a_finding_is_shown_with_its_remedy_below() -> None:
    text = shown(view.diagnosis([Finding(Severity.ERROR, "CRD x", "It is not installed.", "Install it")]))
    assert text.splitlines() == ["✗ CRD x: It is not installed.", "    Install it"]


@pytest.mark.parametrize(("context", "namespace"), [(None, "team-a"), ("bare", "default"), ("here", "team-a")])
def test_the_namespace_is_that_of_the_context(tmp_path: Path, context: str | None, namespace: str) -> None:
    file = tmp_path / "config"
    file.write_text(KUBECONFIG)
    assert context_namespace(str(file), context) == namespace


def test_a_context_that_is_not_there_is_told_with_those_that_are(tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(KUBECONFIG)
    with pytest.raises(ClusterError, match="has no context gone; there is: bare, here"):
        context_namespace(str(file), "gone")


@pytest.fixture
def app() -> Typer:
    made = Typer()
    commands.register(made)
    return made


def test_without_a_cluster_named_status_speaks_of_this_machine(app: Typer, tmp_path: Path) -> None:
    environment = {"FLASHPLANE_STATE": str(tmp_path), "KUBECONFIG": "/nowhere"}
    assert "on this machine" in CliRunner().invoke(app, ["status"], env=environment).stdout
    told = CliRunner().invoke(app, ["status", "--watch"], env=environment)
    assert (told.exit_code, "add --cluster" in told.stderr) == (1, True)


@pytest.mark.parametrize("arguments", [["status", "--cluster"], ["status", "-A"], ["explain", "--cluster"]])
def test_a_cluster_that_cannot_be_reached_is_told_plainly(app: Typer, arguments: list[str], tmp_path: Path) -> None:
    file = tmp_path / "config"
    file.write_text(KUBECONFIG)
    told = CliRunner().invoke(app, arguments, env={"KUBECONFIG": str(file)})
    assert told.exit_code == 1
    assert "the Kubernetes API did not answer" in told.stderr


def test_doctor_calls_a_broken_kubeconfig_by_its_name(app: Typer) -> None:
    told = CliRunner().invoke(app, ["doctor"], env={"KUBECONFIG": "/nowhere"})
    assert told.exit_code == 1
    assert "kubeconfig /nowhere" in told.stdout


def test_an_event_is_about_the_object_and_named_by_its_change() -> None:
    live = {**a_manifest(), "metadata": {**a_manifest()["metadata"], "uid": "u", "resourceVersion": "7"}}
    made = event(live, Announcement("Warning", "EnginesFailing", "one fails", "abcd"), NOON)
    assert made["metadata"] == {"name": "chat.abcd", "namespace": "default"}
    assert (made["regarding"]["kind"], made["regarding"]["uid"]) == ("FlashDeployment", "u")
    assert made["eventTime"] == "2026-01-01T12:00:00.000000Z"


def test_shared_models_are_shown_with_what_keeps_them() -> None:
    conditions = [{"type": "Ready", "status": "False", "reason": "Packing", "message": "1 of 2 variants are packed."}]
    status = {"conditions": conditions, "variants": [{"variant": "Lite"}], "sizeBytes": 2**30, "usedBy": 3}
    text = shown(view.models([{**a_model_manifest(variants=["Lite", "Nano"]), "status": status}], namespaces=False))
    assert all(word in text for word in ("olmoe", "False", "hf://allenai/OLMoE-1B-7B-0924", "Lite", "1.0 GiB", "3"))
    assert "Packing: 1 of 2 variants are packed." in text
