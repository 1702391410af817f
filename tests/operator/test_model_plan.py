"""What a FlashModel becomes: a volume, an account without rights, a way to its source, and a Job for each variant."""

from typing import Any

import pytest
from builders import a_deployment, a_model_manifest

from flash_api import names
from flash_api.quantities import number
from flash_api.v1alpha1.base import NAME_MAX
from flash_api.v1alpha1.flashmodel import FlashModel
from flash_operator.plan import PlanSettings, model_plan, plan
from flash_operator.plan.model_cache import cache_size
from flash_operator.plan.pull_job import deadline_seconds
from flash_operator.plan.startup import START_LEAST_SECONDS, START_MOST_SECONDS, start_seconds
from flash_operator.shared_model import SharedModel, shared_model

SETTINGS = PlanSettings()


def a_model(name: str = "olmoe", **spec: Any) -> FlashModel:
    manifest = a_model_manifest(name, **spec)
    manifest["metadata"]["uid"] = "uid-1"
    return FlashModel.model_validate(manifest)


def planned(model: FlashModel, settings: PlanSettings = SETTINGS, **known: Any) -> dict[str, Any]:
    return {f"{o['kind']}/{o['metadata']['name']}": o for o in model_plan(model, settings, **known).objects}


def the_job(model: FlashModel, settings: PlanSettings = SETTINGS) -> dict[str, Any]:
    (job,) = (found for found in model_plan(model, settings).objects if found["kind"] == "Job")
    return dict(job)


def pod_of(job: dict[str, Any]) -> dict[str, Any]:
    return dict(job["spec"]["template"]["spec"])


def test_there_is_one_job_for_each_variant_and_one_volume() -> None:
    found = planned(a_model(variants=["Lite", "Nano"]))
    assert [name.rpartition("-")[0] for name in found if name.startswith("Job/")] == [
        "Job/olmoe-pull-lite",
        "Job/olmoe-pull-nano",
    ]
    assert [name for name in found if not name.startswith("Job/")] == [
        "ServiceAccount/olmoe-pull",
        "NetworkPolicy/olmoe-pull",
        "PersistentVolumeClaim/olmoe-model",
    ]


def test_everything_belongs_to_the_model_and_is_found_by_its_label() -> None:
    for manifest in planned(a_model()).values():
        (owner,) = manifest["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["name"], owner["controller"]) == ("FlashModel", "olmoe", True)
        assert manifest["metadata"]["labels"][names.LABEL_MODEL] == "olmoe"
        assert names.LABEL_DEPLOYMENT not in manifest["metadata"]["labels"]


def test_one_variant_more_changes_no_job_of_another() -> None:
    before, after = planned(a_model()), planned(a_model(variants=["Lite", "Nano"]))
    assert before.items() <= after.items()


def test_another_image_is_another_job_and_a_larger_volume_is_not() -> None:
    name = the_job(a_model())["metadata"]["name"]
    assert the_job(a_model(), PlanSettings(engine_image="other"))["metadata"]["name"] != name
    larger = the_job(a_model(cache={"size": "100Gi"}))
    assert larger["metadata"]["name"] == name
    assert larger["spec"]["activeDeadlineSeconds"] > the_job(a_model())["spec"]["activeDeadlineSeconds"]


def test_a_pull_has_no_token_no_root_and_nowhere_to_write_but_its_volumes() -> None:
    pod = pod_of(the_job(a_model()))
    (pull,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert pull["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "readOnlyRootFilesystem": True,
    }
    assert pull["resources"] == {"requests": {"memory": "4Gi"}, "limits": {"memory": "4Gi"}}
    assert {mount["name"] for mount in pull["volumeMounts"]} == {"models", "tmp"}


def test_a_pull_that_can_never_succeed_ends_the_job_and_a_drained_node_does_not() -> None:
    spec = the_job(a_model())["spec"]
    fail, ignore = spec["podFailurePolicy"]["rules"]
    assert (fail["action"], fail["onExitCodes"]["values"]) == ("FailJob", [2, 3])
    assert (ignore["action"], ignore["onPodConditions"][0]["type"]) == ("Ignore", "DisruptionTarget")
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # which such rules ask for


def test_each_variant_has_a_folder_of_its_own_beside_the_shared_downloads() -> None:
    jobs = [o for o in model_plan(a_model(variants=["Lite", "Nano"]), SETTINGS).objects if o["kind"] == "Job"]
    arguments = [pod_of(dict(job))["containers"][0]["args"] for job in jobs]
    assert [args[args.index("--to") + 1] for args in arguments] == [f"{names.DIR_MODELS}/{v}" for v in ("Lite", "Nano")]
    caches = {pod_of(dict(job))["containers"][0]["env"][0]["value"] for job in jobs}
    assert caches == {f"{names.DIR_MODELS}/.cache"}


FIELDS: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"source": "hf://other/model"}, {}),
    ({"revision": "main"}, {}),
    ({"source": "https://e.com/m.gguf", "sha256": "ab" * 32}, {"source": "https://e.com/m.gguf"}),
    ({"credentialsSecretRef": {"name": "t", "key": "token"}}, {}),
    ({"variants": ["Cloud"]}, {}),
    ({"cache": {"size": "80Gi"}}, {}),
    ({"cache": {"storageClassName": "fast"}}, {}),
    ({"cache": {"accessMode": "ReadWriteMany"}}, {}),
    ({"residency": {"regions": ["eu"]}}, {}),
    ({"residency": {"regions": ["eu"], "mode": "Audit"}}, {"residency": {"regions": ["eu"]}}),
    ({"resources": {"memory": "8Gi"}}, {}),
    ({"resources": {"cpu": "2", "memory": "4Gi"}}, {}),
]


