"""Which pods of a Deployment to start and which to stop now. Pure: facts in, a decision out; called again after each
change, it walks a whole rollout.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class PodFact:
    """One pod that is running or about to."""

    name: str
    revision: str
    ordinal: int
    ready: bool
    stopping: bool = False


@dataclass(frozen=True)
class Decision:
    """What to do now."""

    start: tuple[int, ...] = ()
    """Ordinals of new pods, of the wanted revision."""
    stop: tuple[str, ...] = ()
    """Names of pods that may go."""


def decide(pods: tuple[PodFact, ...], *, revision: str, replicas: int, max_surge: int = 1) -> Decision:
    """A new pod is started beside the old ones, and an old one stops only when enough others are ready.

    That is Kubernetes' RollingUpdate with `maxUnavailable: 0`.
    """
    live = [pod for pod in pods if not pod.stopping]
    new = [pod for pod in live if pod.revision == revision]
    old = [pod for pod in live if pod.revision != revision]

    # An old pod that does not serve is no loss, and a pod beyond the wanted number is none either.
    stop = [pod for pod in old if not pod.ready or replicas == 0]
    surplus = sorted(new, key=lambda pod: (not pod.ready, pod.ordinal))[replicas:]
    stop += surplus
    spare = sum(pod.ready for pod in live if pod not in surplus) - replicas
    ready_old = sorted((pod for pod in old if pod.ready and pod not in stop), key=lambda pod: -pod.ordinal)
    stop += ready_old[: max(0, spare)]

    staying = len(live) - len(stop)
    missing = replicas - (len(new) - len(surplus))
    room = replicas + (max_surge if old else 0) - staying
    taken = {pod.ordinal for pod in pods if pod.revision == revision}
    free = [ordinal for ordinal in range(replicas + len(taken)) if ordinal not in taken]
    return Decision(start=tuple(free[: max(0, min(missing, room))]), stop=tuple(pod.name for pod in stop))
