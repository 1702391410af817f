"""Which pods start and stop: single decisions, and whole rollouts."""

from __future__ import annotations

from dataclasses import replace

import pytest

from flash_operator.local.rollout import PodFact, decide


def pod(revision: str, ordinal: int, *, ready: bool = True, stopping: bool = False) -> PodFact:
    return PodFact(f"{revision}-{ordinal}", revision, ordinal, ready, stopping)


@pytest.mark.parametrize(
    ("pods", "replicas", "start", "stop"),
    [
        pytest.param((), 2, (0, 1), (), id="the first pods all start at once"),
        pytest.param((pod("new", 0),), 1, (), (), id="nothing to do at rest"),
        pytest.param((pod("new", 0, ready=False),), 1, (), (), id="a pod that starts is not started twice"),
        pytest.param((pod("new", 1),), 2, (0,), (), id="the lowest free number is used"),
        pytest.param((pod("old", 0),), 1, (0,), (), id="a new pod starts beside the old one"),
        pytest.param(
            (pod("old", 0), pod("new", 0, ready=False)), 1, (), (), id="an old pod stays until the new is ready"
        ),
        pytest.param((pod("old", 0), pod("new", 0)), 1, (), ("old-0",), id="then it stops"),
        pytest.param(
            (pod("old", 0, ready=False),), 1, (0,), ("old-0",), id="an old pod that does not serve goes at once"
        ),
        pytest.param((pod("old", 0), pod("old", 1)), 2, (0,), (), id="one pod more than wanted, not two"),
        pytest.param((pod("new", 0), pod("new", 1)), 1, (), ("new-1",), id="scaling down stops the highest number"),
        pytest.param(
            (pod("new", 0, ready=False), pod("new", 1)), 1, (), ("new-0",), id="but rather one that is not ready"
        ),
        pytest.param((pod("new", 0), pod("old", 0)), 0, (), ("old-0", "new-0"), id="zero stops all"),
        pytest.param((pod("new", 0, stopping=True),), 1, (1,), (), id="a name is not reused before its pod has ended"),
    ],
)
def test_decision(pods: tuple[PodFact, ...], replicas: int, start: tuple[int, ...], stop: tuple[str, ...]) -> None:
    decision = decide(pods, revision="new", replicas=replicas)
    assert (decision.start, set(decision.stop)) == (start, set(stop))


@pytest.mark.parametrize(("before", "after"), [(1, 1), (3, 3), (3, 1), (1, 3), (2, 0)])
def test_a_rollout_ends_with_new_pods_only_and_never_serves_with_fewer_than_wanted(before: int, after: int) -> None:
    pods = {f"old-{n}": pod("old", n) for n in range(before)}
    floor = min(before, after)
    for _ in range(20):
        decision = decide(tuple(pods.values()), revision="new", replicas=after)
        if decision.start == () and decision.stop == () and all(p.ready for p in pods.values()):
            break
        for name in decision.stop:
            del pods[name]
        assert sum(p.ready for p in pods.values()) >= floor
        assert len(pods) + len(decision.start) <= max(before, after) + 1
        pods = {name: replace(p, ready=True) for name, p in pods.items()}
        pods |= {f"new-{n}": pod("new", n, ready=False) for n in decision.start}
    assert sorted(pods) == [f"new-{n}" for n in range(after)]


def test_a_new_revision_that_never_becomes_ready_leaves_the_old_one_serving() -> None:
    pods = (pod("old", 0), pod("old", 1), pod("new", 0, ready=False))
    assert decide(pods, revision="new", replicas=2).stop == ()


def test_going_back_to_the_old_revision_stops_the_new_one() -> None:
    pods = (pod("old", 0), pod("new", 0, ready=False))
    decision = decide(pods, revision="old", replicas=1)
    assert (decision.start, decision.stop) == ((), ("new-0",))
