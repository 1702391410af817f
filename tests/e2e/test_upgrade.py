"""The operator comes and goes, what it made serves on: releases installed, upgraded, rolled back and uninstalled by
Helm under a conversation that never stops. And what clients are told once a region has no engine left.
"""

import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import openai
import pytest
import yaml
from chatting import forwarded, streamed
from cluster import Cluster
from helm_plugin import CHART, NAMESPACE
from installation import IS_FULL, OPERATOR_IMAGE, ROOT, VERSION, Release
from operator_process import Kubectl, eventually
from phases import Phases
from shown import check_nothing_is_left, condition, ready

from flash_api import names

NAME = "kept"
REGION = "eu"
NODE = "eu-1"
NEXT = "0.2.0"
CRDS = {"flashdeployments.flashplane.dev", "flashmodels.flashplane.dev"}

pytestmark = pytest.mark.timeout(900)


class Conversation(threading.Thread):
    """Asks the same greedy question again and again, and keeps what it got."""

    def __init__(self, base_url: str) -> None:
        super().__init__(daemon=True)
        self.base_url = base_url
        self.answers: list[str] = []
        self._leave = threading.Event()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.leave()

    def run(self) -> None:
        while not self._leave.is_set():
            try:
                self.answers.append("".join(streamed(self.base_url, NAME)))
            except openai.OpenAIError as error:
                self.answers.append(repr(error))

    def leave(self) -> None:
        self._leave.set()
        self.join()

    def goes_on(self) -> None:
        """Waits for an answer to a question that is yet to be asked."""
        wanted = len(self.answers) + 2
        eventually("questions are answered", lambda: len(self.answers) >= wanted, seconds=120)


@dataclass
class Kept:
    """A deployment that serves while operators change."""

    kubectl: Kubectl
    system: Kubectl
    talk: Conversation

    def serving(self) -> dict[str, Any]:
        """What must stay as it is: pods with their containers' lives, templates, and since when it is Ready."""
        selector = ("-l", f"flashplane.dev/deployment={NAME}")
        pods = self.kubectl.items("pods", *selector)
        found: dict[str, Any] = {
            pod["metadata"]["name"]: (
                pod["metadata"]["uid"],
                [(c["containerID"], c["restartCount"]) for c in pod["status"]["containerStatuses"]],
            )
            for pod in pods
        }
        for each in self.kubectl.items("deployments", *selector):
            found[f"deployment/{each['metadata']['name']}"] = each["metadata"]["generation"]
        is_ready = condition(self.kubectl, NAME, "Ready")
        return found | {"Ready": (is_ready["status"], is_ready["lastTransitionTime"])}

    def operator_pods(self) -> list[dict[str, Any]]:
        return self.system.items("pods", "-l", "app.kubernetes.io/name=flashplane-operator")

    def told(self, status: str, reason: str) -> None:
        """Waits until the status says so: an operator with that setting has made a whole pass over the deployment."""

        def says() -> bool:
            found = condition(self.kubectl, NAME, "NetworkIsolated")
            return (found["status"], found["reason"]) == (status, reason)

        eventually(f"NetworkIsolated is {status}, {reason}", says, seconds=120)

    def check_operator(self, version: str, *others: str) -> str:
        """The only operator there is runs this version, is none of those others, and leads. Returns its uid."""

        def alone() -> dict[str, Any] | None:
            found = self.operator_pods()
            return found[0] if len(found) == 1 else None

        pod = eventually("one operator is left", alone, seconds=120)
        assert pod is not None
        assert pod["spec"]["containers"][0]["image"] == OPERATOR_IMAGE.replace(VERSION, version)
        assert pod["metadata"]["labels"]["app.kubernetes.io/version"] == version
        uid = str(pod["metadata"]["uid"])
        assert uid not in others
        holder = self.system.get("lease", "flashplane-operator")["spec"]["holderIdentity"]
        assert holder.startswith(pod["metadata"]["name"]), "it does not lead"
        return uid


@pytest.fixture(scope="module")
def kept(installed: Cluster, kubectl: Kubectl, phases: Phases, local_answer: str) -> Iterator[Kept]:
    """One engine and one gateway, in `make e2e-full` also a draft, that must stay in one region."""
    example = ROOT / "examples" / ("draft.yaml" if IS_FULL else "quickstart.yaml")
    manifest = yaml.safe_load(example.read_text())
    manifest["metadata"]["name"] = NAME
    manifest["spec"]["residency"] = {"regions": [REGION]}
    plane = installed.control_plane
    with phases(f"{NAME}: apply to Ready"):
        kubectl("apply", "-f", "-", stdin=yaml.safe_dump(manifest))
        ready(kubectl, NAME)
        if IS_FULL:
            kubectl("wait", "--for=condition=DraftReady", f"fd/{NAME}", "--timeout=120s")
    with forwarded(plane.binaries.kubectl, plane.kubeconfig, f"{NAME}-gateway", 8080, kubectl.namespace) as base_url:
        with Conversation(base_url) as talk:
            talk.goes_on()
            yield Kept(kubectl, Kubectl(plane, NAMESPACE), talk)
        assert set(talk.answers) == {local_answer}
    with phases(f"{NAME}: deleted, nothing left"):
        kubectl("delete", f"fd/{NAME}", "--timeout=60s")
        check_nothing_is_left(kubectl, NAME)


