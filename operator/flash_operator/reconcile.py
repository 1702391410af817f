"""One pass over one FlashDeployment: observe, check, plan, apply what differs, delete what is left over, report.

Every pass starts from what the cluster says now and may be cut off anywhere: the next one ends in the same state. Knows
neither Kubernetes nor processes (`Cluster`), no clock (`now`) and no network (`Probe`); waits for nothing: what is not
there yet is asked for again after `Outcome.requeue_after_seconds`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime

from flash_api.conditions import ConditionType
from flash_api.v1alpha1.status import RolloutStatus, ScalingStatus
from flash_operator import status as statuses
from flash_operator.announcements import announcements, rollout_news
from flash_operator.cluster.protocol import Cluster, ClusterError, Key, Manifest
from flash_operator.converging import Changes, converge, stop_outside
from flash_operator.looking import NamesModels, Sight, look, observe, probe_url
from flash_operator.observation import Observation
from flash_operator.plan import PlanSettings, plan
from flash_operator.plan.autoscale_record import recorded
from flash_operator.plan.rollout_record import recorded as rollout_so_far
from flash_operator.probe import Probe
from flash_operator.rollouts import rolling_update
from flash_operator.scaling import Scaler, scaled
from flash_operator.scaling_provider import carried_out, carrier, engine_replicas
from flash_operator.steady import Steady, steady
from flash_operator.trial import Plans, Witness, plans


@dataclass(frozen=True)
class ReconcileSettings:
    """What one installation sets for all passes."""

    plan: PlanSettings = field(default_factory=PlanSettings)
    waiting_seconds: float = 2.0
    """Next look while something is on its way. Children wake the loop too; this catches what sends no event."""
    ready_seconds: float = 15.0
    """Next look at a deployment that serves: how late a broken route is noticed."""


@dataclass(frozen=True)
class Outcome:
    """What a pass did and when the next is due."""

    gone: bool = False
    """The FlashDeployment does not exist (any more), or is being deleted: the loop ends."""
    requeue_after_seconds: float | None = None
    """None = only an event makes another pass worth while."""
    error: str | None = None
    """What the cluster refused; the caller backs off and tries again."""
    applied: tuple[str, ...] = ()
    """`Kind/name` of each object written."""
    deleted: tuple[str, ...] = ()
    status_written: bool = False
    status: Manifest = field(default_factory=dict)
    """The status as of this pass, in wire form."""
    unreported: bool = False
    """The first objects were made, and what came of them is left for the next pass to say: it is due soon."""
    steady: Steady | None = None
    """What shows that a pass would change nothing; None = only a pass can tell."""

    @property
    def writes(self) -> int:
        return len(self.applied) + len(self.deleted) + self.status_written


async def reconcile(
    cluster: Cluster,
    key: Key,
    *,
    probe: Probe,
    now: Callable[[], datetime],
    settings: ReconcileSettings,
    scaler: Scaler | None = None,
    witness: Witness | None = None,
    names_models: NamesModels | None = None,
) -> Outcome:
    """Bring the cluster one step nearer to the spec of `key` and write down how far it is.

    Raises ClusterError when the cluster can be neither read nor told the status. Apply failures are in the outcome and
    in the status. Without a `scaler`, autoscaled engines stay as many as was decided last. `names_models` hears
    which FlashModels the deployment depends on, before they are read.
    """
    live = await cluster.deployment(key)
    if live is None or live["metadata"].get("deletionTimestamp"):
        if scaler is not None:
            scaler.forget(key)
        if witness is not None:
            witness.forget(key)
        if names_models is not None:
            names_models(key, ())
        return Outcome(gone=True)

    sight = await look(cluster, key, live, settings.plan, names_models)
    if sight.unread is not None:
        return await _report_unread(cluster, key, live, sight, now)
    deployment, use, children = sight.deployment, sight.use, sight.children
    changes = Changes()
    error: ClusterError | None = None
    previous = live.get("status") or {}
    scaling = recorded(previous)
    trial: Plans | None = None
    planned: tuple[Manifest, ...] = ()
    carries = carrier(deployment, sight.served) if deployment is not None else None
    if deployment is not None and sight.refused is None:
        if scaler is not None:
            scaling = await scaled(scaler, cluster, key, deployment, children, scaling, now())
            scaling = carried_out(scaling, carries, children, deployment.metadata.uid, now())
            previous = await _remember(cluster, key, previous, scaling)
        try:
            scaled_to = engine_replicas(deployment, scaling, carries, children)
            planned = plan(
                deployment,
                settings.plan,
                engine_replicas=scaled_to,
                served=sight.served,
                shared=use.shared if use is not None else None,
                shared_draft=sight.draft_use.shared if sight.draft_use is not None else None,
            ).objects
            if use is None or use.waits is None:
                trial = await plans(
                    witness,
                    cluster,
                    key,
                    deployment,
                    planned,
                    children,
                    status=previous,
                    engine_replicas=scaled_to,
                    makes_room=carries is None,
                    now=now(),
                )
                previous = await _remember_rollout(cluster, key, live, previous, trial, now)
            await converge(
                cluster,
                deployment,
                children,
                planned,
                settings.plan,
                changes,
                trial,
                use,
                sight.draft_use,
                carries,
            )
            await stop_outside(cluster, sight.residency, changes)
        except ClusterError as failure:
            error = failure
    first = not children and not live.get("status")
    if changes.applied or changes.deleted:
        children = await cluster.owned(key)

    seen = await observe(cluster, key, live, sight, children, error=error, probe=probe, settings=settings.plan)
    seen = replace(
        seen,
        scaling=scaling,
        scaling_hindered=carries.hindrance(seen.children) if carries is not None else None,
        rollout=_rollout(trial, changes.held, previous)
        or rolling_update(planned, seen.children, previous, name=key.name, paused=seen.paused, now=now()),
        held=changes.held,
        applied_revision=changes.revision,
    )
    status = statuses.status(seen, previous, now())
    # A first status that says only that everything was just asked for would be one of two within a moment.
    unreported = first and bool(changes.applied) and error is None
    if status != previous and not unreported:
        await cluster.write_status(key, status)
        # Told afterwards: cut off in between, news is lost, which may be; the status, which counts, never waits for it.
        # A step of a trial is written down in advance, and yet it is news.
        before = {**previous, "rollout": (live.get("status") or {}).get("rollout")}
        for news in announcements(before, status, uid=str(live["metadata"].get("uid", ""))):
            await cluster.announce(live, news, now())

    ready = statuses.condition(status, ConditionType.READY) or {}
    requeue = settings.ready_seconds if ready.get("status") == "True" else settings.waiting_seconds
    return Outcome(
        requeue_after_seconds=None if sight.refused is not None else requeue,
        error=str(error) if error is not None else None,
        applied=tuple(changes.applied),
        deleted=tuple(changes.deleted),
        status_written=status != (live.get("status") or {}) and not unreported,
        status=status,
        unreported=unreported,
        steady=steady(deployment, status, probe_url(cluster, key, deployment, settings.plan)),
    )


async def _report_unread(
    cluster: Cluster,
    key: Key,
    live: Manifest,
    sight: Sight,
    now: Callable[[], datetime],
) -> Outcome:
    """Nothing can be decided without the children; the user hears why. Faults that pass are not worth a status."""
    seen = Observation(
        name=key.name,
        generation=int(live["metadata"].get("generation") or 0),
        refusal=sight.refused,
        unread=str(sight.unread),
        draft=sight.deployment.spec.draft if sight.deployment is not None else None,
    )
    previous = live.get("status") or {}
    status = statuses.status(seen, previous, now())
    if status != previous:
        await cluster.write_status(key, status)
    return Outcome(error=str(sight.unread), status_written=status != previous, status=status)


async def _remember(cluster: Cluster, key: Key, previous: Manifest, scaling: ScalingStatus | None) -> Manifest:
    """Write a new number down before anything acts on it: whoever comes after a crash must not take it back."""
    former = recorded(previous)
    if former is None or scaling is None or former.desired_replicas == scaling.desired_replicas:
        return previous
    status = {**previous, "scaling": scaling.model_dump(mode="json", by_alias=True, exclude_none=True)}
    await cluster.write_status(key, status)
    return status


async def _remember_rollout(
    cluster: Cluster,
    key: Key,
    live: Manifest,
    previous: Manifest,
    trial: Plans | None,
    now: Callable[[], datetime],
) -> Manifest:
    """Write a step down before anything acts on it: a revision that failed must not be tried again after a crash."""
    said = trial.course.record.model_dump(mode="json", by_alias=True, exclude_none=True) if trial is not None else None
    if said is None or said == previous.get("rollout"):
        return previous
    status = {**previous, "rollout": said}
    await cluster.write_status(key, status)
    for news in rollout_news(previous, status, uid=str(live["metadata"].get("uid", ""))):
        await cluster.announce(live, news, now())
    return status


def _rollout(trial: Plans | None, held: bool, previous: Manifest) -> RolloutStatus | None:
    if trial is not None:
        return trial.course.record
    # While the model is waited for nothing is rolled out, and what has been is not forgotten.
    return rollout_so_far(previous) if held else None
