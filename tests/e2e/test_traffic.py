"""Nobody notices, on a cluster: greedy streams all the while, and the pods that serve them are replaced, killed,
drained and scaled under them.

CI plays what is quick, on one node; `make traffic` plays everything, on three, with 2,000 streams and more, and prints
the table that docs/how-to/traffic.md shows.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from cluster import Cluster
from installation import IS_FULL
from operator_process import Kubectl, eventually
from phases import Phases
from pods import apply
from relay import relayed
from rich.console import Console
from served import DRAFT, ENGINE, GATEWAY, Served

from flash_operator.traffic import prompts, view
from flash_operator.traffic.driver import Driver
from flash_operator.traffic.stream import Endpoint, Question
from flash_operator.traffic.tally import Verdict, total

pytestmark = pytest.mark.timeout(3600)

STREAMS = int(os.environ.get("FLASHPLANE_TRAFFIC_STREAMS", "100" if IS_FULL else "12"))
"""At least so many end in each window after what was done."""
STREAMS_IN_ALL = 2000 if IS_FULL else 0
SECONDS_FOR_STREAMS = 180.0 + STREAMS * 10
OPERATOR_DOWN_SECONDS = 300.0
CLIENTS = 16 if IS_FULL else 6
MAX_TOKENS = 24
NAME, NAMESPACE = "busy", "traffic"

BREAKS_OFF = {"ConnectionResetError", "ConnectionRefusedError", "RemoteDisconnected", "IncompleteRead"}
BREAKS_OFF |= {"the connection ended"}
"""What a client sees whose gateway is killed: its connection ends. Never an answer that only looks whole."""

SPEC: dict[str, Any] = {
    "variant": "Lite",
    "model": {"source": "builtin://smollm2-135m-instruct"},
    "engine": {"replicas": 2},
    "gateway": {"replicas": 2},
}
WITH_DRAFT = {"draft": {"mode": "Pods", "model": {"source": "builtin://flash-tiny-draft"}, "replicas": 1}}


@pytest.fixture(scope="module")
def served(installed: Cluster, phases: Phases) -> Iterator[Served]:
    """Two engines behind two gateways and, where everything is played, a draft."""
    installed.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    kubectl = Kubectl(installed.control_plane, NAMESPACE)
    eventually("pods may be made", lambda: kubectl.get("serviceaccount", "default"))
    manifest = {
        "apiVersion": "flashplane.dev/v1alpha1",
        "kind": "FlashDeployment",
        "metadata": {"name": NAME},
        "spec": SPEC | (WITH_DRAFT if IS_FULL else {}),
    }
    with phases(f"{NAME}: apply to Ready"):
        apply(kubectl, manifest)
        deployed = Served(installed, kubectl, NAME)
        deployed.until_ready()
    yield deployed
    with phases(f"{NAME}: deleted, no pod left"):
        deployed.delete()


@pytest.fixture(scope="module")
def endpoint(served: Served) -> Iterator[Endpoint]:
    """The gateways' Service, as a pod of the namespace reaches it. The pod's node is never drained."""
    kubectl = Kubectl(served.cluster.control_plane, NAMESPACE)
    node = next(iter(served.cluster.nodes))
    with relayed(kubectl, f"{NAME}-gateway", 8080, node=node) as base_url:
        yield Endpoint(base_url, NAME)


def roll_engines(served: Served) -> None:
    before = {pod["metadata"]["name"] for pod in served.pods(ENGINE)}
    served.patch(engine={"maxConcurrentRequests": 8})
    assert not before & {pod["metadata"]["name"] for pod in served.pods(ENGINE)}


def roll_gateways(served: Served) -> None:
    before = {pod["metadata"]["name"] for pod in served.pods(GATEWAY)}
    served.patch(gateway={"limits": {"maxInflightRequests": 99}})
    assert not before & {pod["metadata"]["name"] for pod in served.pods(GATEWAY)}


def roll_draft(served: Served) -> None:
    """More room for it, which is no reason to replace engines."""
    engines, drafts = served.pods(ENGINE), served.pods(DRAFT)
    served.patch(draft={"resources": {"memory": "2Gi"}})
    assert drafts[0]["metadata"]["name"] not in {pod["metadata"]["name"] for pod in served.pods(DRAFT)}
    assert [pod["metadata"]["name"] for pod in served.pods(ENGINE)] == [pod["metadata"]["name"] for pod in engines]


def drain_a_node(served: Served) -> None:
    """One with an engine, and not the one that the clients' pod is on."""
    one_at_a_time = {ENGINE: 1, GATEWAY: 1}
    eventually("the budgets let one go at a time", lambda: served.may_be_evicted() == one_at_a_time)
    clients = next(iter(served.cluster.nodes))
    served.drain(next(node for node in served.nodes(ENGINE) if node != clients))