@pytest.fixture(scope="module")
def next_release(installed: Cluster, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The chart of a later release, with its operator's image on every node."""
    chart: Path = tmp_path_factory.mktemp("release") / "flashplane"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump(about | {"version": NEXT, "appVersion": NEXT}))
    for node in installed.nodes.values():
        node.ctr("images", "tag", "--force", OPERATOR_IMAGE, OPERATOR_IMAGE.replace(VERSION, NEXT))
    return chart


def test_the_operator_of_another_release_takes_over_and_back_and_replaces_no_pod_that_serves(
    kept: Kept, release: Release, next_release: Path, phases: Phases
) -> None:
    before = kept.serving()
    assert before["Ready"][0] == "True"
    assert len([name for name in before if name.startswith("deployment/")]) == (3 if IS_FULL else 2)
    first = kept.check_operator(VERSION)
    with phases("helm upgrade --wait, to another release"):
        # What the operator is told of the network shows that it is this one which now looks after the deployment.
        release.upgrade(next_release, "cluster.enforcesNetworkPolicies=false")
    kept.told("False", "PolicyNotEnforced")
    second = kept.check_operator(NEXT, first)
    kept.talk.goes_on()
    assert kept.serving() == before
    with phases("helm rollback --wait"):
        release.rollback()
    kept.told("True", "PolicyEnforced")
    kept.check_operator(VERSION, first, second)
    kept.talk.goes_on()
    assert kept.serving() == before


@pytest.mark.skipif(not IS_FULL, reason="part of `make e2e-full`")
def test_what_serves_outlives_the_release_and_the_next_one_takes_it_over(
    kept: Kept, release: Release, phases: Phases
) -> None:
    before = kept.serving()
    with phases("helm uninstall --wait, under way"):
        release.uninstall()
    assert {crd["metadata"]["name"] for crd in kept.system.items("crds")} >= CRDS
    kept.talk.goes_on()
    assert kept.serving() == before
    with phases("helm install --wait, again"):
        release.install()
    # A deleted object comes back: it is looked after again.
    kept.kubectl("delete", "networkpolicy", f"{NAME}-gateway")
    eventually("it is looked after", lambda: kept.kubectl.get("networkpolicy", f"{NAME}-gateway"), seconds=120)
    kept.talk.goes_on()
    assert kept.serving() == before


def test_clients_get_a_typed_error_where_the_region_has_no_engine_and_none_of_elsewhere(
    installed: Cluster, kept: Kept, phases: Phases
) -> None:
    kept.talk.leave()
    labels = names.pod_selector(NAME, names.COMPONENT_ENGINE)
    engines = ("-l", ",".join(f"{key}={value}" for key, value in labels.items()))
    (engine,) = kept.kubectl.items("pods", *engines)
    installed.control_plane.kubectl("cordon", NODE)
    try:
        with phases("kept: from the loss of the region's engine to the typed error"):
            kept.kubectl("delete", "pod", engine["metadata"]["name"], "--timeout=120s")
            said: list[str | None] = []

            def says_what_is_missing() -> bool:
                said.append(refusal(kept))
                return said[-1] == "503 no_engine_in_region"

            try:
                eventually("the gateway says what is missing", says_what_is_missing, seconds=120)
            except AssertionError as error:
                raise AssertionError(f"{error}; clients were told {said}") from None
        assert None not in said, "somebody answered"
        # Other regions have room, where there are any, and none of them is used.
        waiting = kept.kubectl.items("pods", *engines)
        assert [pod["spec"].get("nodeName") for pod in waiting] == [None]
        eventually("the status says it", lambda: condition(kept.kubectl, NAME, "Ready")["status"] == "False")
    finally:
        installed.control_plane.kubectl("uncordon", NODE)
    with phases("kept: from the node's return to Ready"):
        ready(kept.kubectl, NAME)
    assert refusal(kept) is None


def refusal(kept: Kept) -> str | None:
    """Status and code of the error that a client gets; None for an answer."""
    try:
        streamed(kept.talk.base_url, NAME)
    except openai.APIStatusError as error:
        return f"{error.status_code} {error.code}"
    return None