@pytest.mark.parametrize(("written", "unwritten"), FIELDS, ids=lambda spec: str(spec)[:40])
def test_every_field_changes_the_plan(written: dict[str, Any], unwritten: dict[str, Any]) -> None:
    assert planned(a_model(**written)) != planned(a_model(**unwritten))


def test_the_list_of_fields_is_whole() -> None:
    assert {field for spec, _ in FIELDS for field in spec} == {
        info.alias or name
        for name, info in FlashModel.model_fields["spec"].annotation.model_fields.items()  # type: ignore[union-attr]
    }


def test_residency_binds_the_pods_that_pull() -> None:
    affinity = pod_of(the_job(a_model(residency={"regions": ["eu"]})))["affinity"]["nodeAffinity"]
    (term,) = affinity["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    assert term["matchExpressions"][0]["values"] == ["eu"]


@pytest.mark.parametrize(("mode", "near"), [("ReadWriteOnce", True), ("ReadWriteMany", False)])
def test_pods_share_a_node_where_the_volume_can_be_on_one_only(mode: str, near: bool) -> None:
    model = a_model(cache={"accessMode": mode})
    user = plan(a_deployment(model={"modelRef": {"name": "olmoe"}}), SETTINGS, shared=shared_model(model)).objects
    pods = [pod_of(the_job(model)), *(o["spec"]["template"]["spec"] for o in user if o["kind"] == "Deployment")]
    assert [("podAffinity" in pod.get("affinity", {})) for pod in pods] == [near] * 3


def test_a_pull_may_go_to_its_source_and_nobody_may_come_to_it() -> None:
    remote = planned(a_model())["NetworkPolicy/olmoe-pull"]["spec"]
    assert remote["ingress"] == []
    assert [port["port"] for rule in remote["egress"] for port in rule["ports"]][-1] == 443
    assert planned(a_model(source="pvc://claim/x"))["NetworkPolicy/olmoe-pull"]["spec"]["egress"] == []


@pytest.mark.parametrize(
    ("spec", "size"),
    [({}, "64Gi"), ({"source": "builtin://x"}, "2Gi"), ({"cache": {"size": "20Gi"}}, "20Gi")],
)
def test_the_volume_has_the_size_that_is_written_or_the_documented_one(spec: dict[str, Any], size: str) -> None:
    assert cache_size(a_model(**spec)) == size
    description = FlashModel.model_fields["spec"].annotation.model_fields["cache"].annotation.model_fields["size"]  # type: ignore[union-attr]
    assert spec.get("cache") or size in str(description.description)


@pytest.mark.parametrize(("has", "becomes"), [(None, "20Gi"), ("10Gi", "20Gi"), ("64Gi", "64Gi"), ("20Gi", "20Gi")])
def test_a_volume_grows_and_never_shrinks(has: str | None, becomes: str) -> None:
    claim = planned(a_model(cache={"size": "20Gi"}), at_least=has)["PersistentVolumeClaim/olmoe-model"]
    assert claim["spec"]["resources"]["requests"]["storage"] == becomes


def test_the_longest_name_leaves_room_for_every_suffix() -> None:
    for manifest in model_plan(a_model("a" * NAME_MAX, variants=["Cloud", "Lite", "Nano"]), SETTINGS).objects:
        assert len(manifest["metadata"]["name"]) <= 63


def test_the_deadline_follows_the_size() -> None:
    gibibyte = int(number("1Gi"))
    assert deadline_seconds(0) == 1800
    assert deadline_seconds(64 * gibibyte) == 1800 + 64 * 256


@pytest.mark.parametrize(
    ("size", "seconds"),
    [
        (None, START_LEAST_SECONDS),
        (0, START_LEAST_SECONDS),
        (37 * 2**30, START_LEAST_SECONDS),
        (38 * 2**30, START_LEAST_SECONDS + 300),
        (200 * 2**30, 7200),
        (10**13, START_MOST_SECONDS),
    ],
)
def test_the_time_to_start_follows_the_size_between_bounds(size: int | None, seconds: int) -> None:
    assert start_seconds(size) == seconds


def test_the_startup_probe_of_a_large_model_waits_longer() -> None:
    user = a_deployment(model={"modelRef": {"name": "olmoe"}})
    probes = []
    for size in (None, 200 * 2**30):
        objects = plan(user, SETTINGS, shared=SharedModel("olmoe", size_bytes=size)).objects
        (engine,) = (o for o in objects if o["kind"] == "Deployment" and o["metadata"]["name"] == "chat-engine")
        probes.append(engine["spec"]["template"]["spec"]["containers"][0]["startupProbe"])
    assert [probe["failureThreshold"] * probe["periodSeconds"] for probe in probes] == [1800, 7200]


def test_pods_of_a_shared_model_mount_their_variant_and_pull_nothing() -> None:
    user = a_deployment(model={"modelRef": {"name": "olmoe"}}, variant="Nano")
    objects = plan(user, SETTINGS).objects
    for found in (o for o in objects if o["kind"] == "Deployment"):
        pod = found["spec"]["template"]["spec"]
        assert "initContainers" not in pod
        (mount,) = (m for m in pod["containers"][0]["volumeMounts"] if m["name"] == "models")
        assert (mount["subPath"], mount["readOnly"]) == ("Nano", True)
    policies = [o for o in objects if o["kind"] == "NetworkPolicy"]
    assert not any(port["port"] == 443 for p in policies for rule in p["spec"]["egress"] for port in rule["ports"])


def test_where_there_are_no_volumes_each_pod_pulls_what_the_model_names() -> None:
    model = a_model(revision="main", credentialsSecretRef={"name": "t", "key": "token"})
    user = a_deployment(model={"modelRef": {"name": "olmoe"}, "maxContextTokens": 512})
    direct = a_deployment(model={**a_model_manifest()["spec"], "revision": "main", "maxContextTokens": 512})
    direct = direct.model_copy(
        update={
            "spec": direct.spec.model_copy(
                update={
                    "model": direct.spec.model.model_copy(
                        update={"credentials_secret_ref": model.spec.credentials_secret_ref}
                    )
                }
            )
        }
    )
    assert plan(user, SETTINGS, shared=shared_model(model, by_pods=True)) == plan(direct, SETTINGS)
