"""Fixtures of the tests on a cluster with nodes, whose pods really run."""

from cluster_plugin import (
    cluster,
    kubectl,
    node_programs,
    pod_image,
    pytest_collection_finish,
    pytest_collection_modifyitems,
)
from helm_plugin import helm
from operator_on_nodes import installed, operator

__all__ = [
    "cluster",
    "helm",
    "installed",
    "kubectl",
    "node_programs",
    "operator",
    "pod_image",
    "pytest_collection_finish",
    "pytest_collection_modifyitems",
]
