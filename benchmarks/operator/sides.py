"""The two operators: how each is started, what an object of it looks like, and when it has done its work on one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from process import Process

from flash_api import names
from flash_runtime.model.cache import default_root

HERE: Final = Path(__file__).resolve().parent
ROOT: Final = HERE.parents[1]
PEER_PACKAGE: Final = "dask-kubernetes==2026.3.0"
PEER_NAME: Final = "dask-kubernetes (kopf)"

Start = Callable[[Path, str, Path, float], Process]
"""From kubeconfig, namespace, folder for its files and the factor by which looks are more frequent."""


@dataclass(frozen=True)
class Side:
    """One operator on objects of its own kind."""

    name: str
    api_version: str
    kind: str
    crds: Path
    start: Start
    manifest: Callable[[str], dict[str, Any]]
    """An object of that name."""
    result: tuple[str, str]
    """API version and kind of what shows that an object is reconciled …"""
    finished: Callable[[Mapping[str, Any]], str | None]
    """… and the name of the object that it shows finished, None = not yet."""


def _flash(name: str) -> dict[str, Any]:
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name},
        "spec": {
            "variant": "Lite",
            "model": {"source": "builtin://smollm2-135m-instruct"},
            "engine": {"replicas": 1},
        },
    }


def _ready(live: Mapping[str, Any]) -> str | None:
    conditions = (live.get("status") or {}).get("conditions", [])
    true = any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)
    return live["metadata"]["name"] if true else None


def _start_flash(kubeconfig: Path, namespace: str, folder: Path, factor: float) -> Process:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    given = {"identity": "bench", "kubeconfig": str(kubeconfig), "lease_namespace": namespace, "port": port}
    given["factor"] = factor
    settings = folder / "settings.json"
    settings.write_text(json.dumps(given))
    environment = {key: value for key, value in os.environ.items() if key != "KUBECONFIG"}
    return Process([sys.executable, str(HERE / "operator_main.py"), str(settings)], folder / "ours.log", environment)


def _cluster(name: str) -> dict[str, Any]:
    ports = [
        {"name": "tcp-comm", "protocol": "TCP", "port": 8786, "targetPort": "tcp-comm"},
        {"name": "http-dashboard", "protocol": "TCP", "port": 8787, "targetPort": "http-dashboard"},
    ]
    scheduler = {
        "name": "scheduler",
        "image": "ghcr.io/dask/dask:latest",
        "args": ["dask-scheduler"],
        "ports": [
            {"name": "tcp-comm", "containerPort": 8786, "protocol": "TCP"},
            {"name": "http-dashboard", "containerPort": 8787, "protocol": "TCP"},
        ],
    }
    worker = {"name": "worker", "image": "ghcr.io/dask/dask:latest", "args": ["dask-worker"]}
    selector = {"dask.org/cluster-name": name, "dask.org/component": "scheduler"}
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {
            "worker": {"replicas": 1, "spec": {"containers": [worker]}},
            "scheduler": {
                "spec": {"containers": [scheduler]},
                "service": {"type": "ClusterIP", "selector": selector, "ports": ports},
            },
        },
    }


def _has_worker(live: Mapping[str, Any]) -> str | None:
    """A cluster's worker Deployment is the last object that is made for it."""
    labels = live["metadata"].get("labels") or {}
    return labels.get("dask.org/cluster-name") if labels.get("dask.org/component") == "worker" else None


def _peer_folder() -> Path:
    return default_root(os.environ) / "benchmarks" / "operator" / "peer"


def install_peer() -> None:
    """Into an environment of its own; a second time costs nothing."""
    folder = _peer_folder()
    done = folder / ".installed"
    if done.exists() and done.read_text() == PEER_PACKAGE:
        return
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    # It asks for its plug-ins by pkg_resources, which newer setuptools no longer bring.
    subprocess.run([*pip, PEER_PACKAGE, "setuptools<81"], check=True)
    done.write_text(PEER_PACKAGE)


def _start_peer(kubeconfig: Path, namespace: str, folder: Path, factor: float) -> Process:
    # It has no look of its own at steady objects: there is nothing to make more frequent.
    environment = {**os.environ, "KUBECONFIG": str(kubeconfig), "HOME": str(folder)}
    command = [str(_peer_folder() / "bin" / "kopf"), "run", "-q", "--all-namespaces"]
    return Process([*command, "-m", "dask_kubernetes.operator.controller"], folder / "peer.log", environment)


OURS: Final = Side(
    name="ours",
    api_version=names.API_VERSION,
    kind=names.KIND,
    crds=ROOT / "crds",
    start=_start_flash,
    manifest=_flash,
    result=(names.API_VERSION, names.KIND),
    finished=_ready,
)


def peer() -> Side:
    """The peer; install it first."""
    (crds,) = _peer_folder().glob("lib/python*/site-packages/dask_kubernetes/operator/deployment/helm/*/crds")
    return Side(
        name="peer",
        api_version="kubernetes.dask.org/v1",
        kind="DaskCluster",
        crds=crds,
        start=_start_peer,
        manifest=_cluster,
        result=("apps/v1", "Deployment"),
        finished=_has_worker,
    )
