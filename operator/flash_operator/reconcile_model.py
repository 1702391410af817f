"""One pass over one FlashModel: observe, check, plan, apply what differs, delete what is left over, report.

As `reconcile` does for a FlashDeployment: every pass starts from what the cluster says now and may be cut off anywhere.
The volume is never deleted here: it goes with its FlashModel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from pydantic import ValidationError

from flash_api import names
from flash_api.conditions import ConditionType, Reason, Refusal
from flash_api.manifest import describe, stored_model
from flash_api.v1alpha1.flashmodel import FlashModel
from flash_operator.announcements import announcements
from flash_operator.checks import model_refusal
from flash_operator.cluster.protocol import Cluster, ClusterError, Forbidden, Key, Manifest
from flash_operator.difference import identity, is_as_planned, owned_by, superfluous
from flash_operator.model_status import ModelObservation, model_status
from flash_operator.plan import model_plan
from flash_operator.pulls import Pull, is_stale, next_up, pulls
from flash_operator.reconcile import Outcome, ReconcileSettings
from flash_operator.residency import Finding, Places, residency_finding
from flash_operator.status import condition

CLAIM: Final = "PersistentVolumeClaim"
READY_SECONDS: Final = 60.0
"""Next look at a model that is packed: how late the number of its users follows."""


async def reconcile_model(
    cluster: Cluster, key: Key, *, now: Callable[[], datetime], settings: ReconcileSettings
) -> Outcome:
    """Bring the cluster one step nearer to the spec of the FlashModel `key` and write down how far it is.

    Raises ClusterError when the cluster can be neither read nor told the status.
    """
    live = await cluster.model(key)
    if live is None or live["metadata"].get("deletionTimestamp"):
        return Outcome(gone=True)
    model, refused = _accept(live)
    changes = _Changes()
    try:
        children = await cluster.of_model(key)
        pods = await cluster.pods_of_model(key)
        users = await cluster.users_of_model(key)
    except Forbidden as denied:
        seen = ModelObservation(_generation(live), refusal=refused, unread=str(denied))
        return await _report(cluster, key, live, seen, changes, now, error=str(denied))

    error: ClusterError | None = None
    found: tuple[Pull, ...] = ()
    if model is not None and refused is None:
        own = tuple(child for child in children if owned_by(child, model.metadata.uid))
        planned = model_plan(model, settings.plan, at_least=_size(own)).objects
        try:
            await _converge(cluster, model, planned, children, pulls(planned, own, pods), changes, now())
        except ClusterError as failure:
            error = failure
        if changes.applied or changes.deleted:
            children = await cluster.of_model(key)
        own = tuple(child for child in children if owned_by(child, model.metadata.uid))
        found = pulls(planned, own, pods)
    seen = ModelObservation(
        generation=_generation(live),
        pulls=found,
        pods=pods,
        claim=next((child for child in children if child["kind"] == CLAIM), None),
        users=len({user["metadata"]["labels"].get(names.LABEL_DEPLOYMENT) for user in users}),
        refusal=refused,
        error=str(error) if error is not None else None,
        error_is_final=error is not None and not error.retryable,
        residency=None if model is None else await _residency(cluster, model, pods),
    )
    outcome = await _report(cluster, key, live, seen, changes, now, error=seen.error)
    return replace(outcome, requeue_after_seconds=_next_look(seen, outcome, settings, now()))


@dataclass
class _Changes:
    """Filled while applying, so that a pass which fails half-way still tells what it did."""

    applied: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)


def _accept(live: Manifest) -> tuple[FlashModel | None, Refusal | None]:
    try:
        model = stored_model(live)
    except ValidationError as error:
        return None, Refusal(Reason.INVALID_SPEC, "; ".join(str(problem) for problem in describe(error, live)))
    return model, model_refusal(model.spec)


async def _converge(
    cluster: Cluster,
    model: FlashModel,
    planned: Sequence[Manifest],
    children: Sequence[Manifest],
    found: Sequence[Pull],
    changes: _Changes,
    now: datetime,
) -> None:
    live = {identity(child): child for child in children}
    due = next_up(found)
    for desired in planned:
        present = live.get(identity(desired))
        if desired["kind"] == "Job" and (
            desired["metadata"]["name"] != due if present is None else _ends(present, children)
        ):
            continue
        if present is None or not is_as_planned(present, desired):
            await cluster.apply(desired)
            changes.applied.append("/".join(identity(desired)))

    again = {pull.job for pull in found if pull.wait_seconds(now) == 0.0}
    uid = model.metadata.uid
    obsolete = [child for child in superfluous(children, planned, uid) if child["kind"] != CLAIM]
    for child in children:
        redone = child["kind"] == "Job" and (child["metadata"]["name"] in again or is_stale(child, children))
        if redone and owned_by(child, uid) and not child["metadata"].get("deletionTimestamp") and child not in obsolete:
            obsolete.append(child)
    for child in obsolete:
        await cluster.delete(child)
        changes.deleted.append("/".join(identity(child)))


def _ends(job: Manifest, children: Sequence[Manifest]) -> bool:
    """It is on its way out, or about to be: its successor of the same name comes when it is gone."""
    return bool(job["metadata"].get("deletionTimestamp")) or is_stale(job, children)


def _size(own: Sequence[Manifest]) -> str | None:
    """What the volume has been asked to hold so far."""
    claim = next((child for child in own if child["kind"] == CLAIM), None)
    requests = (((claim or {}).get("spec") or {}).get("resources") or {}).get("requests") or {}
    size = requests.get("storage")
    return str(size) if size is not None else None


async def _residency(cluster: Cluster, model: FlashModel, pods: Sequence[Manifest]) -> Finding | None:
    if model.spec.residency is None:
        return None
    try:
        regions = await cluster.node_regions()
    except Forbidden as denied:
        return residency_finding(
            model.spec.residency, Places(None, unknown=f"The operator may not see nodes: {denied}")
        )
    unknown = "This place has no nodes whose region could be read." if regions is None else ""
    # The volume stays where a pull has run, so those that have ended count too.
    return residency_finding(model.spec.residency, Places(regions, pods, unknown), ended_too=True)


def _next_look(seen: ModelObservation, outcome: Outcome, settings: ReconcileSettings, now: datetime) -> float | None:
    """Jobs wake the loop; this is for what sends no event: a pod without a node, the time to try again, users."""
    if seen.refusal is not None:
        return None
    ready = condition(outcome.status, ConditionType.READY) or {}
    waits = [seconds for pull in seen.pulls if (seconds := pull.wait_seconds(now)) is not None]
    look = READY_SECONDS if ready.get("status") == "True" else settings.ready_seconds
    if outcome.deleted:
        look = settings.waiting_seconds  # what takes the place of a Job comes when that is gone
    return min([look, *(max(seconds, settings.waiting_seconds) for seconds in waits)])


def _generation(live: Manifest) -> int:
    return int(live["metadata"].get("generation") or 0)


async def _report(
    cluster: Cluster,
    key: Key,
    live: Manifest,
    seen: ModelObservation,
    changes: _Changes,
    now: Callable[[], datetime],
    *,
    error: str | None,
) -> Outcome:
    previous, at = live.get("status") or {}, now()
    status = model_status(seen, previous, at)
    if status != previous:
        await cluster.write_model_status(key, status)
        for news in announcements(previous, status, uid=str(live["metadata"].get("uid", ""))):
            await cluster.announce(live, news, at)
    return Outcome(
        error=error,
        applied=tuple(changes.applied),
        deleted=tuple(changes.deleted),
        status_written=status != previous,
        status=status,
    )
