"""Fixtures of the integration tests: a real Kubernetes API, a real tritonserver, the whole local stack."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from audit_plugin import pytest_collection_modifyitems, recorded_calls
from control_plane_plugin import binaries, control_plane, namespace, pytest_collection_finish
from helm_plugin import helm, operator_account, operator_rbac
from local_plugin import stack
from tritonserver_plugin import engine, launch, start_engine, start_packed_engine, tritonserver

__all__ = [
    "binaries",
    "control_plane",
    "control_plane_crds",
    "engine",
    "helm",
    "launch",
    "namespace",
    "operator_account",
    "operator_rbac",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
    "recorded_calls",
    "stack",
    "start_engine",
    "start_packed_engine",
    "tritonserver",
]


@pytest.fixture(scope="session")
def control_plane_crds() -> Sequence[Path]:
    """Our own CRDs, there from the start so that the garbage collector knows them at once."""
    return (Path(__file__).resolve().parents[2] / "crds",)
