"""Fields that the API has and the planner does not act on yet, each with what to do instead.

An entry leaves this list in the change that makes the planner act on its field. What the list does not name is in
force: a test compares the plan with and without every field of the API.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Unserved:
    """A field of the spec that would have no effect."""

    path: str
    """In wire names, below `spec`."""
    instead: str
    """What to do instead, as a sentence."""
    harmless: tuple[object, ...] = ()
    """Values that ask for what happens anyway."""


_ROUTE: Final = "Remove it and publish the gateway Service through a route with TLS of your own."
_NODES: Final = "Remove it, and keep pods off nodes by taints or by a policy of the namespace."

UNSERVED: Final = (
    Unserved("suspend", "Set spec.engine.replicas to 0, which stops the engines.", harmless=(False,)),
    Unserved("model.modelRef", "Write the source of the FlashModel into spec.model.source."),
    Unserved(
        "draft.mode",
        "Write mode: Off or remove spec.draft; answers are the same, at the speed of one token a step.",
        harmless=("Off",),
    ),
    Unserved(
        "engine.autoscaling",
        "Set spec.engine.replicas and change it by hand, by kubectl scale or by a HorizontalPodAutoscaler.",
    ),
    Unserved("gateway.auth.oidc", "Use apiKeysSecretRef, or check tokens in a proxy before the gateway."),
    Unserved("endpoint.allowedNamespaces", "Remove it and write a NetworkPolicy for the gateway pods."),
    Unserved("endpoint.allowedCIDRs", "Remove it and limit the addresses where you publish the gateway Service."),
    Unserved("endpoint.hostname", _ROUTE),
    Unserved("endpoint.tls", _ROUTE),
    Unserved("endpoint.gatewayRef", _ROUTE),
    Unserved("endpoint.ingressClassName", _ROUTE),
    Unserved("endpoint.loadBalancer", _ROUTE),
    Unserved(
        "residency.regions",
        "Remove spec.residency and serve from a cluster that lies in the region: this release promises no place.",
    ),
    Unserved(
        "rollout.strategy",
        "Use RollingUpdate, or run two deployments and share the requests before them.",
        harmless=("RollingUpdate",),
    ),
    Unserved(
        "rollout.surge", "Remove it: the new pod always comes first, and needs room beside the old one.", harmless=(1,)
    ),
    Unserved("rollout.paused", "Remove it; to stop a rollout, apply the former spec again.", harmless=(False,)),
    Unserved("rollout.progressDeadlineSeconds", "Remove it: the deadline is half an hour.", harmless=(1800,)),
    Unserved("placement.nodeSelector", _NODES),
    Unserved("placement.tolerations", _NODES),
    Unserved("placement.priorityClassName", "Remove it and set a default PriorityClass for the cluster."),
    Unserved("placement.runtimeClassName", "Remove it and set the runtime at the nodes."),
    Unserved("placement.topologySpread", "Remove it: the scheduler spreads pods over nodes and zones by itself."),
    Unserved(
        "observability.metrics.podMonitor",
        "Write podMonitor: Off and make a PodMonitor of your own.",
        harmless=("Off",),
    ),
    Unserved("observability.tracing", "Remove it: this release sends no traces."),
    Unserved("observability.logLevel", "Remove it: pods write lines from Info on.", harmless=("Info",)),
)
