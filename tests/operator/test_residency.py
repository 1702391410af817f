"""Where everything is, and what that means for the promise."""

from typing import Any

import pytest

from flash_api.conditions import Reason
from flash_api.v1alpha1.residency import Residency
from flash_operator.residency import Places, may_be_stopped, residency_finding

EU = Residency.model_validate({"regions": ["eu"]})
NODES = {"n1": "eu", "n2": "us", "n3": ""}


def a_pod(name: str, node: str = "", phase: str = "Running", **metadata: Any) -> dict[str, Any]:
    return {
        "kind": "Pod",
        "metadata": {"name": name, **metadata},
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase},
    }


@pytest.mark.parametrize(
    ("nodes", "pods", "expected", "counts"),
    [
        (NODES, [a_pod("a", "n1")], ("True", Reason.ALL_IN_REGION), (1, 1)),
        (NODES, [a_pod("a", "n1"), a_pod("b")], ("True", Reason.ALL_IN_REGION), (1, 1)),
        (NODES, [a_pod("a", "n1"), a_pod("b", "n2")], ("False", Reason.OUTSIDE_REGION), (1, 2)),
        (NODES, [a_pod("a", "n1"), a_pod("b", "n2", "Succeeded")], ("True", Reason.ALL_IN_REGION), (1, 1)),
        (NODES, [a_pod("a", "n1"), a_pod("b", "n3")], ("Unknown", Reason.REGION_UNKNOWN), (1, 2)),
        (NODES, [a_pod("a", "gone")], ("Unknown", Reason.REGION_UNKNOWN), (0, 1)),
        (NODES, [], ("Unknown", Reason.REGION_UNKNOWN), (0, 0)),
        ({"n2": "us"}, [], ("False", Reason.REGION_UNAVAILABLE), (0, 0)),
        ({}, [], ("False", Reason.REGION_UNAVAILABLE), (0, 0)),
        ({"n2": "us"}, [a_pod("a", "n2")], ("False", Reason.OUTSIDE_REGION), (0, 1)),
        (None, [], ("Unknown", Reason.REGION_UNKNOWN), (0, 0)),
    ],
)
def test_the_promise_holds_as_far_as_nodes_and_pods_prove_it(
    nodes: dict[str, str] | None, pods: list[dict[str, Any]], expected: tuple[str, Reason], counts: tuple[int, int]
) -> None:
    found = residency_finding(EU, Places(nodes, pods))
    assert (found.holds, found.reason) == expected
    assert (found.status.compliant_pods, found.status.total_pods) == counts


def test_what_is_outside_is_named() -> None:
    found = residency_finding(EU, Places(NODES, [a_pod("a", "n2")]))
    assert found.status.violations == ["pod a on node n2 in us"]
    assert [pod["metadata"]["name"] for pod in found.outside] == ["a"]
    assert found.regions == ("us",)


def test_why_nothing_is_known_is_told() -> None:
    assert residency_finding(EU, Places(None, unknown="no right to list nodes")).message == "no right to list nodes"


OWNED = {"ownerReferences": [{"controller": True, "kind": "ReplicaSet", "name": "chat-engine-1", "uid": "u"}]}


@pytest.mark.parametrize(
    ("pod", "expected"),
    [
        (a_pod("a", "n2", **OWNED), True),
        (a_pod("a", "n2"), False),
        (a_pod("a", "n2", deletionTimestamp="2026-01-01T00:00:00Z", **OWNED), False),
    ],
)
def test_only_what_a_controller_replaces_is_stopped_and_only_once(pod: dict[str, Any], expected: bool) -> None:
    assert may_be_stopped(pod) is expected
