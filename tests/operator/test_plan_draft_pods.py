"""What draft pods add to the plan, which of them belong to which engines, and where they may run."""

from __future__ import annotations

import json
from typing import Any

import pytest
from builders import a_deployment

from flash_api import names
from flash_api.config.draft import DraftConfig
from flash_api.config.engine import EngineConfig
from flash_operator.plan import PlanSettings, plan

MODEL = {"source": "https://models.example.com/small.gguf", "sha256": "ab" * 32}
DRAFT = {"model": MODEL}


def objects(settings: PlanSettings = PlanSettings(), **spec: Any) -> dict[tuple[str, str], dict[str, Any]]:
    planned = plan(a_deployment(**{"draft": DRAFT, **spec}), settings).objects
    return {(o["kind"], o["metadata"]["name"]): dict(o) for o in planned}


def revision(**spec: Any) -> str:
    return str(objects(**spec)["Deployment", "chat-engine"]["metadata"]["labels"][names.LABEL_DRAFT_REVISION])


def drafts(kind: str = "Deployment", **spec: Any) -> dict[str, Any]:
    return objects(**spec)[kind, f"chat-draft-{revision(**spec)}"]


def pod(**spec: Any) -> dict[str, Any]:
    template: dict[str, Any] = drafts(**spec)["spec"]["template"]["spec"]
    return template


def config(file: str, **spec: Any) -> dict[str, Any]:
    texts = [o["data"][file] for (kind, _), o in objects(**spec).items() if kind == "ConfigMap" and file in o["data"]]
    (found,) = map(json.loads, texts)
    return dict(found)


