"""What a draft adds to the plan: a line in the engine's configuration and, inside the engine, a second model."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import a_deployment

from flash_api import names
from flash_api.conditions import Reason
from flash_operator.checks import refusal
from flash_operator.plan import PlanSettings, plan

DIGEST = "ab" * 32
MODEL = {"source": "https://models.example.com/small.gguf", "sha256": DIGEST}


def planned(kind: str, **draft: Any) -> list[dict[str, Any]]:
    spec = {"draft": draft} if draft else {}
    return [each for each in plan(a_deployment(**spec), PlanSettings()).objects if each["kind"] == kind]


def engine_config(**draft: Any) -> dict[str, Any]:
    (text,) = [each["data"]["engine.json"] for each in planned("ConfigMap", **draft) if "engine.json" in each["data"]]
    found: dict[str, Any] = json.loads(text)
    return found


def pod(**draft: Any) -> dict[str, Any]:
    (found,) = [each for each in planned("Deployment", **draft) if each["metadata"]["name"].endswith("-engine")]
    spec: dict[str, Any] = found["spec"]["template"]["spec"]
    return spec


def test_prompt_lookup_is_a_line_in_the_engines_configuration_and_nothing_else() -> None:
    assert engine_config()["draft"] is None
    assert engine_config(mode="Off")["draft"] is None
    assert engine_config(mode="PromptLookup")["draft"] == {
        "mode": "PromptLookup",
        "lookahead": None,
        "model_dir": None,
        "endpoints": [],
        "rollout_revision": None,
    }
    assert engine_config(mode="PromptLookup", lookahead=3)["draft"]["lookahead"] == 3
    assert [each["name"] for each in pod(mode="PromptLookup")["initContainers"]] == [names.CONTAINER_PULL]


def test_a_draft_inside_the_engine_is_pulled_beside_the_model() -> None:
    draft = {"mode": "InProcess", "model": {**MODEL, "credentialsSecretRef": {"name": "hub", "key": "token"}}}
    assert engine_config(**draft)["draft"]["model_dir"] == names.DIR_DRAFT
    spec = pod(**draft)
    first, second = spec["initContainers"]
    assert (first["name"], second["name"]) == (names.CONTAINER_PULL, names.CONTAINER_PULL_DRAFT)
    assert second["args"] == [
        *("--source", MODEL["source"]),
        *("--variant", "Lite"),
        *("--sha256", DIGEST),
        *("--to", names.DIR_DRAFT),
    ]
    (secret,) = [volume for volume in spec["volumes"] if "secret" in volume]
    assert secret["secret"]["secretName"] == "hub"
    assert secret["name"] in [mount["name"] for mount in second["volumeMounts"]]
    assert secret["name"] not in [mount["name"] for mount in first["volumeMounts"]]
    assert second["securityContext"] == first["securityContext"]


def test_a_claim_with_the_draft_is_seen_by_its_pull_alone() -> None:
    spec = pod(mode="InProcess", model={"source": "pvc://drafts/small.gguf"})
    first, second = spec["initContainers"]
    (claim,) = [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert claim["persistentVolumeClaim"] == {"claimName": "drafts", "readOnly": True}
    assert claim["name"] in [mount["name"] for mount in second["volumeMounts"]]
    assert claim["name"] not in [mount["name"] for mount in first["volumeMounts"]]


def test_engines_may_reach_where_the_draft_comes_from() -> None:
    def egress(**draft: Any) -> list[Any]:
        policies = planned("NetworkPolicy", **draft)
        (found,) = [each for each in policies if each["metadata"]["name"].endswith("-engine")]
        rules: list[Any] = found["spec"]["egress"]
        return rules

    assert egress(mode="PromptLookup") == egress()
    ports = [port["port"] for rule in egress(mode="InProcess", model=MODEL) for port in rule["ports"]]
    assert 443 in ports


@pytest.mark.parametrize(
    ("draft", "reason", "says"),
    [
        (
            {"mode": "InProcess", "model": {"modelRef": {"name": "nano"}}},
            Reason.FIELD_NOT_SERVED,
            "spec.draft.model.modelRef is not served",
        ),
        (
            {"mode": "InProcess", "model": {"source": "http://models.example.com/a.gguf"}},
            Reason.SOURCE_NOT_SERVED,
            "spec.draft.model.sha256 must be set",
        ),
    ],
)
def test_what_is_not_served_of_a_draft_is_refused_with_what_to_write(
    draft: dict[str, Any], reason: Reason, says: str
) -> None:
    found = refusal(a_deployment(draft=draft).spec)
    assert found is not None
    assert found.reason is reason
    assert found.message.startswith(says)
