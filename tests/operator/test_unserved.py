"""No field of the API is silently ignored: each changes the plan or is refused with what to do instead."""

import copy
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import yaml
from builders import a_deployment, a_manifest
from manifest_cases import EVERY_FIELD, VALID
from pydantic import ValidationError

from flash_api.conditions import Reason
from flash_api.crd import structural_schema
from flash_api.manifest import parse_manifests
from flash_api.rules import violations
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.checks import FACTS, refusal
from flash_operator.checks.unserved import UNSERVED
from flash_operator.plan import PlanSettings, optional_kinds, plan

NOT_PLANNED = {
    "engine.autoscaling.maxReplicas",
    "engine.autoscaling.scaleDownStabilizationSeconds",
    "engine.autoscaling.schedules",
    "engine.autoscaling.targets.ttftMilliseconds",
    "engine.autoscaling.targets.tpotMilliseconds",
    "engine.autoscaling.targets.queuedRequests",
    "rollout.canaryRequests",
    "rollout.canaryLatencyPercent",
}
"""How the number of pods follows the load, and when a revision has proved itself, is no part of the plan:
test_autoscale.py and test_canary_verdict.py show that each of these fields changes a decision."""

SERVED: dict[str, Any] = {
    "model": {"source": "builtin://smollm2-135m-instruct"},
}


def leaves(value: dict[str, Any], path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    for key, inner in value.items():
        if isinstance(inner, dict) and key not in ("nodeSelector", "podMonitorLabels"):
            yield from leaves(inner, (*path, key))
        else:
            yield (*path, key), inner


OTHERS: dict[str, Any] = {
    "engine": {"replicas": 3},
    "model": {"sha256": "ab" * 32},
}
"""What cannot stand in one manifest with the case of every field."""


WHOLE = ("draft", "endpoint", "residency", "rollout", "observability", "placement")
PARTS = ("engine.autoscaling", "gateway.auth", "model.credentialsSecretRef")


def with_field(path: tuple[str, ...], value: Any) -> dict[str, Any]:
    """The smallest spec with that field, together with those without which it would mean nothing."""
    spec = copy.deepcopy(SERVED)
    every = copy.deepcopy(EVERY_FIELD["spec"])
    if path[0] in WHOLE:
        spec[path[0]] = every[path[0]]
    elif ".".join(path[:2]) in PARTS:
        spec.setdefault(path[0], {})[path[1]] = every[path[0]][path[1]]
    else:
        node = spec
        for step in path[:-1]:
            node = node.setdefault(step, {})
        node[path[-1]] = value
    return spec


def without(spec: dict[str, Any], path: Sequence[str]) -> dict[str, Any]:
    pruned = copy.deepcopy(spec)
    node = pruned
    for step in path[:-1]:
        node = node.get(step, {})
    node.pop(path[-1], None)
    return pruned


def as_deployment(spec: dict[str, Any]) -> FlashDeployment | None:
    """The deployment, where the spec is one."""
    try:
        found = FlashDeployment.model_validate({**a_manifest(), "spec": spec})
    except ValidationError:
        return None
    return None if any(violations(found)) else found


def without_other_unserved(spec: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    """Without what would be refused for another field, as far as the rest means something on its own."""
    own = ".".join(path)
    for field in UNSERVED:
        if not own.startswith(field.path):
            pruned = without(spec, field.path.split("."))
            spec = spec if as_deployment(pruned) is None else pruned
    return spec


FIELDS = [*leaves(EVERY_FIELD["spec"]), *leaves(OTHERS)]


@pytest.mark.parametrize(("path", "value"), FIELDS, ids=[".".join(path) for path, _ in FIELDS])
def test_every_field_changes_the_plan_or_is_refused(path: tuple[str, ...], value: Any) -> None:
    spec = without_other_unserved(with_field(path, value), path)
    written = FlashDeployment.model_validate({**a_manifest(), "spec": spec})
    refused = refusal(written.spec)
    if refused is not None:
        assert "is not served by this release" in refused.message
        return
    unwritten = as_deployment(without(spec, path))
    # What cannot be left out, or says the default, makes no difference that could be seen.
    if unwritten is None or unwritten.model_dump() == written.model_dump() or ".".join(path) in NOT_PLANNED:
        return
    served = optional_kinds(written)
    planned = plan(written, PlanSettings(), served=served)
    assert planned != plan(unwritten, PlanSettings(), served=served), (
        f"spec.{'.'.join(path)} is accepted and has no effect"
    )


@pytest.mark.parametrize("field", UNSERVED, ids=lambda field: field.path)
def test_a_field_that_is_not_served_exists_and_is_refused(field: Any) -> None:
    node = structural_schema()["properties"]["spec"]
    for step in field.path.split("."):
        node = node["properties"][step]
    assert field.instead.endswith(".")
    for value in field.harmless:
        assert value in node.get("enum", (value,)), "a value that the field cannot have"
    specs = [found.spec for case in VALID.values() for found in parse_manifests(yaml.safe_dump(case)).deployments]
    said = [found.message for spec in specs for fact in FACTS if (found := fact(spec)) is not None]
    assert any(message.startswith(f"spec.{field.path} ") and field.instead in message for message in said)


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"suspend": False},
        {"draft": {"mode": "Off"}},
        {"rollout": {"strategy": "RollingUpdate"}},
        {"observability": {"metrics": {"podMonitor": "Off"}}},
    ],
)
def test_what_asks_for_nothing_else_than_what_happens_is_accepted(spec: dict[str, Any]) -> None:
    assert refusal(a_deployment(**spec).spec) is None


def test_the_refusal_names_field_value_and_remedy() -> None:
    scaled = {"maxReplicas": 3, "scaleToZeroAfterSeconds": 600}
    found = refusal(a_deployment(engine={"autoscaling": scaled}).spec)
    assert found is not None
    assert found.reason is Reason.FIELD_NOT_SERVED
    start = "spec.engine.autoscaling.scaleToZeroAfterSeconds (600) is not served by this release. Remove it"
    assert found.message.startswith(start)
