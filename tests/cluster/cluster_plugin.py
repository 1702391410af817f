"""Fixtures for tests on a cluster with nodes: `cluster`, one per session, with the image that its pods run.

The programs are built after collection and before the first test, where no test's timeout counts the minutes. Where
nodes cannot be had, tests are skipped on a developer's machine, with the reason, and fail in CI.
"""

import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cluster import Cluster
from hermetic_build import GoModule
from hermetic_errors import BinariesUnavailable, HermeticError, PrivilegesMissing
from hermetic_images import write_image
from hermetic_node_binaries import PLAIN, NodeBinaries, provide_nodes
from hermetic_privileges import require_privileges
from operator_process import Kubectl, eventually
from pods import IMAGE

CRDS = Path(__file__).parents[2] / "crds"
POD = GoModule(
    folder=Path(__file__).parent / "pod", family="cluster-tests", pin=None, flags=PLAIN, sources=("main.go",)
)
STANDS_IN_FOR = ("flash-engine", "flash-gateway", "flash-pull", "flash-draft", "python")
NODES = 3

Programs = tuple[NodeBinaries, Path]
_PROVIDED = pytest.StashKey[Programs | HermeticError]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """These come last, so that no other test runs beside three nodes."""
    items.sort(key=lambda item: Path(__file__).parent in item.path.parents)


def pytest_collection_finish(session: pytest.Session) -> None:
    """Builds what the collected tests will need, with its progress shown."""
    config = session.config
    needed = any("node_programs" in getattr(item, "fixturenames", ()) for item in session.items)
    if needed and not config.option.collectonly:
        capture = config.pluginmanager.getplugin("capturemanager")
        with capture.global_and_fixture_disabled():
            config.stash[_PROVIDED] = _provide()


def _provide() -> Programs | HermeticError:
    try:
        require_privileges()
        return provide_nodes(), POD.provide({"pod": "."})["pod"]
    except HermeticError as error:
        return error


@pytest.fixture(scope="session")
def node_programs(pytestconfig: pytest.Config) -> Programs:
    """What nodes run, and what the tests' pods run."""
    provided = pytestconfig.stash.get(_PROVIDED, None) or _provide()
    if isinstance(provided, PrivilegesMissing | BinariesUnavailable):
        if os.environ.get("CI") == "true":
            pytest.fail(f"CI must test on a cluster with nodes: {provided}", pytrace=False)
        pytest.skip(str(provided))
    if isinstance(provided, HermeticError):
        raise provided
    return provided


@pytest.fixture(scope="session")
def pod_image(node_programs: Programs, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive with the image that tests give to pods."""
    links = {f"/bin/{name}": "pod" for name in STANDS_IN_FOR}
    archive = tmp_path_factory.mktemp("images") / "pod.tar"
    return write_image(archive, IMAGE, {"/bin/pod": node_programs[1]}, entrypoint=["/bin/pod"], links=links)


@pytest.fixture(scope="session")
def cluster(node_programs: Programs, pod_image: Path) -> Iterator[Cluster]:
    """A started cluster with a node in each region, which all tests of the session share."""
    with Cluster(node_programs[0], nodes=NODES, crds=[CRDS]) as started:
        assert started.load(pod_image) == [IMAGE]
        yield started


@contextmanager
def fresh_namespace(cluster: Cluster, words: str) -> Iterator[Kubectl]:
    """A namespace in which pods may be made at once. It is deleted without waiting for the end."""
    short = re.sub(r"[^a-z0-9]+", "-", words.lower()).strip("-")[:40].strip("-")
    name = f"{short}-{secrets.token_hex(3)}"
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
    api, account = cluster.control_plane.api, f"/api/v1/namespaces/{name}/serviceaccounts/default"
    eventually("pods may be made", lambda: api.answers(account))
    try:
        yield Kubectl(cluster.control_plane, name)
    finally:
        api.request("DELETE", f"/api/v1/namespaces/{name}")


@pytest.fixture
def kubectl(cluster: Cluster, request: pytest.FixtureRequest) -> Iterator[Kubectl]:
    """In a namespace of the test's own."""
    with fresh_namespace(cluster, request.node.name) as made:
        yield made
