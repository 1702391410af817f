"""Objects with the statuses that the operator writes: named situations, and every combination of what it can see."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from builders import a_child, a_manifest, a_model_manifest

from flash_api.conditions import Reason, Refusal
from flash_operator.model_status import ModelObservation, model_status
from flash_operator.observation import Observation, ProbeResult
from flash_operator.pulls import Pull, Stage
from flash_operator.status import status

Manifest = dict[str, Any]
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
GENERATION = 3
ANSWERS = ProbeResult(ok=True, message="")
SILENT = ProbeResult(ok=False, message="GET /readyz answered 503")
ROUTE = ("gateway.networking.k8s.io/v1", "HTTPRoute")
REFUSED = Refusal(Reason.FIELD_NOT_SERVED, "spec.x is not served by this release.")
FAILING = {"conditions": [{"type": "ReplicaFailure", "status": "True", "message": "engine exited with 3"}]}
STUCK = {"conditions": [{"type": "Progressing", "status": "False", "message": "has timed out progressing."}]}


def children(engine: Manifest | None = None, gateway: Manifest | None = None) -> tuple[Manifest, ...]:
    return (a_child("chat-engine", **(engine or {})), a_child("chat-gateway", **(gateway or {})))


def deployment(seen: Observation, previous: Manifest | None = None, **spec: Any) -> Manifest:
    """The FlashDeployment with the status that the operator gives it."""
    manifest = a_manifest("chat", **spec, status=status(seen, previous or {}, NOON))
    manifest["metadata"]["generation"] = GENERATION
    return manifest


def model(seen: ModelObservation) -> Manifest:
    """The FlashModel with the status that the operator gives it."""
    manifest = a_model_manifest("olmoe")
    manifest["metadata"]["generation"] = GENERATION
    return {**manifest, "status": model_status(seen, {}, NOON)}


def seen(kids: tuple[Manifest, ...] | None = None, **rest: Any) -> Observation:
    return Observation(name="chat", generation=GENERATION, children=children() if kids is None else kids, **rest)


ENGINES: tuple[Manifest | None, ...] = (
    None,
    {},
    {"ready": 0},
    {"desired": 0},
    {"desired": 0, "replicas": 1},
    {"desired": 2, "ready": 1},
    {"updatedReplicas": 0},
    {"observedGeneration": 0},
    {"ready": 0, **FAILING},
    {"ready": 0, **STUCK},
    {"desired": 2, "ready": 1, **STUCK},
)
GATEWAYS: tuple[Manifest | None, ...] = (
    None,
    {},
    {"ready": 0},
    {"desired": 0},
    {"updatedReplicas": 0},
    {"ready": 0, **STUCK},
)
BESIDES: tuple[dict[str, Any], ...] = (
    {},
    {"error": "quota"},
    {"error": "invalid", "error_is_final": True},
    {"refusal": REFUSED},
    {"unread": "deployments is forbidden"},
    {"missing_kinds": (ROUTE,)},
    {"paused": True},
    {"suspended": True},
    {"held": True},
    {"enough_engines": 1},
)


def every_deployment() -> Iterator[Manifest]:
    """Whatever the operator can see, in all combinations."""
    for engine, gateway, probe, rest in itertools.product(ENGINES, GATEWAYS, (None, ANSWERS, SILENT), BESIDES):
        kids = tuple(
            a_child(name, **changes)
            for name, changes in (("chat-engine", engine), ("chat-gateway", gateway))
            if changes is not None
        )
        yield deployment(seen(kids, probe=probe, **rest), suspend=bool(rest.get("suspended")))


def every_model() -> Iterator[Manifest]:
    """The same for models: two variants, each in every stage."""
    pulls = [
        tuple(
            Pull(variant, f"olmoe-pull-{variant}", stage) for variant, stage in zip(("Lite", "Nano"), two, strict=True)
        )
        for two in itertools.product(Stage, repeat=2)
    ]
    claims = (None, {"status": {"phase": "Pending"}}, {"status": {"phase": "Bound"}})
    besides: tuple[dict[str, Any], ...] = (
        {},
        {"refusal": REFUSED},
        {"unread": "jobs is forbidden"},
        {"error": "quota"},
        {"error": "invalid", "error_is_final": True},
    )
    for each, claim, rest in itertools.product(pulls, claims, besides):
        yield model(ModelObservation(GENERATION, each, claim=claim, **rest))
