"""Fixtures for tests on a real Kubernetes API: `control_plane`, one per session, and `namespace`, one per test.

The programs are built after collection and before the first test, where no test's timeout counts the minutes that a
first build takes. Where they cannot be had, tests are skipped on a developer's machine and fail in CI.
"""

import os
import re
import secrets
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from control_plane import POLL_SECONDS, ControlPlane
from hermetic_binaries import Binaries, provide
from hermetic_errors import BinariesUnavailable, HermeticError

FIXTURES = frozenset({"control_plane", "binaries"})
NAMESPACE_TIMEOUT_SECONDS = 30.0
_PROVIDED = pytest.StashKey[Binaries | HermeticError]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds what the collected tests will need, with its progress shown."""
    config = session.config
    needed = any(FIXTURES.intersection(getattr(item, "fixturenames", ())) for item in session.items)
    if needed and not config.option.collectonly:
        capture = config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            config.stash[_PROVIDED] = _provide()


def _provide() -> Binaries | HermeticError:
    try:
        return provide()
    except HermeticError as error:
        return error


@pytest.fixture(scope="session")
def binaries(pytestconfig: pytest.Config) -> Binaries:
    """The programs of the control plane."""
    provided = pytestconfig.stash.get(_PROVIDED, None) or _provide()
    if isinstance(provided, BinariesUnavailable):
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must test against a real Kubernetes API: {provided}", pytrace=False)
        pytest.skip(str(provided))
    if isinstance(provided, HermeticError):
        raise provided
    return provided


@pytest.fixture(scope="session")
def control_plane_crds() -> Sequence[Path]:
    """CRD manifests, or folders of them, to start with. A conftest.py overrides it."""
    return ()


@pytest.fixture(scope="session")
def control_plane(binaries: Binaries, control_plane_crds: Sequence[Path]) -> Iterator[ControlPlane]:
    """A started control plane that all tests of the session share."""
    with ControlPlane(binaries, crds=control_plane_crds) as started:
        yield started


@pytest.fixture
def namespace(control_plane: ControlPlane, request: pytest.FixtureRequest) -> Iterator[str]:
    """The name of a fresh namespace, in which pods may be made at once. It is deleted without waiting for the end."""
    words = re.sub(r"[^a-z0-9]+", "-", request.node.name.lower()).strip("-")[:40].strip("-")
    name = f"{words}-{secrets.token_hex(4)}"
    created = control_plane.api.request(
        "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    )
    assert created.status == 201, created.text
    deadline = time.monotonic() + NAMESPACE_TIMEOUT_SECONDS
    while not control_plane.api.answers(f"/api/v1/namespaces/{name}/serviceaccounts/default"):
        assert time.monotonic() < deadline, f"namespace {name} has no default ServiceAccount"
        time.sleep(POLL_SECONDS)
    yield name
    control_plane.api.request("DELETE", f"/api/v1/namespaces/{name}")
