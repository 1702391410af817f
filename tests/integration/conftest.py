"""Fixtures of the integration tests: a real Kubernetes API, a real tritonserver, the whole local stack."""

from collections.abc import Sequence
from pathlib import Path

import pytest
from audit_plugin import pytest_collection_modifyitems, recorded_calls
from control_plane_plugin import binaries, control_plane, namespace
from control_plane_plugin import pytest_collection_finish as build_control_plane
from external_metrics_plugin import external_metrics
from helm_plugin import helm, operator_account, operator_rbac
from local_plugin import stack
from operator_plugin import kubectl, operator
from stores_plugin import build_stores, gcs, login_registry, registry, s3, store_programs, token_registry, tokens
from tritonserver_plugin import engine, launch, start_draft, start_engine, start_packed_engine, tritonserver

__all__ = [
    "binaries",
    "control_plane",
    "control_plane_crds",
    "engine",
    "external_metrics",
    "gcs",
    "helm",
    "kubectl",
    "launch",
    "login_registry",
    "namespace",
    "operator",
    "operator_account",
    "operator_rbac",
    "pytest_collection_modifyitems",
    "recorded_calls",
    "registry",
    "s3",
    "stack",
    "start_draft",
    "start_engine",
    "start_packed_engine",
    "store_programs",
    "token_registry",
    "tokens",
    "tritonserver",
]


def pytest_collection_finish(session: pytest.Session) -> None:
    """Servers are built where no test's timeout counts the minutes."""
    build_control_plane(session)
    build_stores(session)


@pytest.fixture(scope="session")
def control_plane_crds() -> Sequence[Path]:
    """Our own CRDs, there from the start so that the garbage collector knows them at once."""
    return (Path(__file__).resolve().parents[2] / "crds",)
