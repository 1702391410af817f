"""The operator's `Cluster` over a state directory. Decides nothing: objects in, objects out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final

from flash_api.names import KIND, MODEL_KIND, gateway_name
from flash_operator.announcements import Announcement
from flash_operator.cluster.protocol import Conflict, Key, Manifest
from flash_operator.local.store import Ref, Store, ref_of

LOOPBACK: Final = "127.0.0.1"

# Field of the spec, the value at which ignoring it changes nothing, and why it does not hold here.
_IGNORED: Final = (
    ("engine.resources.cpu", None, "a process on this machine is not limited"),
    ("engine.resources.memory", None, "a process on this machine is not limited"),
    ("draft.resources.cpu", None, "a process on this machine is not limited"),
    ("draft.resources.memory", None, "a process on this machine is not limited"),
    ("draft.placement", "SameNode", "there is no other node than this machine"),
    (
        "draft.model.modelRef",
        None,
        "there are no volumes on this machine; its deployments share one cache of downloads",
    ),
    ("gateway.resources.cpu", None, "a process on this machine is not limited"),
    ("gateway.resources.memory", None, "a process on this machine is not limited"),
    ("endpoint.visibility", "Private", f"the endpoint is on {LOOPBACK}, reachable from this machine only"),
    ("endpoint.allowedNamespaces", None, f"the endpoint is on {LOOPBACK}, reachable from this machine only"),
    ("endpoint.allowedCIDRs", None, f"the endpoint is on {LOOPBACK}, reachable from this machine only"),
    ("endpoint.loadBalancer", None, "there are no load balancers on this machine"),
    ("endpoint.hostname", None, f"the endpoint is on {LOOPBACK}, reachable from this machine only"),
    ("endpoint.tls", None, "clients on this machine come by plain HTTP"),
    ("endpoint.gatewayRef", None, "there are no routes on this machine"),
    ("endpoint.ingressClassName", None, "there are no routes on this machine"),
    (
        "engine.autoscaling.provider",
        "BuiltIn",
        "there is no other controller on this machine",
    ),
    ("model.modelRef", None, "there are no volumes on this machine; its deployments share one cache of downloads"),
    ("residency.regions", None, "everything is on this machine, wherever that is"),
    ("placement.nodeSelector", None, "there is no other node than this machine"),
    ("placement.tolerations", None, "there is no other node than this machine"),
    ("placement.topologySpread", None, "there is no other node than this machine"),
    ("placement.priorityClassName", None, "processes on this machine have no priority classes"),
    ("placement.runtimeClassName", None, "processes on this machine have no runtime classes"),
    ("rollout.surge", 1, "a new process always comes first"),
    ("rollout.paused", False, "a rollout on this machine does not pause"),
)


class LocalCluster:
    """Objects of one state directory; a supervisor turns its Deployments into processes."""

    def __init__(self, store: Store, pods: Callable[[Key], tuple[Manifest, ...]] = lambda _: ()) -> None:
        """`pods` tells of those that run for a FlashDeployment."""
        self._store = store
        self._pods = pods

    async def deployment(self, key: Key) -> Manifest | None:
        return self._store.get(Ref(KIND, key.namespace, key.name))

    async def owned(self, key: Key) -> tuple[Manifest, ...]:
        return self._store.belonging_to(key.namespace, key.name)

    async def model(self, key: Key) -> Manifest | None:
        return self._store.get(Ref(MODEL_KIND, key.namespace, key.name))

    async def of_model(self, key: Key) -> tuple[Manifest, ...]:
        return ()  # the cache of this machine is all the volume there is

    async def pods_of_model(self, key: Key) -> tuple[Manifest, ...]:
        return ()

    async def users_of_model(self, key: Key) -> tuple[Manifest, ...]:
        return ()

    async def write_model_status(self, key: Key, status: Manifest) -> None:
        self._store.write_status(Ref(MODEL_KIND, key.namespace, key.name), status)

    def pulls_by_pod(self) -> bool:
        return True

    async def pods(self, key: Key) -> tuple[Manifest, ...]:
        return self._pods(key)

    async def node_regions(self) -> Mapping[str, str] | None:
        return None

    async def serves(self, api_version: str, kind: str) -> bool:
        # What the spec asks for by name is kept and told to be without effect; what is nice to have is left out.
        return kind not in ("PodMonitor", "HorizontalPodAutoscaler", "ScaledObject")

    async def apply(self, manifest: Manifest) -> None:
        self._store.apply(manifest)

    async def apply_scaled(self, manifest: Manifest) -> None:
        await self.apply(manifest)  # nobody else scales here

    async def delete(self, manifest: Manifest) -> None:
        live = self._store.get(ref_of(manifest))
        if live is None:
            return
        for precondition in ("uid", "resourceVersion"):
            expected, found = manifest["metadata"].get(precondition), live["metadata"][precondition]
            if expected not in (None, found):
                raise Conflict(f"{ref_of(manifest)} has {precondition} {found}, not {expected}")
        self._store.delete(ref_of(manifest))

    async def write_status(self, key: Key, status: Manifest) -> None:
        self._store.write_status(Ref(KIND, key.namespace, key.name), status)

    async def gateway_urls(self, key: Key, port: int) -> tuple[str, ...]:
        gateway = self._store.get(Ref("Deployment", key.namespace, gateway_name(key.name)))
        # They share the port, so nobody can choose which of them answers.
        alone = gateway is not None and gateway["spec"].get("replicas") == 1
        return (self.endpoint_url(key, port),) if alone else ()

    async def announce(self, live: Manifest, news: Announcement, at: datetime) -> None:
        del live, news, at  # `flash status` shows processes as they are; nobody keeps a history here

    def endpoint_url(self, key: Key, port: int, *, tls: bool = False) -> str:
        return f"http://{LOOPBACK}:{port}"

    def ignored_fields(self, spec: Manifest) -> tuple[str, ...]:
        holds = ("rollout.paused",) if _value(spec, "rollout.strategy") == "Canary" else ()
        ignored = [
            f"{field}: {reason}"
            for field, harmless, reason in _IGNORED
            if field not in holds and _value(spec, field) not in (None, harmless)
        ]
        if _value(spec, "engine.autoscaling") is not None and _value(spec, "gateway.replicas") not in (None, 1):
            ignored.append(
                "engine.autoscaling: several gateways share one port here, so none can be asked for its load"
            )
        if _value(spec, "rollout.canaryPercent") is not None and _value(spec, "gateway.replicas") not in (None, 1):
            ignored.append(
                "rollout.canaryPercent: several gateways share one port here, so none can be asked how a canary does; "
                "write gateway.replicas: 1"
            )
        return tuple(ignored)


def _value(spec: Mapping[str, Any], field: str) -> Any:
    value: Any = spec
    for part in field.split("."):
        if not isinstance(value, Mapping):
            return None
        value = value.get(part)
    return value
