"""When a deployment may mount the FlashModel that it names, and what waits until then."""

from typing import Any

import pytest
from builders import a_deployment, a_model_manifest

from flash_api.conditions import Reason
from flash_api.manifest import stored_model
from flash_operator.cluster.protocol import Key
from flash_operator.model_use import held_back, model_use
from flash_operator.model_users import ModelUsers
from flash_operator.plan import PlanSettings, plan
from flash_operator.plan.pull_job import pull_job

SETTINGS = PlanSettings()
REF = {"modelRef": {"name": "olmoe"}}


def a_stored_model(*packed: str, **spec: Any) -> dict[str, Any]:
    manifest = a_model_manifest(**{"variants": ["Lite", "Nano"], **spec})
    manifest["metadata"]["uid"] = "uid-m"
    model = stored_model(manifest)
    entries = [
        {"variant": v, "sizeBytes": 7, "job": pull_job(model, v, SETTINGS)["metadata"]["name"]}
        for v in model.spec.variants
        if v in packed
    ]
    return {**manifest, "status": {"name": "OLMoE", "digest": "sha256:aa", "variants": entries}}


def test_a_deployment_with_a_source_of_its_own_uses_no_model() -> None:
    assert model_use(a_deployment(), None, SETTINGS) is None


def test_a_packed_variant_may_be_mounted_and_its_facts_are_known() -> None:
    use = model_use(a_deployment(model=REF), a_stored_model("Lite"), SETTINGS)
    assert use is not None
    assert (use.waits, use.refusal, use.shared.size_bytes) == (None, None, 7)
    assert use.facts is not None
    assert (use.facts.name, use.facts.digest, use.facts.size_bytes) == ("OLMoE", "sha256:aa", 7)


GOING = {**a_model_manifest(), "metadata": {"name": "olmoe", "namespace": "default", "deletionTimestamp": "now"}}


@pytest.mark.parametrize(
    ("live", "variant", "waits", "says"),
    [
        (None, "Lite", Reason.MODEL_NOT_FOUND, "FlashModel olmoe is not in namespace default."),
        (GOING, "Lite", Reason.MODEL_NOT_FOUND, "is not in namespace"),
        (a_stored_model(), "Lite", Reason.MODEL_NOT_CACHED, "Lite of FlashModel olmoe is not packed yet."),
        (a_stored_model("Lite"), "Nano", Reason.MODEL_NOT_CACHED, "Nano of FlashModel olmoe is not packed yet."),
        (a_stored_model("Lite"), "Cloud", Reason.VARIANT_NOT_PACKED, "packs Lite, Nano, not Cloud."),
        ({**a_model_manifest(), "spec": {"source": 5}}, "Lite", Reason.MODEL_NOT_CACHED, "spec.source"),
    ],
)
def test_what_is_not_there_is_waited_for(live: Any, variant: str, waits: Reason, says: str) -> None:
    use = model_use(a_deployment(model=REF, variant=variant), live, SETTINGS)
    assert use is not None
    assert use.waits is waits
    assert says in use.message


def test_what_another_release_has_packed_is_waited_for() -> None:
    use = model_use(a_deployment(model=REF), a_stored_model("Lite"), PlanSettings(engine_image="newer"))
    assert use is not None
    assert use.waits is Reason.MODEL_NOT_CACHED


EU: dict[str, Any] = {"regions": ["eu-1", "eu-2"]}


@pytest.mark.parametrize(
    ("promised", "kept", "refused"),
    [
        (None, None, False),
        (None, EU, False),
        (EU, None, True),
        (EU, {"regions": ["us"]}, True),
        (EU, {"regions": ["eu-1", "us"]}, True),
        (EU, {"regions": ["eu-1"], "mode": "Audit"}, True),
        (EU, {"regions": ["eu-1"]}, False),
        (EU, {"regions": ["eu-2", "eu-1"]}, False),
        ({**EU, "mode": "Audit"}, None, False),
    ],
)
def test_a_promise_of_regions_holds_for_the_volume_too(promised: Any, kept: Any, refused: bool) -> None:
    residency = {"residency": promised} if promised else {}
    live = a_stored_model("Lite", **({"residency": kept} if kept else {}))
    use = model_use(a_deployment(model=REF, **residency), live, SETTINGS)
    assert use is not None
    assert (use.refusal is not None) is refused
    if use.refusal is not None:
        assert use.refusal.reason is Reason.MODEL_OUTSIDE_REGION
        assert "spec.model.modelRef.name (olmoe)" in use.refusal.message


def test_without_a_promise_of_its_own_a_deployment_stays_where_the_volume_is() -> None:
    use = model_use(a_deployment(model=REF), a_stored_model("Lite", residency=EU), SETTINGS)
    assert use is not None
    pods = [
        o["spec"]["template"]["spec"]
        for o in plan(a_deployment(model=REF), SETTINGS, shared=use.shared).objects
        if o["kind"] == "Deployment"
    ]
    assert ["nodeAffinity" in pod["affinity"] for pod in pods] == [True, True]


def test_pods_are_not_made_before_there_is_something_to_mount() -> None:
    deployment = a_deployment(model=REF)
    use = model_use(deployment, None, SETTINGS)
    objects = plan(deployment, SETTINGS, shared=use.shared if use else None).objects
    assert held_back(objects, [], use) == {("Deployment", "chat-engine"), ("Deployment", "chat-gateway")}


def test_pods_that_mount_it_already_are_scaled_and_not_replaced() -> None:
    deployment = a_deployment(model=REF)
    before = model_use(deployment, a_stored_model("Lite"), SETTINGS)
    live = plan(deployment, SETTINGS, shared=before.shared if before else None).objects
    gone = model_use(deployment, None, SETTINGS)
    more = a_deployment(model=REF, engine={"replicas": 5})
    objects = plan(more, SETTINGS, shared=gone.shared if gone else None).objects
    assert held_back(objects, live, gone) == frozenset()
    edited = a_deployment(model=REF, engine={"maxConcurrentRequests": 3})
    changed = plan(edited, SETTINGS, shared=gone.shared if gone else None).objects
    assert held_back(changed, live, gone) == {("Deployment", "chat-engine")}


def test_no_pods_need_no_model() -> None:
    deployment = a_deployment(model=REF, suspend=True)
    use = model_use(deployment, None, SETTINGS)
    assert held_back(plan(deployment, SETTINGS).objects, [], use) == frozenset()


def test_the_index_knows_who_names_a_model_now() -> None:
    users, chat, code = ModelUsers(), Key("a", "chat"), Key("a", "code")
    users.names_models(chat, ["olmoe"])
    users.names_models(code, ["olmoe", "nano"])
    assert users.of(Key("a", "olmoe")) == {chat, code}
    assert users.of(Key("b", "olmoe")) == set()
    assert users.models_of(code) == {Key("a", "olmoe"), Key("a", "nano")}
    users.names_models(chat, ["other"])
    users.names_models(code, ["nano"])
    assert users.of(Key("a", "olmoe")) == set()
    assert users.of(Key("a", "other")) == {chat}
    assert users.of(Key("a", "nano")) == {code}
    users.names_models(code, [])
    assert users.of(Key("a", "nano")) == set()
    assert users.models_of(code) == frozenset()
