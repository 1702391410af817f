"""Autoscaling around its decision: looks at the gateways, remembers what it saw, and lets the plan's law decide.

What must outlive the process is in `status.scaling`. What is kept here (a minute of looks, the needs of the
stabilization) only makes it bolder: without it latency counts for nothing yet and no pod is removed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final

from flash_api import names
from flash_api.v1alpha1.autoscaling import Autoscaling
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.status_details import ScalingStatus
from flash_operator import status as statuses
from flash_operator.cluster.protocol import Cluster, ClusterError, Key, Manifest
from flash_operator.difference import owned_by
from flash_operator.plan.autoscale import Decision, Fleet, Need, Past, decide
from flash_operator.plan.autoscale_load import WINDOW_SECONDS, Look, blindness, load
from flash_operator.plan.autoscale_record import changed_at, raised_at, record
from flash_operator.roles import together
from flash_operator.scrape import Scrape, scrape_all

LOOK_SECONDS: Final = 5.0
"""The shortest time between two looks: children wake the loop far more often while pods start."""


def _is_due(looks: Sequence[Look], now: datetime) -> bool:
    return not looks or not 0 <= (now - looks[-1].at).total_seconds() < LOOK_SECONDS


@dataclass
class _Memory:
    looks: list[Look] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)


class Scaler:
    """Decides the number of engine pods of every FlashDeployment that asks for it."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape
        self._memories: dict[Key, _Memory] = {}

    def forget(self, key: Key) -> None:
        """The deployment is gone, or is not scaled any more."""
        self._memories.pop(key, None)

    async def decide(
        self,
        cluster: Cluster,
        key: Key,
        deployment: FlashDeployment,
        autoscaling: Autoscaling,
        *,
        engines: statuses.Role,
        former: ScalingStatus | None,
        now: datetime,
    ) -> Decision:
        """The number of engine pods as of now."""
        memory = self._memories.setdefault(key, _Memory())
        wanted = former.desired_replicas if former is not None else engines.desired
        fleet = Fleet(wanted=wanted, ready=engines.ready, places=deployment.spec.engine.max_concurrent_requests)
        if engines.exists and _is_due(memory.looks, now):
            memory.looks.append(await self._look(cluster, key, deployment, engines.ready, now))
        memory.looks = [look for look in memory.looks if 0 <= (now - look.at).total_seconds() <= WINDOW_SECONDS]
        past = Past(tuple(memory.needs), raised_at=raised_at(former), changed_at=changed_at(former))
        decision = decide(autoscaling, fleet, load(memory.looks, now) or blindness(memory.looks), past, now)
        keep = autoscaling.scale_down_stabilization_seconds + 2 * WINDOW_SECONDS
        memory.needs = [need for need in memory.needs if 0 <= (now - need.at).total_seconds() <= keep]
        memory.needs.append(Need(now, decision.need))
        return decision

    async def _look(
        self, cluster: Cluster, key: Key, deployment: FlashDeployment, ready_engines: int, now: datetime
    ) -> Look:
        try:
            urls = await cluster.gateway_urls(key, deployment.spec.endpoint.port)
        except ClusterError as error:
            # What cannot be seen must not be scaled, and everything else must go on.
            return Look(now, {}, 0, ready_engines, trouble=f"Gateways could not be listed: {error}")
        readings = await scrape_all(self._scrape, tuple(f"{url}/metrics" for url in urls))
        return Look(now, readings, len(urls), ready_engines)


async def scaled(
    scaler: Scaler,
    cluster: Cluster,
    key: Key,
    deployment: FlashDeployment,
    children: Sequence[Manifest],
    former: ScalingStatus | None,
    now: datetime,
) -> ScalingStatus | None:
    """What `status.scaling` must say from now on, before anyone acts on it; None = nothing is scaled."""
    autoscaling = deployment.spec.engine.autoscaling
    if autoscaling is None or deployment.spec.suspend:
        scaler.forget(key)
        return former if autoscaling is not None else None
    own = [child for child in children if owned_by(child, deployment.metadata.uid)]
    canary = statuses.role(own, names.canary_name(key.name))
    engines = together(statuses.role(own, names.engine_name(key.name)), canary)
    decision = await scaler.decide(cluster, key, deployment, autoscaling, engines=engines, former=former, now=now)
    return record(former, decision, now)
