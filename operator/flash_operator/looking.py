"""The seeing half of a pass: what the cluster says before anything is done, and what came of it. Only reads."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from flash_api.conditions import Reason, Refusal
from flash_api.manifest import describe, stored_deployment
from flash_api.v1alpha1.flashdeployment import FlashDeployment, Visibility
from flash_operator.checks import DraftSharesTokenizer, refusal
from flash_operator.cluster.protocol import Cluster, ClusterError, Forbidden, Key, Manifest
from flash_operator.difference import owned_by
from flash_operator.doors import door
from flash_operator.model_use import draft_ref, draft_use, model_use
from flash_operator.observation import Observation
from flash_operator.plan import PlanSettings, optional_kinds
from flash_operator.plan.certificates import ends_tls
from flash_operator.plan.draft_plan import paired_revision
from flash_operator.plan.routes import Kind, asked_kinds
from flash_operator.probe import Probe
from flash_operator.residency import Finding, Places, residency_finding
from flash_operator.roles import may_probe
from flash_operator.shared_model import ModelUse

PROBE_PATH: Final = "/readyz"

NamesModels = Callable[[Key, Collection[str]], None]
"""Hears the names of the FlashModels that a deployment uses."""


@dataclass(frozen=True)
class Sight:
    """What a pass found before it did anything."""

    deployment: FlashDeployment | None
    """None = the spec cannot be read."""
    refused: Refusal | None
    use: ModelUse | None
    """The FlashModel that the spec names; None = it names none."""
    draft_use: ModelUse | None = None
    """The same of its draft pods."""
    children: tuple[Manifest, ...] = ()
    unread: Forbidden | None = None
    """Why the children could not be read; then nothing below is known either."""
    pods: tuple[Manifest, ...] = ()
    residency: Finding | None = None
    served: tuple[Kind, ...] = ()
    """Of the optional kinds that are wanted, those that the cluster knows."""

    @property
    def enough_engines(self) -> int | None:
        """Engine pods that suffice while autoscaling adds more; None = all that are wanted."""
        scaling = self.deployment.spec.engine.autoscaling if self.deployment is not None else None
        return scaling.min_replicas if scaling is not None else None


async def look(
    cluster: Cluster, key: Key, live: Manifest, settings: PlanSettings, names_models: NamesModels | None
) -> Sight:
    """Everything that is decided on. Raises ClusterError where something cannot be read now."""
    deployment, refused = _accept(live)
    use, drafts = await _model_uses(cluster, key, deployment, settings, names_models)
    refused = refused or next((found.refusal for found in (use, drafts) if found is not None and found.refusal), None)
    try:
        children = await cluster.owned(key)
    except Forbidden as denied:
        return Sight(deployment, refused, use, drafts, unread=denied)
    pods, pods_unread = await _pods(cluster, key)
    if deployment is not None and refused is None:
        refused = _tokenizers(deployment, settings, pods, use, drafts)
    return Sight(
        deployment,
        refused,
        use,
        drafts,
        children=children,
        pods=pods,
        residency=None if deployment is None else await _residency(cluster, deployment, pods, pods_unread),
        served=await _served(cluster, deployment),
    )


async def observe(
    cluster: Cluster,
    key: Key,
    live: Manifest,
    sight: Sight,
    children: tuple[Manifest, ...],
    *,
    error: ClusterError | None,
    probe: Probe,
    settings: PlanSettings,
) -> Observation:
    """What the status is made of: the `children` as they are now, and how the endpoint answers."""
    deployment = sight.deployment
    uid = live["metadata"].get("uid", "")
    own = tuple(child for child in children if owned_by(child, uid))
    url = probe_url(cluster, key, deployment, settings)
    asked = await probe(url) if url and may_probe(own, key.name) else None
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
    missing = tuple(kind for kind in asked_for if kind not in sight.served)
    return Observation(
        name=key.name,
        generation=int(live["metadata"].get("generation") or 0),
        children=own,
        probe=asked,
        refusal=sight.refused,
        error=str(error) if error is not None else None,
        error_is_final=error is not None and not error.retryable,
        endpoint=f"{way_in.url}/v1" if way_in.url else "",
        door=way_in,
        missing_kinds=missing,
        ignored_fields=ignored,
        suspended=deployment is not None and deployment.spec.suspend,
        paused=deployment is not None and deployment.spec.rollout is not None and deployment.spec.rollout.paused,
        residency=sight.residency,
        policy_enforced=settings.policy_enforced,
        enough_engines=sight.enough_engines,
        pods=sight.pods,
        model=sight.use,
        draft=deployment.spec.draft if deployment is not None else None,
        draft_model=sight.draft_use,
    )


def probe_url(cluster: Cluster, key: Key, deployment: FlashDeployment | None, settings: PlanSettings) -> str:
    """Where the operator asks the endpoint; empty where the spec cannot be read."""
    if deployment is None:
        return ""
    port, tls = deployment.spec.endpoint.port, ends_tls(deployment, settings)
    return f"{cluster.endpoint_url(key, port, tls=tls)}{PROBE_PATH}"


def _accept(live: Manifest) -> tuple[FlashDeployment | None, Refusal | None]:
    try:
        deployment = stored_deployment(live)
    except ValidationError as error:
        return None, Refusal(Reason.INVALID_SPEC, "; ".join(str(problem) for problem in describe(error, live)))
    return deployment, refusal(deployment.spec)


def _tokenizers(
    deployment: FlashDeployment,
    settings: PlanSettings,
    pods: tuple[Manifest, ...],
    use: ModelUse | None,
    drafts: ModelUse | None,
) -> Refusal | None:
    revision = paired_revision(
        deployment, settings, use.shared if use is not None else None, drafts.shared if drafts is not None else None
    )
    if not revision:
        return None
    said = (found.tokenizer if found is not None else "" for found in (use, drafts))
    of_model, of_draft = said
    return DraftSharesTokenizer(pods, revision, of_model=of_model, of_draft=of_draft)


async def _model_uses(
    cluster: Cluster,
    key: Key,
    deployment: FlashDeployment | None,
    settings: PlanSettings,
    names_models: NamesModels | None,
) -> tuple[ModelUse | None, ModelUse | None]:
    """The FlashModels of the model and of its draft."""
    ref = deployment.spec.model.model_ref if deployment is not None else None
    wanted = (ref.name if ref is not None else None, draft_ref(deployment) if deployment is not None else None)
    named = tuple(name for name in wanted if name is not None)
    if names_models is not None:
        names_models(key, named)
    if deployment is None or not named:
        return None, None
    live = {name: await cluster.model(Key(key.namespace, name)) for name in dict.fromkeys(named)}
    by_pods = cluster.pulls_by_pod()
    return (
        model_use(deployment, live.get(wanted[0] or ""), settings, by_pods=by_pods),
        draft_use(deployment, live.get(wanted[1] or ""), settings, by_pods=by_pods),
    )


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


async def _pods(cluster: Cluster, key: Key) -> tuple[tuple[Manifest, ...], Forbidden | None]:
    """Pods explain, and only residency counts on them: where they may not be read, the counts still hold."""
    try:
        return await cluster.pods(key), None
    except Forbidden as denied:
        return (), denied
