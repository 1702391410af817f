"""The trial of a new revision around its decision: looks at the gateways, remembers what it saw, lets the plan decide.

What must outlive the process is in `status.rollout` and in the objects. What is kept here (what both sides answered
since the canary is ready) only makes it bolder: without it the evidence is gathered anew.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment, Rollout
from flash_operator.cluster.protocol import Cluster, ClusterError, Forbidden, Key, Manifest
from flash_operator.difference import covers, identity, owned_by
from flash_operator.plan.autoscale_load import GatewayReading, TrackReading
from flash_operator.plan.canary import Course, Fleet, Mode, Step, advance, engines
from flash_operator.plan.canary_objects import Trial, on_trial
from flash_operator.plan.canary_verdict import Evidence
from flash_operator.plan.replicas import replicas, tries_revisions
from flash_operator.plan.rollout_record import recorded
from flash_operator.plan.settings import PlanSettings
from flash_operator.roles import role, with_pods
from flash_operator.scrape import Scrape, scrape_all
from flash_operator.shared_model import SharedModel

LOOK_SECONDS: Final = 5.0
"""The shortest time between two looks: children wake the loop far more often while pods start."""


@dataclass
class _Memory:
    revision: str
    since: datetime
    looked_at: datetime
    stable: TrackReading = field(default_factory=TrackReading)
    canary: TrackReading = field(default_factory=TrackReading)
    readings: dict[str, GatewayReading] = field(default_factory=dict)
    """The last of each gateway."""

    def take(self, readings: Mapping[str, GatewayReading], now: datetime) -> None:
        """What came since the last look. Of a gateway that is seen for the first time nobody knows since when."""
        for gateway, reading in readings.items():
            if (former := self.readings.get(gateway)) is not None:
                self.stable = self.stable.plus(reading.stable.since(former.stable))
                self.canary = self.canary.plus(reading.canary.since(former.canary))
        self.readings |= readings
        self.looked_at = now


class Witness:
    """Gathers the evidence of every trial that is under way."""

    def __init__(self, scrape: Scrape) -> None:
        self._scrape = scrape
        self._memories: dict[Key, _Memory] = {}

    def forget(self, key: Key) -> None:
        """Nothing is on trial there."""
        self._memories.pop(key, None)

    async def evidence(self, cluster: Cluster, key: Key, port: int, revision: str, now: datetime) -> Evidence | None:
        """What was seen of both sides since this was first asked about the revision; None = nothing could be."""
        memory = self._memories.get(key)
        if memory is None or memory.revision != revision:
            memory = self._memories[key] = _Memory(revision, now, now)
        elif 0 <= (now - memory.looked_at).total_seconds() < LOOK_SECONDS:
            return _evidence(memory, now)
        try:
            urls = await cluster.gateway_urls(key, port)
        except ClusterError:
            return _evidence(memory, now)  # what was seen is still true
        memory.take(await scrape_all(self._scrape, tuple(f"{url}/metrics" for url in urls)), now)
        return _evidence(memory, now)


def _evidence(memory: _Memory, now: datetime) -> Evidence | None:
    if not memory.readings:
        return None
    return Evidence((now - memory.since).total_seconds(), memory.stable, memory.canary)


@dataclass(frozen=True)
class Plans:
    """A course, and how it changes the plan."""

    course: Course
    trial: Trial | None
    """None = the plan is carried out as it is."""
    leaving: tuple[Manifest, ...] = ()
    """Engines that must not answer any longer, whatever else is still on its way."""

    def carried_out(
        self,
        planned: tuple[Manifest, ...],
        live: Sequence[Manifest],
        deployment: FlashDeployment,
        settings: PlanSettings,
        shared: SharedModel | None = None,
    ) -> tuple[tuple[Manifest, ...], frozenset[str]]:
        """What to apply, and the names of ConfigMaps that must not go."""
        if self.trial is None:
            return planned, frozenset()
        return on_trial(planned, live, deployment, settings, self.trial, shared)


async def plans(
    witness: Witness | None,
    cluster: Cluster,
    key: Key,
    deployment: FlashDeployment,
    planned: Sequence[Manifest],
    children: Sequence[Manifest],
    *,
    status: Manifest,
    engine_replicas: int | None,
    makes_room: bool = True,
    now: datetime,
) -> Plans | None:
    """What must become of the plan, and what `status.rollout` must say before; None = revisions are not tried.

    `makes_room` = a canary that is ready takes the place of other pods; not where another controller sets their number.
    """
    own = tuple(child for child in children if owned_by(child, deployment.metadata.uid))
    live = {identity(child): child for child in own}
    canary = live.get(("Deployment", names.canary_name(key.name)))
    if not tries_revisions(deployment):
        if witness is not None:
            witness.forget(key)
        return None
    desired = next(each for each in planned if identity(each) == ("Deployment", names.engine_name(key.name)))
    target = desired["metadata"]["labels"][names.LABEL_REVISION]
    rollout = deployment.spec.rollout or Rollout()
    wanted = replicas(deployment, engine_replicas=engine_replicas)[names.COMPONENT_ENGINE]
    fleet = await _fleet(cluster, key, own, live.get(identity(desired)), desired, canary)
    former = recorded(status)
    evidence = None
    observing = former is not None and (former.revision, former.step) == (target, Step.OBSERVING)
    if witness is not None and observing:
        evidence = await witness.evidence(cluster, key, deployment.spec.endpoint.port, target, now)
    course = advance(former, target, fleet, rollout, wanted=wanted, evidence=evidence, now=now)
    if witness is not None and course.record.step not in (Step.STARTING, Step.OBSERVING):
        witness.forget(key)
    stable, trying = engines(course, wanted, rollout)
    if not makes_room:
        stable = wanted
    trial = None if course.mode is Mode.ROLL else Trial(stable, trying if course.mode is Mode.TRY else None)
    # While the rest becomes what the canary is already, it goes on; otherwise it is not wanted any more.
    stays = course.mode is Mode.TRY or (course.mode is Mode.ROLL and fleet.canary == target)
    going = canary is None or canary["metadata"].get("deletionTimestamp")
    return Plans(course, trial, () if stays or going or canary is None else (canary,))


async def _fleet(
    cluster: Cluster,
    key: Key,
    own: Sequence[Manifest],
    stable: Manifest | None,
    desired: Manifest,
    canary: Manifest | None,
) -> Fleet:
    found = Fleet(settled=role(own, names.engine_name(key.name)).rolled_out)
    if stable is not None:
        found = replace(found, stable=_revision(stable, desired))
    if canary is None or canary["metadata"].get("deletionTimestamp"):
        return found
    pods: tuple[Manifest, ...] = ()
    with contextlib.suppress(Forbidden):  # the counts still tell whether it is ready
        pods = await cluster.pods(key)
    engines_on_trial = with_pods(role(own, names.canary_name(key.name)), pods, names.COMPONENT_CANARY)
    return replace(
        found,
        canary=_label(canary),
        canary_ready=engines_on_trial.rolled_out and engines_on_trial.desired > 0,
        canary_failure=engines_on_trial.failure or engines_on_trial.stuck,
    )


def _revision(live: Manifest, desired: Manifest) -> str:
    """What the label says. Where someone else has changed or removed it, the pods' template tells at least whether it
    is the newest one."""
    said, wanted = _label(live), _label(desired)
    hashes = [(each["metadata"].get("annotations") or {}).get(names.ANNOTATION_PLAN_HASH) for each in (live, desired)]
    doubtful = not said or hashes[0] == hashes[1]
    return wanted if doubtful and covers(live["spec"]["template"], desired["spec"]["template"]) else said


def _label(manifest: Manifest) -> str:
    return str((manifest["metadata"].get("labels") or {}).get(names.LABEL_REVISION) or "")