def term(**spec: Any) -> dict[str, Any]:
    (found,) = pod(**spec)["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    return dict(found)


def test_engines_ask_the_drafts_of_their_own_revision_and_drafts_say_which_it_is() -> None:
    engine = EngineConfig.model_validate(config("engine.json")).draft
    draft = DraftConfig.model_validate(config("draft.json"))
    assert engine is not None
    assert engine.endpoints == (f"chat-draft-{revision()}.default.svc:8001",)
    assert engine.rollout_revision == draft.rollout_revision == revision()
    assert (draft.source, draft.sha256, draft.served_model_name) == (MODEL["source"], MODEL["sha256"], "chat")


@pytest.mark.parametrize(
    "changed",
    [
        {"engine": {"maxConcurrentRequests": 7}},
        {"model": {"source": "file:///other"}},
        {"variant": "Nano"},
        {"draft": {"model": {"source": "file:///draft"}}},
        {"draft": {**DRAFT, "lookahead": 3}},
    ],
)
def test_another_revision_of_engines_has_drafts_of_its_own(changed: dict[str, Any]) -> None:
    assert revision(**changed) != revision()


@pytest.mark.parametrize(
    "changed",
    [
        {"draft": {**DRAFT, "replicas": 3}},
        {"draft": {**DRAFT, "resources": {"memory": "1Gi"}}},
        {"draft": {**DRAFT, "placement": "SameZone"}},
        {"engine": {"replicas": 5}},
        {"gateway": {"replicas": 2}},
    ],
)
def test_what_concerns_the_drafts_alone_restarts_no_engine(changed: dict[str, Any]) -> None:
    assert revision(**changed) == revision()
    engines = [objects(**spec)["Deployment", "chat-engine"]["spec"]["template"] for spec in ({}, changed)]
    assert engines[0] == engines[1]


def test_another_engine_image_has_drafts_of_its_own() -> None:
    newer = objects(PlanSettings(engine_image="engine:2"))["Deployment", "chat-engine"]["metadata"]["labels"]
    assert newer[names.LABEL_DRAFT_REVISION] != revision()


@pytest.mark.parametrize("mode", ["Off", "PromptLookup", "InProcess"])
def test_without_draft_pods_nothing_is_called_after_one(mode: str) -> None:
    found = objects(draft={"mode": mode, **({} if mode == "PromptLookup" else DRAFT)})
    assert not [name for _, name in found if "draft" in name]
    assert names.LABEL_DRAFT_REVISION not in found["Deployment", "chat-engine"]["metadata"]["labels"]


def test_a_service_finds_the_drafts_of_its_revision_alone() -> None:
    service, deployment = drafts("Service"), drafts()
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == deployment["spec"]["selector"]["matchLabels"]
    assert service["spec"]["selector"][names.LABEL_DRAFT_REVISION] == revision()
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()


def test_drafts_are_as_many_as_engines_unless_the_spec_says_how_many() -> None:
    def wanted(**spec: Any) -> int:
        return int(drafts(**spec)["spec"]["replicas"])

    assert wanted(engine={"replicas": 3}) == 3
    assert wanted(engine={"replicas": 3}, draft={**DRAFT, "replicas": 1}) == 1
    assert wanted(engine={"replicas": 0}, draft={**DRAFT, "replicas": 1}) == 0
    assert wanted(suspend=True) == 0


def test_drafts_run_where_engines_of_their_revision_run_and_engines_wait_for_nobody() -> None:
    near = term()
    assert near["topologyKey"] == "kubernetes.io/hostname"
    engine = objects()["Deployment", "chat-engine"]["spec"]["template"]
    assert near["labelSelector"]["matchLabels"].items() <= engine["metadata"]["labels"].items()
    (which,) = near["labelSelector"]["matchExpressions"]
    assert engine["metadata"]["labels"][which["key"]] in which["values"]
    assert "podAffinity" not in engine["spec"].get("affinity", {})


@pytest.mark.parametrize(
    ("placement", "key"),
    [
        ("SameNode", "kubernetes.io/hostname"),
        ("SameZone", "topology.kubernetes.io/zone"),
        ("SameRegion", "topology.kubernetes.io/region"),
    ],
)
def test_the_placement_says_how_near(placement: str, key: str) -> None:
    assert term(draft={**DRAFT, "placement": placement})["topologyKey"] == key


def test_drafts_stay_in_the_regions_too() -> None:
    affinity = pod(residency={"regions": ["eu"]})["affinity"]
    assert affinity.keys() == {"nodeAffinity", "podAffinity"}


def test_an_even_spread_is_a_wish_of_drafts_since_engines_say_where_they_go() -> None:
    spread = [
        {"topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule"},
        {"topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "maxSkew": 2},
    ]
    found = pod(placement={"topologySpread": spread})["topologySpreadConstraints"]
    assert [(each["topologyKey"], each["whenUnsatisfiable"]) for each in found] == [("zone", "ScheduleAnyway")]


def test_a_draft_pod_is_restricted_probed_and_pulls_its_own_model() -> None:
    spec = pod(draft={**DRAFT, "resources": {"cpu": "2", "memory": "2Gi"}})
    (container,), (pull,) = spec["containers"], spec["initContainers"]
    assert container["command"] == ["flash-draft"]
    assert pull["args"][:2] == ["--source", MODEL["source"]]
    assert container["livenessProbe"]["exec"]["command"][-3:] == ["--draft", "--http-port", "8000"]
    assert container["readinessProbe"]["httpGet"] == container["startupProbe"]["httpGet"]
    assert container["resources"]["requests"] == container["resources"]["limits"] == {"cpu": "2", "memory": "2Gi"}
    assert container["securityContext"]["readOnlyRootFilesystem"]
    assert spec["securityContext"]["runAsNonRoot"]
    assert not spec["automountServiceAccountToken"]
    assert ("ServiceAccount", spec["serviceAccountName"]) in objects()
    assert drafts()["spec"]["strategy"]["rollingUpdate"] == {"maxUnavailable": 1, "maxSurge": 0}


def test_a_drafts_cache_leaves_room_for_its_weights() -> None:
    def cache(**more: Any) -> int:
        found = config("draft.json", draft={**DRAFT, **more}, engine={"kvCache": {"memory": "2Gi"}})
        return int(found["kv_cache_bytes"])

    assert cache() == 2 * 1024**3
    assert cache(resources={"memory": "1Gi"}) == 512 * 1024**2


def test_several_drafts_are_drained_one_by_one() -> None:
    assert objects(draft={**DRAFT, "replicas": 2})["PodDisruptionBudget", "chat-draft"]["spec"]["maxUnavailable"] == 1
    assert ("PodDisruptionBudget", "chat-draft") not in objects()


def test_a_draft_of_a_flashmodel_mounts_its_volume_and_pulls_nothing() -> None:
    spec = pod(draft={"model": {"modelRef": {"name": "nano"}}})
    assert "initContainers" not in spec
    (claim,) = [volume for volume in spec["volumes"] if "persistentVolumeClaim" in volume]
    assert claim["persistentVolumeClaim"] == {"claimName": "nano-model"}
    terms = spec["affinity"]["podAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    assert len(terms) == 2, "near its engines, and on the one node that has the volume"
    engine = objects(draft={"model": {"modelRef": {"name": "nano"}}})["Deployment", "chat-engine"]["spec"]["template"]
    assert not [volume for volume in engine["spec"]["volumes"] if "persistentVolumeClaim" in volume]


def test_gateways_read_from_engines_what_proposals_are_worth_wherever_they_come_from() -> None:
    assert config("gateway.json")["engine_metrics"] == "chat-engine.default.svc:8002"
    assert config("gateway.json", draft={"mode": "PromptLookup"})["engine_metrics"]
    assert "engine_metrics" not in config("gateway.json", draft={"mode": "Off"})
    ports = [port["name"] for port in objects()["Service", "chat-engine"]["spec"]["ports"]]
    assert ports == ["grpc", "metrics"]
