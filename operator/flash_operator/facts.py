"""The conditions of a FlashDeployment, each from what was observed. Pure.

They follow kstatus: `Ready` for people, `Reconciling` and `Stalled` (abnormal when true) for tools that wait, then one
positive condition per part; `Ready` repeats the first part that fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flash_api.conditions import EXPLANATIONS, ConditionType, Reason, Refusal
from flash_operator.drafts import Drafts, draft_ready, under_way
from flash_operator.observation import Fact, Manifest, Observation, Tristate
from flash_operator.residency import Finding
from flash_operator.roles import Role, cause
from flash_operator.trial_findings import trial_findings


def facts(seen: Observation, engines: Role, gateways: Role, drafts: Drafts = Drafts()) -> tuple[Fact, ...]:
    """All of them, in the order in which they are shown; the roles are those of the newest revision."""
    accepted = accepted_fact(seen.refusal)
    trial = trial_findings(seen.rollout, engines)
    engines_ready = _engines_ready(engines, seen)
    if trial.reason is not None and engines_ready.holds:
        engines_ready = Fact(ConditionType.ENGINES_READY, "True", trial.reason, trial.message)
    model_ready = _model_ready(engines, engines_ready, seen)
    endpoint_ready = _endpoint_ready(gateways, engines, seen)
    residency = _residency_compliant(seen.residency)
    # Not to know where something is breaks no promise: the scheduler keeps it.
    broken = tuple(fact for fact in residency if fact.status == "False" and seen.residency and seen.residency.enforced)
    parts = (accepted, *broken, model_ready, engines_ready, endpoint_ready)

    settled = not trial.under_way and engines.rolled_out and gateways.rolled_out and all(p.holds for p in parts)
    # Zero pods and a rollout that stands still are wishes fulfilled, not work under way, although nothing may answer.
    idle = not trial.under_way and (
        engines.exists and engines.desired == 0 and engines.rolled_out and (gateways.rolled_out or not seen.suspended)
    )
    drafting = under_way(seen.draft, drafts.pods)
    at_rest = (
        seen.error is None
        and not seen.held
        and not drafting
        and (settled or idle or trial.stands_still or _stands_still(seen, engines, gateways))
    )
    stalled = _stalled(seen, engines, gateways, (*broken, endpoint_ready), at_rest=at_rest)
    if trial.rolled_back and not stalled.holds:
        stalled = Fact(ConditionType.STALLED, "True", trial.rolled_back, trial.message)
    if stalled.holds or at_rest:
        reconciling = Fact(ConditionType.RECONCILING, "False", stalled.reason if stalled.holds else Reason.SETTLED)
    else:
        first = next((p for p in parts if not p.holds), None)
        former = "Draft pods start or stop." if drafting else "Pods of the former spec are being replaced."
        replaced = trial.message or former
        message = seen.error or (first.message if first else replaced)
        reason = Reason.APPLY_FAILED if seen.error else Reason.IN_PROGRESS
        reconciling = Fact(ConditionType.RECONCILING, "True", reason, message)
    ready = _ready(seen, parts)
    if trial.rolled_back and ready.holds:
        ready = Fact(ConditionType.READY, "True", trial.rolled_back, trial.message)
    details = (accepted, model_ready, engines_ready, *draft_ready(seen, drafts), endpoint_ready)
    return (ready, reconciling, stalled, *details, *residency, *_network_isolated(seen), *_scaling(seen))


def _scaling(seen: Observation) -> tuple[Fact, ...]:
    scaling, hindered = seen.scaling, seen.scaling_hindered
    if scaling is None:
        return ()
    if hindered is not None:
        holds: Tristate = "False" if hindered.is_certain else "Unknown"
        return (Fact(ConditionType.SCALING_ACTIVE, holds, hindered.reason, hindered.message),)
    reason = Reason(scaling.reason)
    follows = reason is not Reason.METRICS_MISSING
    return (Fact(ConditionType.SCALING_ACTIVE, "True" if follows else "False", reason, scaling.message),)


def _stands_still(seen: Observation, engines: Role, gateways: Role) -> bool:
    """A paused rollout has pods of the former revision, and every pod that it has left is ready."""
    both = (engines, gateways)
    behind = any(pods.exists and pods.updated < pods.desired for pods in both)
    return seen.paused and behind and all(pods.seen_by_controller and pods.ready == pods.existing for pods in both)


def _residency_compliant(found: Finding | None) -> tuple[Fact, ...]:
    if found is None:
        return ()
    return (Fact(ConditionType.RESIDENCY_COMPLIANT, found.holds, found.reason, found.message),)


def _network_isolated(seen: Observation) -> tuple[Fact, ...]:
    if seen.policy_enforced is None:
        return ()
    reason = Reason.POLICY_ENFORCED if seen.policy_enforced else Reason.POLICY_NOT_ENFORCED
    holds: Tristate = "True" if seen.policy_enforced else "False"
    return (Fact(ConditionType.NETWORK_ISOLATED, holds, reason, EXPLANATIONS[reason].cause),)


def _ready(seen: Observation, parts: tuple[Fact, ...]) -> Fact:
    # Old pods may serve well while a new spec is refused: Ready speaks of the spec as written, not of what is left.
    failing = next((p for p in parts if p.status == "False"), None) or next((p for p in parts if not p.holds), None)
    if failing is parts[0] and not failing.holds:
        return Fact(ConditionType.READY, "False", failing.reason, failing.message)
    if seen.error is not None:
        return Fact(ConditionType.READY, "False", Reason.APPLY_FAILED, seen.error)
    if failing is None:
        return Fact(ConditionType.READY, "True", Reason.SERVING, "A request through the endpoint was answered.")
    return Fact(ConditionType.READY, "False", failing.reason, failing.message)


_NEEDS_SOMEONE: Final = (
    Reason.REGION_UNAVAILABLE,
    Reason.OUTSIDE_REGION,
    Reason.KIND_NOT_SERVED,
    Reason.ROUTE_NOT_ACCEPTED,
)
"""Reasons that do not go away by themselves once every pod is as it should be. Before that, pods that wait may still
bring a node."""


def _stalled(seen: Observation, engines: Role, gateways: Role, failing: Sequence[Fact], *, at_rest: bool) -> Fact:
    """`failing` are the parts beside the pods."""
    if seen.refusal is not None:
        return Fact(ConditionType.STALLED, "True", seen.refusal.reason, seen.refusal.message)
    if seen.error is not None and seen.error_is_final:
        return Fact(ConditionType.STALLED, "True", Reason.APPLY_FAILED, seen.error)
    if seen.model is not None and seen.model.waits is Reason.VARIANT_NOT_PACKED:
        return Fact(ConditionType.STALLED, "True", Reason.VARIANT_NOT_PACKED, seen.model.message)
    if engines.stuck is not None:
        return Fact(ConditionType.STALLED, "True", Reason.ENGINES_STUCK, engines.stuck)
    if gateways.stuck is not None and engines.ready > 0:
        return Fact(ConditionType.STALLED, "True", Reason.GATEWAY_STUCK, gateways.stuck)
    lasting = next((fact for fact in failing if fact.reason in _NEEDS_SOMEONE), None)
    if lasting is not None and engines.rolled_out and gateways.rolled_out and seen.error is None:
        return Fact(ConditionType.STALLED, "True", lasting.reason, lasting.message)
    return Fact(ConditionType.STALLED, "False", Reason.SETTLED if at_rest else Reason.PROGRESSING)


def accepted_fact(refusal: Refusal | None) -> Fact:
    if refusal is not None:
        return Fact(ConditionType.ACCEPTED, "False", refusal.reason, refusal.message)
    return Fact(ConditionType.ACCEPTED, "True", Reason.SPEC_ACCEPTED)


def _engines_ready(engines: Role, seen: Observation) -> Fact:
    kind = ConditionType.ENGINES_READY
    if not engines.exists:
        refused = seen.refusal is not None
        return Fact(kind, "Unknown", Reason.NOT_APPLIED) if refused else Fact(kind, "False", Reason.ENGINES_MISSING)
    count = f"{engines.ready} of {engines.desired} engine pods are ready"
    if engines.desired == 0:
        if seen.suspended:
            return Fact(kind, "False", Reason.SUSPENDED, EXPLANATIONS[Reason.SUSPENDED].cause)
        return Fact(kind, "False", Reason.SCALED_TO_ZERO, EXPLANATIONS[Reason.SCALED_TO_ZERO].cause)
    if engines.failure is not None:
        return Fact(kind, "False", Reason.ENGINES_FAILING, f"{count}: {engines.failure}")
    if engines.stuck is not None:
        return Fact(kind, "False", Reason.ENGINES_STUCK, f"{count}: {engines.stuck}")
    if seen.paused and engines.updated < engines.desired:
        all_ready: Tristate = "True" if engines.ready >= engines.desired else "False"
        paused = f"{count}, {engines.updated} of them up to date; the rollout is paused."
        return Fact(kind, all_ready, Reason.ROLLOUT_PAUSED, paused)
    if engines.ready < engines.desired:
        suffices = seen.enough_engines is not None and engines.ready >= seen.enough_engines
        return Fact(kind, "True" if suffices else "False", Reason.ENGINES_STARTING, f"{count}{_waits(engines, seen)}")
    if not engines.rolled_out:
        # Enough pods answer, so this is no outage: the old ones serve until the new ones are up.
        return Fact(kind, "True", Reason.ENGINES_UPDATING, f"{engines.updated} of {engines.desired} are up to date.")
    return Fact(kind, "True", Reason.ALL_ENGINES_READY, f"{count}.")


def _model_ready(engines: Role, engines_ready: Fact, seen: Observation) -> Fact:
    kind = ConditionType.MODEL_READY
    if seen.model is not None and seen.model.waits is not None and seen.refusal is None:
        # It is pulled once more, for another release or other pods; what is on the volume stays until then.
        again = seen.model.waits is Reason.MODEL_NOT_CACHED and engines.ready > 0
        serves = again and any(seen.model.is_mounted_by(child) for child in seen.children)
        return Fact(kind, "True" if serves else "False", seen.model.waits, seen.model.message)
    if engines.ready > 0:
        return Fact(kind, "True", Reason.MODEL_LOADED)
    if engines_ready.reason in (
        Reason.NOT_APPLIED,
        Reason.SCALED_TO_ZERO,
        Reason.SUSPENDED,
        Reason.ENGINES_FAILING,
        Reason.ENGINES_STUCK,
    ):
        return Fact(kind, "Unknown", engines_ready.reason, engines_ready.message)
    return Fact(kind, "Unknown", Reason.MODEL_LOADING, "No engine pod has finished pulling and loading the model.")


def _endpoint_ready(gateways: Role, engines: Role, seen: Observation) -> Fact:
    kind = ConditionType.ENDPOINT_READY
    if not gateways.exists:
        refused = seen.refusal is not None
        return Fact(kind, "Unknown", Reason.NOT_APPLIED) if refused else Fact(kind, "False", Reason.GATEWAY_MISSING)
    count = f"{gateways.ready} of {gateways.desired} gateway pods are ready"
    if seen.missing_kinds:
        wanted = " and ".join(f"{kind} ({api_version})" for api_version, kind in seen.missing_kinds)
        return Fact(kind, "False", Reason.KIND_NOT_SERVED, f"The cluster does not know {wanted}.")
    if (refused_route := _refused_route(seen.children)) is not None:
        return Fact(kind, "False", Reason.ROUTE_NOT_ACCEPTED, refused_route)
    if seen.probe is not None and seen.probe.ok:
        if seen.door is not None and seen.door.unreached is not None:
            return Fact(kind, "False", Reason.LOAD_BALANCER_PENDING, seen.door.unreached)
        reason = Reason.ENDPOINT_ANSWERS if gateways.rolled_out else Reason.GATEWAY_UPDATING
        return Fact(kind, "True", reason, f"{count}.")
    if seen.suspended:
        return Fact(kind, "False", Reason.SUSPENDED, EXPLANATIONS[Reason.SUSPENDED].cause)
    if engines.ready == 0:
        return Fact(kind, "False", Reason.WAITING_FOR_ENGINES, "No engine pod is ready.")
    if seen.door is not None and seen.door.uncertified is not None:
        return Fact(kind, "False", Reason.CERTIFICATE_PENDING, seen.door.uncertified)
    if gateways.failure is not None:
        return Fact(kind, "False", Reason.GATEWAY_FAILING, f"{count}: {gateways.failure}")
    if gateways.stuck is not None:
        return Fact(kind, "False", Reason.GATEWAY_STUCK, f"{count}: {gateways.stuck}")
    if gateways.ready == 0:
        return Fact(kind, "False", Reason.GATEWAY_STARTING, f"{count}{_waits(gateways, seen)}")
    return Fact(kind, "False", Reason.ENDPOINT_SILENT, seen.probe.message if seen.probe else "Not asked yet.")


def _refused_route(children: Sequence[Manifest]) -> str | None:
    """Why a Gateway does not take our HTTPRoute; None while it says nothing against it."""
    routes = [child for child in children if child.get("kind") == "HTTPRoute"]
    parents = [parent for route in routes for parent in (route.get("status") or {}).get("parents") or ()]
    said = [condition for parent in parents for condition in parent.get("conditions") or ()]
    refused = (c for c in said if c.get("type") in ("Accepted", "ResolvedRefs") and c.get("status") == "False")
    return next((cause(condition) for condition in refused), None)


def _waits(pods: Role, seen: Observation) -> str:
    if pods.waits is None:
        return "."
    model = seen.model.shared if seen.model is not None else None
    if model is None or not model.read_write_once:
        return f": {pods.waits}"
    # The scheduler speaks of pod affinity; this is what it is there for.
    volume = f"the volume of FlashModel {model.name} is ReadWriteOnce, so all pods that use it share a node"
    return f": {pods.waits.rstrip('.')}; {volume}."
