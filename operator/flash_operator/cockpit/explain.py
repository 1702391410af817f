"""Why a FlashDeployment is as it is, in sentences: from its spec, its status, its plan and its pods. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from flash_api import names
from flash_api.conditions import EXPLANATIONS, ConditionType, Reason
from flash_operator.cockpit.explain_draft import explain_draft
from flash_operator.cockpit.facts import Served

Manifest = Mapping[str, Any]

DETAILS: Final = (
    ConditionType.ACCEPTED,
    ConditionType.MODEL_READY,
    ConditionType.ENGINES_READY,
    ConditionType.ENDPOINT_READY,
    ConditionType.RESIDENCY_COMPLIANT,
    ConditionType.SCALING_ACTIVE,
)
_WHO: Final = {
    "Private": "pods of its own namespace",
    "Cluster": "pods of the whole cluster",
    "Public": "clients outside the cluster",
}


@dataclass(frozen=True)
class Sentence:
    """One thing and why it is so."""

    topic: str
    text: str


def explain(served: Served, planned: Sequence[Manifest] = ()) -> tuple[Sentence, ...]:
    """Sentences about state, number of pods, rollout, route and nodes. `planned` = what the operator makes of the
    spec; empty where the spec is refused."""
    topics = (
        ("State", _state(served)),
        ("Blocks Ready", _blocks(served)),
        ("Model", _model(served)),
        ("Engine pods", _engines(served)),
        ("Gateway pods", _gateways(served)),
        ("Draft", explain_draft(served)),
        ("Rollout", _rollout(served)),
        ("Route", _route(served)),
        ("Nodes", _nodes(served, planned)),
        ("Start", _start(served)),
        ("Last failure", _last_failure(served)),
    )
    return tuple(Sentence(topic, text) for topic, texts in topics for text in texts)


def _state(served: Served) -> Iterator[str]:
    ready = served.condition(ConditionType.READY)
    generation = served.manifest["metadata"].get("generation", 0)
    if not ready:
        yield "Nothing is known: no operator has written a status. Is one running? flash doctor"
        return
    cause = _cause(ready)
    yield f"Ready is {ready['status']} since {ready.get('lastTransitionTime', '?')}, {ready.get('reason')}: {cause}"
    if served.status.get("observedGeneration", 0) < generation:
        seen = served.status.get("observedGeneration", 0)
        yield f"This is about generation {seen} of the spec; generation {generation} has not been looked at yet."
    stalled = served.condition(ConditionType.STALLED)
    if stalled.get("status") == "True":
        yield f"It is stalled: nothing moves until someone acts. {_remedy(stalled)}".rstrip()


def _blocks(served: Served) -> Iterator[str]:
    ready = served.condition(ConditionType.READY)
    if not ready or ready["status"] == "True":
        return
    failing = [c for kind in DETAILS if (c := served.condition(kind)) and c["status"] != "True"]
    # What is False is a cause; what is not known follows from one.
    for condition in [c for c in failing if c["status"] == "False"] or failing:
        text = f"{condition['type']} is {condition['status']} ({condition.get('reason')}): {_cause(condition)}"
        yield f"{text} {_remedy(condition)}".rstrip()
    if not failing:
        yield f"{_cause(ready)} {_remedy(ready)}".rstrip()


def _model(served: Served) -> Iterator[str]:
    yield from _shared_model(served)
    yield from served.pulling


def _shared_model(served: Served) -> Iterator[str]:
    ref = (served.spec.get("model") or {}).get("modelRef")
    if ref is None:
        return
    yield f"FlashModel {ref['name']} brings the weights, which other deployments may share."
    ready = served.condition(ConditionType.MODEL_READY)
    if ready and ready.get("status") != "True" and ready.get("reason") not in (None, Reason.MODEL_LOADING):
        yield f"{_cause(ready)} No pod is started on it until then: pods would mount what is not there."


def _engines(served: Served) -> Iterator[str]:
    counts = served.status.get("engine") or {}
    desired = counts.get("desired", 0)
    spec = served.spec.get("engine") or {}
    autoscaling, scaling = spec.get("autoscaling"), served.status.get("scaling") or {}
    if served.spec.get("suspend"):
        why = "spec.suspend is true"
    elif autoscaling:
        bounds = f"between {autoscaling.get('minReplicas', 1)} and {autoscaling.get('maxReplicas')}"
        decided = f"{scaling['reason']}: {scaling.get('message', '')}".rstrip(": ") if scaling.get("reason") else ""
        why = f"autoscaling decides {bounds}{f' ({decided})' if decided else ', and has not decided yet'}"
        if scaling.get("schedule"):
            why += f"; the schedule {scaling['schedule']} holds now"
    elif "replicas" in spec:
        why = f"spec.engine.replicas is {spec['replicas']}"
    else:
        why = "spec.engine.replicas is not set, which means 1"
    yield f"{_count(desired, 'is', 'are')} wanted, because {why}."
    yield from _counts(counts)
    for event in (scaling.get("history") or ())[:3]:
        change = f"from {event['fromReplicas']} to {event['toReplicas']}"
        yield f"{event['time']}: {change} ({event['reason']}) {event.get('message', '')}".rstrip()


def _gateways(served: Served) -> Iterator[str]:
    counts = served.status.get("gateway") or {}
    wanted = (served.spec.get("gateway") or {}).get("replicas")
    why = f"spec.gateway.replicas is {wanted}" if wanted is not None else "spec.gateway.replicas is not set"
    if served.spec.get("suspend"):
        why = "spec.suspend is true"
    yield f"{_count(counts.get('desired', 0), 'is', 'are')} wanted, because {why}."
    yield from _counts(counts)


def _counts(counts: Manifest) -> Iterator[str]:
    exist, ready, updated = (counts.get(key, 0) for key in ("replicas", "ready", "updated"))
    if exist:
        newest = "all of the newest revision" if updated == exist else f"{updated} of the newest revision"
        yield f"{_count(exist, 'exists', 'exist')}: {ready} ready, {newest}."
    if exist > counts.get("desired", 0) and updated < exist:
        yield "One more than wanted exists for now, because a new pod must be ready before an old one goes."


def _rollout(served: Served) -> Iterator[str]:
    rollout = served.status.get("rollout") or {}
    counts = served.status.get("engine") or {}
    paused = (served.spec.get("rollout") or {}).get("paused")
    if paused:
        yield "It stands still, because spec.rollout.paused is true."
    if rollout.get("revision"):
        before = f", replacing {rollout['previousRevision']}" if rollout.get("previousRevision") else ""
        step = f": {rollout['step']}" if rollout.get("step") else ""
        yield f"Revision {rollout['revision']}{before}{step}."
        if rollout.get("step") and rollout.get("canaryPercent"):
            yield f"{rollout['canaryPercent']} % of the conversations are for it while it is on trial."
        yield from map(_trial, (rollout.get("history") or ())[:3])
    if counts.get("updated", 0) < counts.get("desired", 0):
        yield f"{counts.get('updated', 0)} of {counts['desired']} engine pods are of the newest revision."
    elif served.status.get("appliedRevision"):
        yield f"Plan {served.status['appliedRevision']} is applied as a whole."


def _trial(event: Manifest) -> str:
    when = f"{event['startTime']} to {event['endTime']}" if event.get("endTime") else f"since {event['startTime']}"
    why = f" ({event['reason']})" if event.get("reason") else ""
    return f"{when}: revision {event['revision']} {event['result']}{why} {event.get('message', '')}".rstrip()


def _route(served: Served) -> Iterator[str]:
    endpoint = served.spec.get("endpoint") or {}
    visibility = str(endpoint.get("visibility", "Private"))
    url = served.status.get("endpoint")
    who = _WHO.get(visibility, "clients")
    if spaces := endpoint.get("allowedNamespaces"):
        who += (
            f" and of {', '.join(map(str, spaces))}" if visibility == "Private" else f" ({', '.join(map(str, spaces))})"
        )
    if url:
        yield f"Clients use {url}, model {served.name}."
    yield f"spec.endpoint.visibility is {visibility}: it is meant for {who}."
    if endpoint.get("hostname"):
        yield f"Its name outside is {endpoint['hostname']}."
    keys = ((served.spec.get("gateway") or {}).get("auth") or {}).get("apiKeysSecretRef")
    yield f"Keys are those of Secret {keys['name']}." if keys else "It asks for no API key."
    asked = "A request goes from the Service to a ready gateway pod, and from there to a ready engine pod"
    yield f"{asked}; what still runs on a pod that is going is finished there."
    for field in served.status.get("ignoredFields") or ():
        yield f"Not in force here: {field}."


def _nodes(served: Served, planned: Sequence[Manifest]) -> Iterator[str]:
    residency = served.spec.get("residency")
    if residency:
        mode = residency.get("mode", "Enforce")
        yield f"spec.residency allows {', '.join(residency['regions'])} only ({mode})."
    engine = next((o for o in planned if o["kind"] == "Deployment" and _component(o) == names.COMPONENT_ENGINE), None)
    pod = engine["spec"]["template"]["spec"] if engine is not None else {}
    rules = [f"{key} is {value}" for key, value in sorted((pod.get("nodeSelector") or {}).items())]
    rules += _required(pod.get("affinity") or {})
    if rules:
        yield f"Engine pods run on nodes where {'; '.join(dict.fromkeys(rules))}."
    elif engine is not None and not residency:
        yield "Engine pods run on any node that has room: the spec names neither placement nor residency."
    if tolerated := [str(t.get("key", "every taint")) for t in pod.get("tolerations") or ()]:
        yield f"They tolerate {', '.join(tolerated)}."
    for each in sorted(served.pods, key=lambda found: str(found["metadata"]["name"])):
        node = (each.get("spec") or {}).get("nodeName")
        where = f"is on node {node}" if node else "has no node"
        yield f"Pod {each['metadata']['name']} {where}{_unscheduled(each)}."


def _required(affinity: Manifest) -> list[str]:
    node = (affinity.get("nodeAffinity") or {}).get("requiredDuringSchedulingIgnoredDuringExecution") or {}
    words = {"In": "is one of", "NotIn": "is none of", "Exists": "is set", "DoesNotExist": "is not set"}
    return [
        f"{rule['key']} {words.get(rule['operator'], rule['operator'])} {', '.join(rule.get('values') or ())}".rstrip()
        for term in node.get("nodeSelectorTerms") or ()
        for rule in term.get("matchExpressions") or ()
    ]


def _unscheduled(pod: Manifest) -> str:
    conditions = {c.get("type"): c for c in (pod.get("status") or {}).get("conditions") or ()}
    scheduled = conditions.get("PodScheduled", {})
    return f": {scheduled.get('message', '').rstrip('.')}" if scheduled.get("status") == "False" else ""


def _start(served: Served) -> Iterator[str]:
    start = served.status.get("coldStart")
    if not start or "totalMilliseconds" not in start:
        return
    phases = (
        ("scheduled", "to a node"),
        ("image", "for images"),
        ("model", "to fetch and pack the model"),
        ("load", "to load it and warm up"),
        ("warmup", "to the first answer"),
    )
    parts = [
        f"{start[f'{key}Milliseconds'] / 1000:g} s {what}" for key, what in phases if f"{key}Milliseconds" in start
    ]
    yield f"Pod {start.get('pod', '')} took {start['totalMilliseconds'] / 1000:g} s to be ready: {', '.join(parts)}."


def _last_failure(served: Served) -> Iterator[str]:
    failure = served.status.get("lastFailure")
    if not failure:
        return
    code = failure.get("exitCode")
    how = f"ended with code {code}" if code is not None else "cannot start"
    reason = f" ({failure['reason']})" if failure.get("reason") else ""
    when = f" at {failure['time']}" if failure.get("time") else ""
    message = f": {failure['message']}" if failure.get("message") else "."
    yield f"Container {failure['container']} of pod {failure['pod']} {how}{reason}{when}{message}"


def _cause(condition: Manifest) -> str:
    found = condition.get("message") or getattr(_explanation(condition), "cause", "") or condition.get("reason", "")
    return f"{found}" if str(found).endswith((".", "!", "?")) else f"{found}."


def _remedy(condition: Manifest) -> str:
    remedy = getattr(_explanation(condition), "remedy", "")
    return "" if remedy in ("", "Nothing to do.") or remedy in condition.get("message", "") else remedy


def _explanation(condition: Manifest) -> Any:
    reason = condition.get("reason")
    return EXPLANATIONS.get(Reason(reason)) if reason in set(Reason) else None


def _component(manifest: Manifest) -> str:
    return str((manifest["metadata"].get("labels") or {}).get(names.LABEL_COMPONENT, ""))


def _count(number: int, one: str, many: str) -> str:
    return f"{number} {one if number == 1 else many}"
