"""One pass over one FlashDeployment: observe, check, plan, apply what differs, delete what is left over, report.

Every pass starts from what the cluster says now and may be cut off anywhere: the next one ends in the same state. Knows
neither Kubernetes nor processes (`Cluster`), no clock (`now`) and no network (`Probe`); waits for nothing: what is not
there yet is asked for again after `Outcome.requeue_after_seconds`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError

from flash_api import names
from flash_api.conditions import ConditionType, Reason, Refusal
from flash_api.manifest import describe, stored_deployment
from flash_api.v1alpha1.flashdeployment import FlashDeployment, Visibility
from flash_api.v1alpha1.status import RolloutStatus, ScalingStatus
from flash_operator import status as statuses
from flash_operator.announcements import announcements, rollout_news
from flash_operator.checks import refusal
from flash_operator.cluster.protocol import Cluster, ClusterError, Forbidden, Key, Manifest
from flash_operator.difference import identity, is_as_planned, owned_by, revision, superfluous
from flash_operator.doors import door
from flash_operator.model_use import held_back, model_use
from flash_operator.plan import PlanSettings, optional_kinds, plan
from flash_operator.plan.autoscale_record import recorded
from flash_operator.plan.certificates import ends_tls
from flash_operator.plan.rollout_record import recorded as rollout_so_far
from flash_operator.plan.routes import Kind, asked_kinds
from flash_operator.probe import Probe
from flash_operator.residency import Finding, Places, may_be_stopped, residency_finding
from flash_operator.rollouts import rolling_update
from flash_operator.scaling import Scaler, scaled
from flash_operator.shared_model import ModelUse
from flash_operator.status import Observation
from flash_operator.steady import Steady, steady
from flash_operator.trial import Plans, Witness, plans

PROBE_PATH: Final = "/readyz"


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


NamesModel = Callable[[Key, str | None], None]
"""Hears the name of the FlashModel that a deployment uses, None = of none."""


async def reconcile(
    cluster: Cluster,
    key: Key,
    *,
    probe: Probe,
    now: Callable[[], datetime],
    settings: ReconcileSettings,
    scaler: Scaler | None = None,
    witness: Witness | None = None,
    names_model: NamesModel | None = None,
) -> Outcome:
    """Bring the cluster one step nearer to the spec of `key` and write down how far it is.

    Raises ClusterError when the cluster can be neither read nor told the status. Apply failures are in the outcome and
    in the status. Without a `scaler`, autoscaled engines stay as many as was decided last. `names_model` hears which
    FlashModel the deployment depends on, before that is read.
    """
    live = await cluster.deployment(key)
    if live is None or live["metadata"].get("deletionTimestamp"):
        if scaler is not None:
            scaler.forget(key)
        if witness is not None:
            witness.forget(key)
        if names_model is not None:
            names_model(key, None)
        return Outcome(gone=True)

    deployment, refused = _accept(live)
    use = await _model_use(cluster, key, deployment, settings.plan, names_model)
    refused = refused or (use.refusal if use is not None else None)
    changes = _Changes()
    error: ClusterError | None = None
    try:
        children = await cluster.owned(key)
    except Forbidden as denied:
        return await _report_unread(cluster, key, live, refused, denied, now)
    pods, pods_unread = await _pods(cluster, key)
    residency = None if deployment is None else await _residency(cluster, deployment, pods, pods_unread)
    served = await _served(cluster, deployment)
    previous = live.get("status") or {}
    scaling = recorded(previous)
    trial: Plans | None = None
    planned: tuple[Manifest, ...] = ()
    if deployment is not None and refused is None:
        if scaler is not None:
            scaling = await scaled(scaler, cluster, key, deployment, children, scaling, now())
            previous = await _remember(cluster, key, previous, scaling)
        try:
            scaled_to = scaling.desired_replicas if scaling and deployment.spec.engine.autoscaling else None
            shared = use.shared if use is not None else None
            planned = plan(deployment, settings.plan, engine_replicas=scaled_to, served=served, shared=shared).objects
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
                    now=now(),
                )
                previous = await _remember_rollout(cluster, key, live, previous, trial, now)
            await _converge(cluster, deployment, children, planned, settings.plan, changes, trial, use)
            await _stop_outside(cluster, residency, changes)
        except ClusterError as failure:
            error = failure
    first = not children and not live.get("status")
    if changes.applied or changes.deleted:
        children = await cluster.owned(key)

    seen = await _observe(
        cluster,
        key,
        live,
        deployment,
        children,
        refused=refused,
        error=error,
        probe=probe,
        residency=residency,
        served=served,
        settings=settings.plan,
    )
    seen = replace(
        seen,
        scaling=scaling,
        rollout=_rollout(trial, changes.held, previous)
        or rolling_update(planned, seen.children, previous, name=key.name, paused=seen.paused, now=now()),
        enough_engines=_enough(deployment),
        pods=pods,
        model=use,
        held=changes.held,
        applied_revision=changes.revision,
    )
    status = statuses.status(seen, previous, now())
    # A first status that says only that everything was just asked for would be one of two within a moment.
    unreported = first and bool(changes.applied) and error is None
    if status != previous and not unreported:
        await cluster.write_status(key, status)
        # Told afterwards: cut off in between, news is lost, which may be; the status, which counts, never waits for it.
        for news in announcements(previous, status, uid=str(live["metadata"].get("uid", ""))):
            await cluster.announce(live, news, now())

    ready = statuses.condition(status, ConditionType.READY) or {}
    requeue = settings.ready_seconds if ready.get("status") == "True" else settings.waiting_seconds
    return Outcome(
        requeue_after_seconds=None if refused is not None else requeue,
        error=str(error) if error is not None else None,
        applied=tuple(changes.applied),
        deleted=tuple(changes.deleted),
        status_written=status != (live.get("status") or {}) and not unreported,
        status=status,
        unreported=unreported,
        steady=steady(deployment, status, _probe_url(cluster, key, deployment, settings.plan)),
    )


async def _report_unread(
    cluster: Cluster,
    key: Key,
    live: Manifest,
    refused: Refusal | None,
    denied: Forbidden,
    now: Callable[[], datetime],
) -> Outcome:
    """Nothing can be decided without the children; the user hears why. Faults that pass are not worth a status."""
    seen = Observation(
        name=key.name,
        generation=int(live["metadata"].get("generation") or 0),
        refusal=refused,
        unread=str(denied),
    )
    previous = live.get("status") or {}
    status = statuses.status(seen, previous, now())
    if status != previous:
        await cluster.write_status(key, status)
    return Outcome(error=str(denied), status_written=status != previous, status=status)


@dataclass
class _Changes:
    """Filled while applying, so that a pass which fails half-way still tells what it did."""

    applied: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    revision: str = ""
    """Of the plan, once all of it is applied."""
    held: bool = False
    """A part of the plan waits for the FlashModel."""


def _accept(live: Manifest) -> tuple[FlashDeployment | None, Refusal | None]:
    try:
        deployment = stored_deployment(live)
    except ValidationError as error:
        return None, Refusal(Reason.INVALID_SPEC, "; ".join(str(problem) for problem in describe(error, live)))
    return deployment, refusal(deployment.spec)


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


def _enough(deployment: FlashDeployment | None) -> int | None:
    scaling = deployment.spec.engine.autoscaling if deployment is not None else None
    return scaling.min_replicas if scaling is not None else None


async def _converge(
    cluster: Cluster,
    deployment: FlashDeployment,
    children: tuple[Manifest, ...],
    planned: tuple[Manifest, ...],
    settings: PlanSettings,
    changes: _Changes,
    trial: Plans | None,
    use: ModelUse | None,
) -> None:
    kept: frozenset[str] = frozenset()
    if trial is not None:
        planned, kept = trial.carried_out(
            planned, children, deployment, settings, use.shared if use is not None else None
        )
        for manifest in trial.leaving:
            await cluster.delete(manifest)
            changes.deleted.append("/".join(identity(manifest)))
    live = {identity(manifest): manifest for manifest in children}
    held = held_back(planned, children, use)
    changes.held = bool(held)
    for desired in planned:
        if identity(desired) in held:
            continue
        present = live.get(identity(desired))
        if present is None or not is_as_planned(present, desired):
            await cluster.apply(desired)
            changes.applied.append("/".join(identity(desired)))
    if held:
        return  # what runs may need what the plan no longer holds
    changes.revision = revision(planned)

    gone = {identity(manifest) for manifest in trial.leaving} if trial is not None else set()
    left_over = tuple(
        manifest
        for manifest in superfluous(children, planned, deployment.metadata.uid)
        if identity(manifest)[1] not in kept and identity(manifest) not in gone
    )
    # A pod of the former revision that is moved to another node mounts the former configuration once more.
    if left_over and _rolled_out(children, deployment.metadata.name) and not changes.applied:
        for manifest in left_over:
            await cluster.delete(manifest)
            changes.deleted.append("/".join(identity(manifest)))


async def _model_use(
    cluster: Cluster,
    key: Key,
    deployment: FlashDeployment | None,
    settings: PlanSettings,
    names_model: NamesModel | None,
) -> ModelUse | None:
    ref = deployment.spec.model.model_ref if deployment is not None else None
    if names_model is not None:
        names_model(key, ref.name if ref is not None else None)
    if deployment is None or ref is None:
        return None
    live = await cluster.model(Key(key.namespace, ref.name))
    return model_use(deployment, live, settings, by_pods=cluster.pulls_by_pod())


def _rollout(trial: Plans | None, held: bool, previous: Manifest) -> RolloutStatus | None:
    if trial is not None:
        return trial.course.record
    # While the model is waited for nothing is rolled out, and what has been is not forgotten.
    return rollout_so_far(previous) if held else None


async def _served(cluster: Cluster, deployment: FlashDeployment | None) -> tuple[Kind, ...]:
    """Of the optional kinds that are wanted, those that there are."""
    wanted = () if deployment is None else optional_kinds(deployment)
    return tuple([kind for kind in wanted if await cluster.serves(*kind)])


async def _residency(
    cluster: Cluster, deployment: FlashDeployment, pods: tuple[Manifest, ...], pods_unread: Forbidden | None
) -> Finding | None:
    """Where everything is; None when the spec promises nothing, so that nobody else pays for the looking."""
    if deployment.spec.residency is None:
        return None
    try:
        regions = await cluster.node_regions()
        unknown = "This place has no nodes whose region could be read." if regions is None else ""
        if regions is not None and pods_unread is not None:
            raise pods_unread
        places = Places(regions, () if regions is None else pods, unknown)
    except Forbidden as denied:
        places = Places(None, unknown=f"The operator may not see where pods are: {denied}")
    return residency_finding(deployment.spec.residency, places)


async def _stop_outside(cluster: Cluster, residency: Finding | None, changes: _Changes) -> None:
    """The scheduler keeps new pods inside; this is for nodes that have become others since."""
    for pod in residency.outside if residency is not None and residency.enforced else ():
        if may_be_stopped(pod):
            await cluster.delete(pod)
            changes.deleted.append("/".join(identity(pod)))


def _rolled_out(live: tuple[Manifest, ...], name: str) -> bool:
    roles = [statuses.role(live, each(name)) for each in (names.engine_name, names.gateway_name, names.canary_name)]
    return all(role.rolled_out for role in roles[:2]) and (roles[2].rolled_out or not roles[2].exists)


async def _pods(cluster: Cluster, key: Key) -> tuple[tuple[Manifest, ...], Forbidden | None]:
    """Pods explain, and only residency counts on them: where they may not be read, the counts still hold."""
    try:
        return await cluster.pods(key), None
    except Forbidden as denied:
        return (), denied


async def _observe(
    cluster: Cluster,
    key: Key,
    live: Manifest,
    deployment: FlashDeployment | None,
    children: tuple[Manifest, ...],
    *,
    refused: Refusal | None,
    error: ClusterError | None,
    probe: Probe,
    residency: Finding | None,
    served: tuple[Kind, ...],
    settings: PlanSettings,
) -> Observation:
    uid = live["metadata"].get("uid", "")
    own = tuple(child for child in children if owned_by(child, uid))
    url = _probe_url(cluster, key, deployment, settings)
    asked = await probe(url) if url and statuses.may_probe(own, key.name) else None
    spec: dict[str, Any] = live.get("spec") or {}
    ignored = cluster.ignored_fields(spec)
    if (
        settings.policy_enforced is False
        and deployment is not None
        and deployment.spec.endpoint.visibility is not Visibility.PUBLIC
    ):
        ignored = (*ignored, "endpoint.visibility: this cluster's network does not enforce NetworkPolicy")
    way_in = door(deployment, own, inside=url.removesuffix(PROBE_PATH), outside=settings.has_outside)
    asked_for = asked_kinds(deployment) if deployment is not None else ()
    missing = tuple(kind for kind in asked_for if kind not in served)
    return Observation(
        name=key.name,
        generation=int(live["metadata"].get("generation") or 0),
        children=own,
        probe=asked,
        refusal=refused,
        error=str(error) if error is not None else None,
        error_is_final=error is not None and not error.retryable,
        endpoint=f"{way_in.url}/v1" if way_in.url else "",
        door=way_in,
        missing_kinds=missing,
        ignored_fields=ignored,
        suspended=deployment is not None and deployment.spec.suspend,
        paused=deployment is not None and deployment.spec.rollout is not None and deployment.spec.rollout.paused,
        residency=residency,
    )


def _probe_url(cluster: Cluster, key: Key, deployment: FlashDeployment | None, settings: PlanSettings) -> str:
    if deployment is None:
        return ""
    port, tls = deployment.spec.endpoint.port, ends_tls(deployment, settings)
    return f"{cluster.endpoint_url(key, port, tls=tls)}{PROBE_PATH}"
