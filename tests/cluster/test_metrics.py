"""metrics-server in a cluster: what pods and nodes take is measured, and `kubectl top` shows it."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from cluster import Cluster
from cluster_plugin import Programs, fresh_namespace
from hermetic_errors import KubectlFailed
from operator_process import eventually
from pods import IMAGE, a_pod, run

pytestmark = pytest.mark.skipif(os.environ.get("FULL") != "1", reason="building metrics-server is part of FULL=1")
MEASURED_SECONDS = 120
"""Two looks at the kubelets, 15 s apart, and the time in which they measure."""


@pytest.fixture(scope="module")
def measured(node_programs: Programs, pod_image: Path) -> Iterator[Cluster]:
    """A cluster of its own, of two nodes: the figures of both go through the network of one."""
    with Cluster(node_programs[0], nodes=2, metrics=True) as started:
        assert started.load(pod_image) == [IMAGE]
        yield started


@pytest.mark.timeout(600)
def test_what_pods_and_nodes_take_is_shown(measured: Cluster) -> None:
    with fresh_namespace(measured, "top") as kubectl:
        run(kubectl, *(a_pod(f"on-{node}", node=node) for node in measured.nodes))

        def top(kind: str) -> dict[str, list[str]]:
            try:
                lines = kubectl("top", kind, "--no-headers").splitlines()
            except KubectlFailed:  # not measured yet
                return {}
            return {line.split()[0]: line.split()[1:] for line in lines}

        wanted = {f"on-{node}" for node in measured.nodes}
        pods = eventually(
            "pods are measured", lambda: (found := top("pods")).keys() == wanted and found, seconds=MEASURED_SECONDS
        )
        assert pods
        for cpu, memory in pods.values():
            assert (cpu[-1], memory[-2:]) == ("m", "Mi")
            assert 0 < int(memory[:-2]) < 100
        assert top("nodes").keys() == set(measured.nodes)
