"""Builders: each names only what a test is about, the rest is the smallest valid thing."""

import copy
from collections.abc import Mapping
from typing import Any

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment


def a_manifest(name: str = "chat", *, status: Mapping[str, Any] | None = None, **spec: Any) -> dict[str, Any]:
    """A FlashDeployment in wire form; keyword arguments are fields of its spec."""
    manifest: dict[str, Any] = {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"model": {"source": "builtin://smollm2-135m-instruct"}, **copy.deepcopy(spec)},
    }
    return manifest if status is None else {**manifest, "status": dict(status)}


def a_model_manifest(name: str = "olmoe", **spec: Any) -> dict[str, Any]:
    """A FlashModel in wire form; keyword arguments are fields of its spec, None leaves one out."""
    written = {"source": "hf://allenai/OLMoE-1B-7B-0924", **copy.deepcopy(spec)}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.MODEL_KIND,
        "metadata": {"name": name, "namespace": "default"},
        "spec": {key: value for key, value in written.items() if value is not None},
    }


def a_deployment(name: str = "chat", **spec: Any) -> FlashDeployment:
    """A FlashDeployment as the cluster stores it."""
    manifest = a_manifest(name, **spec)
    manifest["metadata"]["uid"] = "uid-1"
    return FlashDeployment.model_validate(manifest)


def a_child(name: str, *, desired: int = 1, ready: int | None = None, **status: Any) -> dict[str, Any]:
    """A Deployment that has done all it was asked to, unless said otherwise."""
    return {
        "kind": "Deployment",
        "metadata": {"name": name, "generation": 1},
        "spec": {"replicas": desired},
        "status": {
            "observedGeneration": 1,
            "replicas": desired,
            "updatedReplicas": desired,
            "readyReplicas": desired if ready is None else ready,
            **status,
        },
    }