def kill_an_engine(served: Served) -> None:
    """One that has streams, so that they break off: the gateways' logs say that they did."""
    before = served.num_broken_off()
    for _ in range(5):
        served.kill(ENGINE)
        if served.num_broken_off() > before:
            return
    pytest.fail("no stream was on the engine that was killed, five times over")


def kill_the_draft(served: Served) -> None:
    served.kill(DRAFT)


def scale(served: Served) -> None:
    for replicas in (1, 3, 1, 2):
        served.patch(engine={"replicas": replicas})


Act = Callable[[Served], None]
FULL: dict[str, Act] = {
    "rolling update of the engines": roll_engines,
    "rolling update of the gateways": roll_gateways,
    "rolling update of the draft": roll_draft,
    "the operator is restarted": Served.restart_operator,
    "a node is drained": drain_a_node,
    "an engine is killed": kill_an_engine,
    "the draft is killed": kill_the_draft,
    "scaled 2, 1, 3, 1, 2": scale,
}


@contextmanager
def traffic_to(endpoint: Endpoint, capsys: pytest.CaptureFixture[str]) -> Iterator[Driver]:
    """Its table is printed at the end, whatever the end is."""
    questions = [Question(text, MAX_TOKENS) for text in prompts.DEFAULT]
    driver = Driver(endpoint, questions, concurrency=CLIENTS)
    try:
        with driver:
            yield driver
    finally:
        with capsys.disabled():
            print()
            Console(width=160).print(view.table(driver.windows, 0.0))


def streams_go_on(traffic: Driver, count: int = STREAMS) -> None:
    assert traffic.wait_for_streams(count, SECONDS_FOR_STREAMS), "clients wait for answers that do not come"


def test_no_stream_fails_breaks_off_or_changes(
    served: Served, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    with traffic_to(endpoint, capsys) as traffic:
        for name, act in FULL.items() if IS_FULL else ():
            traffic.mark(name)
            act(served)
            streams_go_on(traffic)

        traffic.mark("the operator is down")
        with served.without_operator():
            if IS_FULL:
                assert not traffic.wait(OPERATOR_DOWN_SECONDS), "the clients have left"
            # What keeps pods is Kubernetes: whoever dies now is replaced as at any time.
            traffic.mark("an engine is killed, no operator")
            kill_an_engine(served)
            streams_go_on(traffic)
            traffic.mark("a gateway is evicted, no operator")
            served.delete_a_pod(GATEWAY)
            streams_go_on(traffic)
        traffic.mark("the operator is back")
        served.until_ready()
        streams_go_on(traffic, max(STREAMS, STREAMS_IN_ALL - total(traffic.windows).num_streams))
    assert traffic.flawless, view.causes(traffic.windows)
    assert total(traffic.windows).num_streams >= STREAMS_IN_ALL


@pytest.mark.skipif(not IS_FULL, reason="the death of a gateway is part of `make traffic`")
def test_the_death_of_a_gateway_ends_its_own_connections_and_changes_no_answer(
    served: Served, endpoint: Endpoint, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nobody can go on with a connection whose other end is gone: the client sees that it ended, and asks again."""
    with traffic_to(endpoint, capsys) as traffic:
        streams_go_on(traffic)
        traffic.mark("a gateway is killed")
        served.kill(GATEWAY)
        traffic.mark("after it")
        streams_go_on(traffic)
    steady, killed, after = traffic.windows
    assert steady.flawless
    assert after.flawless, view.causes([after])
    assert killed.verdicts[Verdict.CHANGED] == 0
    assert set(killed.causes) <= BREAKS_OFF, view.causes([killed])
