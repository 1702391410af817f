"""The acting half of a pass: apply what differs from the plan, delete what is left over, one object at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

from flash_api import names
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.cluster.protocol import Cluster, Manifest
from flash_operator.difference import identity, is_as_planned, revision, superfluous
from flash_operator.model_use import held_back
from flash_operator.plan import PlanSettings
from flash_operator.residency import Finding, may_be_stopped
from flash_operator.roles import role
from flash_operator.scaling_provider import Carrier, retired
from flash_operator.shared_model import ModelUse
from flash_operator.trial import Plans


@dataclass
class Changes:
    """Filled while applying, so that a pass which fails half-way still tells what it did."""

    applied: list[str] = field(default_factory=list)
    deleted: list[str] = field(default_factory=list)
    revision: str = ""
    """Of the plan, once all of it is applied."""
    held: bool = False
    """A part of the plan waits for the FlashModel."""


async def converge(
    cluster: Cluster,
    deployment: FlashDeployment,
    children: tuple[Manifest, ...],
    planned: tuple[Manifest, ...],
    settings: PlanSettings,
    changes: Changes,
    trial: Plans | None,
    use: ModelUse | None,
    draft_use: ModelUse | None = None,
    scaled: Carrier | None = None,
) -> None:
    """One step towards the plan. Raises ClusterError; what was done until then is in `changes`."""
    kept: frozenset[str] = frozenset()
    leaving = retired(children, planned, deployment.metadata.uid)
    if trial is not None:
        planned, kept = trial.carried_out(
            planned, children, deployment, settings, use.shared if use is not None else None
        )
        leaving += trial.leaving
    for manifest in leaving:
        await cluster.delete(manifest)
        changes.deleted.append("/".join(identity(manifest)))
    live = {identity(manifest): manifest for manifest in children}
    held = held_back(planned, children, use)
    changes.held = bool(held)
    # Nobody waits for draft pods, so what holds them back holds back nothing else.
    held_drafts = held_back(planned, children, draft_use, drafts=True)
    for desired in planned:
        if identity(desired) in held | held_drafts:
            continue
        present = live.get(identity(desired))
        if present is None or not is_as_planned(present, desired):
            follows = scaled is not None and identity(desired) == scaled.engines and desired["spec"]["replicas"]
            await (cluster.apply_scaled if follows else cluster.apply)(desired)
            changes.applied.append("/".join(identity(desired)))
    if held:
        return  # what runs may need what the plan no longer holds
    if not held_drafts:
        changes.revision = revision(planned)

    gone = {identity(manifest) for manifest in leaving}
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


async def stop_outside(cluster: Cluster, residency: Finding | None, changes: Changes) -> None:
    """The scheduler keeps new pods inside; this is for nodes that have become others since."""
    for pod in residency.outside if residency is not None and residency.enforced else ():
        if may_be_stopped(pod):
            await cluster.delete(pod)
            changes.deleted.append("/".join(identity(pod)))


def _rolled_out(live: tuple[Manifest, ...], name: str) -> bool:
    roles = [role(live, each(name)) for each in (names.engine_name, names.gateway_name, names.canary_name)]
    return all(role.rolled_out for role in roles[:2]) and (roles[2].rolled_out or not roles[2].exists)
