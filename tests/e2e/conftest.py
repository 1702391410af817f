"""Fixtures of the end-to-end tests: a cluster of their own, with our images and our chart as a user installs them.

Everything that takes minutes the first time happens after collection, where no test's timeout counts it. Where it
cannot be had, tests are skipped on a developer's machine, with the reason, and fail in CI.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from built_images import NoImages, archives, package_folder
from cluster import Cluster
from helm_plugin import CHART, NAMESPACE, RELEASE, Helm, helm
from hermetic_errors import BinariesUnavailable, HermeticError, PrivilegesMissing
from hermetic_node_binaries import NodeBinaries, provide_nodes
from hermetic_privileges import require_privileges
from installation import IS_FULL, PACKAGES, VALUES
from operator_process import eventually
from phases import Phases

__all__ = ["helm", "pytest_collection_finish"]


@dataclass(frozen=True)
class Provided:
    """What was built."""

    programs: NodeBinaries
    images: list[Path]
    packages: Path


_PROVIDED = pytest.StashKey[Provided | HermeticError | NoImages]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds what the collected tests will need, with its progress shown."""
    config = session.config
    needed = any("installed" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and not config.option.collectonly:
        capture = config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            config.stash[_PROVIDED] = _provide()


def _provide() -> Provided | HermeticError | NoImages:
    try:
        require_privileges()
        return Provided(provide_nodes(), archives(), package_folder())
    except (HermeticError, NoImages) as error:
        return error


@pytest.fixture(scope="session")
def provided(pytestconfig: pytest.Config) -> Provided:
    found = pytestconfig.stash[_PROVIDED]
    if isinstance(found, PrivilegesMissing | BinariesUnavailable | NoImages):
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must run our images on a cluster: {found}", pytrace=False)
        pytest.skip(str(found))
    if isinstance(found, HermeticError):
        raise found
    return found


@pytest.fixture(scope="session")
def phases() -> Phases:
    return Phases()


@pytest.fixture(scope="session")
def cluster(provided: Provided, phases: Phases) -> Iterator[Cluster]:
    """One node, or one in each of three regions, with our images and a package index. The chart brings the CRDs."""
    started = Cluster(provided.programs, nodes=3 if IS_FULL else 1)
    try:
        with phases("cluster up"):
            started.start()
        with phases("images loaded"):
            for archive in provided.images:
                started.load(archive)
        manifest = PACKAGES.read_text().replace("path: /srv/packages", f"path: {provided.packages}")
        started.control_plane.kubectl("apply", "-f", "-", stdin=manifest)
        yield started
    finally:
        with phases("cluster down"):
            started.stop()


@pytest.fixture(scope="session")
def installed(cluster: Cluster, helm: Helm, phases: Phases) -> Iterator[Cluster]:
    """The chart's release, as `helm install` leaves it."""
    on_cluster = helm.on(cluster.control_plane.kubeconfig)
    place = ("--namespace", NAMESPACE)
    with phases("helm install --wait"):
        # Policies judge what kube-proxy has translated, and this API server has a port of its own.
        port = f"networkPolicy.apiServerPorts={{443,{cluster.control_plane.port}}}"
        values = [f"--set={value}" for value in (*VALUES, port)]
        on_cluster("install", RELEASE, str(CHART), *place, "--create-namespace", "--wait", "--timeout=3m", *values)
    yield cluster
    with phases("helm uninstall --wait"):
        on_cluster("uninstall", RELEASE, *place, "--wait", "--timeout=2m")
    pods = f"/api/v1/namespaces/{NAMESPACE}/pods"
    eventually("the operator is gone", lambda: not cluster.get(pods)["items"])
