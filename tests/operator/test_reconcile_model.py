"""Trajectories of a FlashModel's loop on a cluster in a dict, with the Job controller and the kubelet played."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from builders import a_manifest, a_model_manifest

from flash_api import names
from flash_api.conditions import EXPLANATIONS, REASONS, ConditionType, Reason
from flash_api.v1alpha1.status import LastFailure
from flash_operator.cluster.memory import MemoryCluster
from flash_operator.cluster.protocol import ClusterError, Forbidden, Key, Manifest
from flash_operator.observation import ProbeResult
from flash_operator.plan import PlanSettings
from flash_operator.pulls import RETRY_SECONDS, failure_reason
from flash_operator.reconcile import Outcome, ReconcileSettings, reconcile
from flash_operator.reconcile_model import reconcile_model

KEY = Key("default", "olmoe")
NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
SETTINGS = ReconcileSettings()
WORDS = {
    "name": "OLMoE",
    "sizeBytes": 100,
    "digest": "sha256:source",
    "packedDigest": "sha256:packed",
    "tokenizer": "ab",
}


def a_cluster(**spec: Any) -> MemoryCluster:
    cluster = MemoryCluster()
    cluster.create(a_model_manifest(**spec))
    return cluster


async def run(cluster: Any, *, now: datetime = NOON, settings: ReconcileSettings = SETTINGS) -> Outcome:
    return await reconcile_model(cluster, KEY, now=lambda: now, settings=settings)


def jobs(cluster: MemoryCluster) -> list[str]:
    return sorted(name.partition("/")[2] for name in cluster.contents() if name.startswith("Job/"))


def ends(cluster: MemoryCluster, job: str, *, code: int = 0, message: str = "", last: bool = True) -> None:
    """A pod of the Job ends; a failure is its `last` when the Job gives up with it."""
    at = "2026-01-01T12:00:00Z"
    said = message if code else json.dumps(WORDS)
    ended = {"exitCode": code, "reason": "Error" if code else "Completed", "message": said, "finishedAt": at}
    labels = {names.LABEL_MODEL: "olmoe", names.LABEL_COMPONENT: "pull", "batch.kubernetes.io/job-name": job}
    cluster.create(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": f"{job}-{len(cluster.contents())}", "namespace": "default", "labels": labels},
            "status": {"containerStatuses": [{"name": "pull", "state": {"terminated": ended}}]},
        }
    )

    def told(manifest: dict[str, Any]) -> None:
        kind = "Failed" if code else "Complete"
        manifest["status"] = {"conditions": [{"type": kind, "status": "True", "lastTransitionTime": at}]}

    if last:
        cluster.edit("Job", Key("default", job), told)


def condition(outcome: Outcome, kind: str = "Ready") -> tuple[str, str]:
    return next((c["status"], c["reason"]) for c in outcome.status["conditions"] if c["type"] == kind)


async def packed(cluster: MemoryCluster) -> Outcome:
    """Every Job succeeds, one after the other."""
    outcome = await run(cluster)
    for _ in range(10):
        open_ = [job for job in jobs(cluster) if "status" not in (cluster.get("Job", Key("default", job)) or {})]
        if not open_:
            break
        ends(cluster, open_[0])
        outcome = await run(cluster)
    return await run(cluster) if outcome.writes else outcome


async def test_a_model_is_downloaded_packed_and_then_ready() -> None:
    cluster = a_cluster()
    first = await run(cluster)
    assert first.applied[0] == "ServiceAccount/olmoe-pull"
    assert (condition(first), first.status["progress"]) == (("False", "Downloading"), "0/1")
    ends(cluster, jobs(cluster)[0])
    second = await run(cluster)
    assert condition(second) == ("True", "ModelPacked")
    assert second.status["tokenizer"] == "ab"
    assert (second.status["name"], second.status["digest"], second.status["sizeBytes"]) == (
        "OLMoE",
        "sha256:source",
        100,
    )
    (entry,) = second.status["variants"]
    assert (entry["variant"], entry["digest"], entry["job"]) == ("Lite", "sha256:packed", jobs(cluster)[0])


async def test_an_idle_model_is_never_written() -> None:
    cluster = a_cluster()
    await packed(cluster)
    cluster.writes.clear()
    for _ in range(4):
        assert (await run(cluster)).writes == 0
    assert cluster.writes == []


async def test_variants_are_packed_one_after_the_other() -> None:
    cluster = a_cluster(variants=["Nano", "Lite"])
    await run(cluster)
    assert [job.split("-")[2] for job in jobs(cluster)] == ["nano"]
    ends(cluster, jobs(cluster)[0])
    outcome = await run(cluster)
    assert [job.split("-")[2] for job in jobs(cluster)] == ["lite", "nano"]
    assert condition(outcome) == ("False", "Packing")
    assert condition(outcome, "Downloaded") == ("True", "Verified")
    assert outcome.status["progress"] == "1/2"


async def test_a_variant_that_is_not_wanted_any_more_loses_its_job() -> None:
    cluster = a_cluster(variants=["Lite", "Nano"])
    await packed(cluster)
    cluster.edit(names.MODEL_KIND, KEY, lambda live: live["spec"].update(variants=["Nano"]))
    outcome = await run(cluster)
    assert [job.split("-")[2] for job in jobs(cluster)] == ["nano"]
    assert condition(outcome) == ("True", "ModelPacked")
    assert [entry["variant"] for entry in outcome.status["variants"]] == ["Nano"]


async def test_what_a_pull_has_said_is_kept_when_its_pod_is_gone() -> None:
    cluster = a_cluster()
    before = await packed(cluster)
    for name in [name for name in cluster.contents() if name.startswith("Pod/")]:
        cluster.remove("Pod", Key("default", name.partition("/")[2]))
    after = await run(cluster)
    assert after.status == before.status
    assert after.writes == 0


async def test_another_release_packs_anew_and_says_so() -> None:
    cluster = a_cluster()
    await packed(cluster)
    former = jobs(cluster)
    outcome = await run(cluster, settings=ReconcileSettings(plan=PlanSettings(engine_image="newer")))
    assert condition(outcome) == ("False", "Downloading")
    assert "variants" not in outcome.status or outcome.status["variants"] == []
    assert jobs(cluster) != former
    assert len(jobs(cluster)) == 1


async def test_a_failing_pull_says_why_while_it_is_tried_again() -> None:
    cluster = a_cluster()
    await run(cluster)
    ends(cluster, jobs(cluster)[0], code=4, message="flash-pull: error: source x: refuses the token", last=False)
    outcome = await run(cluster)
    assert condition(outcome) == ("False", "CredentialsRefused")
    assert condition(outcome, "Reconciling")[0] == "True"
    assert outcome.status["lastFailure"]["exitCode"] == 4
    assert "it is tried again" in outcome.status["conditions"][0]["message"]
    ends(cluster, jobs(cluster)[0])
    mended = await run(cluster)
    assert condition(mended) == ("True", "ModelPacked")
    assert "lastFailure" not in mended.status


async def test_a_job_that_gave_up_is_made_anew_after_a_while() -> None:
    cluster = a_cluster()
    await run(cluster)
    ends(cluster, jobs(cluster)[0], code=137)
    first = cluster.get("Job", Key("default", jobs(cluster)[0]))
    soon = await run(cluster, now=NOON + timedelta(seconds=60))
    assert condition(soon) == ("False", "PullFailed")
    assert soon.deleted == ()
    assert soon.requeue_after_seconds is not None
    assert soon.requeue_after_seconds <= RETRY_SECONDS
    late = await run(cluster, now=NOON + timedelta(seconds=RETRY_SECONDS))
    assert late.deleted == (f"Job/{first['metadata']['name'] if first else ''}",)
    again = await run(cluster, now=NOON + timedelta(seconds=RETRY_SECONDS))
    assert again.applied == late.deleted


async def test_a_pull_that_can_never_succeed_stalls_and_others_go_on() -> None:
    cluster = a_cluster(variants=["Nano", "Lite"])
    await run(cluster)
    ends(cluster, jobs(cluster)[0], code=2, message="flash-pull: error: head int3")
    on = await run(cluster)
    assert [job.split("-")[2] for job in jobs(cluster)] == ["lite", "nano"]
    assert condition(on, "Stalled")[0] == "False"
    ends(cluster, jobs(cluster)[0])
    end = await run(cluster, now=NOON + timedelta(days=1))
    assert condition(end) == condition(end, "Packed") == ("False", "ModelNotSupported")
    assert condition(end, "Stalled") == ("True", "ModelNotSupported")
    assert (end.deleted, [entry["variant"] for entry in end.status["variants"]]) == ((), ["Lite"])


async def test_a_refused_source_makes_nothing() -> None:
    cluster = a_cluster(source="http://host/m.gguf")
    outcome = await run(cluster)
    assert condition(outcome) == ("False", "SourceNotServed")
    assert condition(outcome, "Stalled")[0] == "True"
    assert outcome.requeue_after_seconds is None
    assert list(cluster.contents()) == ["FlashModel/olmoe"]


async def test_the_volume_is_never_deleted() -> None:
    cluster = a_cluster()
    await packed(cluster)
    claim = cluster.get("PersistentVolumeClaim", Key("default", "olmoe-model"))
    assert claim is not None
    cluster.create({**claim, "metadata": {**claim["metadata"], "name": "olmoe-model-former"}})
    assert (await run(cluster)).deleted == ()


async def test_a_volume_that_someone_enlarged_keeps_its_size() -> None:
    cluster = a_cluster(cache={"size": "10Gi"})
    await run(cluster)
    key = Key("default", "olmoe-model")
    larger = {"requests": {"storage": "30Gi"}}
    cluster.edit("PersistentVolumeClaim", key, lambda live: live["spec"].update(resources=larger))
    await run(cluster)
    assert cluster.get("PersistentVolumeClaim", key)["spec"]["resources"] == larger


async def test_a_job_that_is_older_than_the_volume_is_made_anew() -> None:
    cluster = a_cluster()
    await packed(cluster)
    old = jobs(cluster)[0]
    for kind, name, at in (("Job", old, "12:00:00Z"), ("PersistentVolumeClaim", "olmoe-model", "12:30:00Z")):
        stamp = {"creationTimestamp": f"2026-01-01T{at}"}
        cluster.edit(kind, Key("default", name), lambda live, stamp=stamp: live["metadata"].update(stamp))
    assert (await run(cluster)).deleted == (f"Job/{old}",)
    again = await run(cluster)
    assert again.applied == (f"Job/{old}",)
    assert condition(again)[0] == "False"


async def test_who_may_not_read_says_so() -> None:
    class Blind(MemoryCluster):
        async def of_model(self, key: Key) -> tuple[Manifest, ...]:
            raise Forbidden("jobs is forbidden")

    cluster = Blind()
    cluster.create(a_model_manifest())
    outcome = await run(cluster)
    assert condition(outcome) == ("Unknown", "ReadFailed")
    assert outcome.error == "jobs is forbidden"


async def test_what_the_cluster_refuses_is_told() -> None:
    class Strict(MemoryCluster):
        async def apply(self, manifest: Manifest) -> None:
            if manifest["kind"] == "PersistentVolumeClaim":
                raise ClusterError("exceeded quota", retryable=False)
            await super().apply(manifest)

    cluster = Strict()
    cluster.create(a_model_manifest())
    outcome = await run(cluster)
    assert condition(outcome) == ("False", "ApplyFailed")
    assert condition(outcome, "Stalled") == ("True", "ApplyFailed")
    assert jobs(cluster) == []


async def test_residency_is_told_of_the_nodes_where_pulls_have_run() -> None:
    cluster = a_cluster(residency={"regions": ["eu"]})
    cluster.regions = {"n1": "us"}
    assert condition(await run(cluster)) == ("False", "RegionUnavailable")
    cluster.regions = {"n1": "us", "n2": "eu"}
    outcome = await packed(cluster)
    assert condition(outcome) == ("True", "ModelPacked")
    for name in [name for name in cluster.contents() if name.startswith("Pod/")]:
        cluster.edit("Pod", Key("default", name.partition("/")[2]), lambda live: live.update(spec={"nodeName": "n2"}))
    assert condition(await run(cluster), "ResidencyCompliant") == ("True", "AllInRegion")


async def test_a_model_that_is_gone_ends_its_loop() -> None:
    assert (await run(MemoryCluster())).gone


@pytest.mark.parametrize(
    ("code", "line", "reason"),
    [
        (2, "architecture X is not supported", Reason.MODEL_NOT_SUPPORTED),
        (3, "source x: sha256 is aa, bb is expected", Reason.DIGEST_MISMATCH),
        (3, "source x: no such file", Reason.WEIGHTS_UNUSABLE),
        (4, "source x: wants a token", Reason.CREDENTIALS_REFUSED),
        (4, "source x: did not answer", Reason.SOURCE_UNREACHABLE),
        (5, "/models: the disk is full; free space", Reason.CACHE_FULL),
        (5, "/models: Read-only file system", Reason.PULL_FAILED),
        (137, "", Reason.PULL_FAILED),
        (None, "ImagePullBackOff", Reason.PULL_FAILED),
    ],
)
def test_how_a_pull_ends_has_one_word(code: int | None, line: str, reason: Reason) -> None:
    assert failure_reason(LastFailure(pod="p", container="pull", exit_code=code, message=line), "") is reason
    assert reason in EXPLANATIONS
    assert any(reason in REASONS[kind] for kind in (ConditionType.DOWNLOADED, ConditionType.PACKED))


async def test_the_deployment_that_names_it_waits_mounts_and_outlives_it() -> None:
    """Both loops on one cluster: the whole story of a shared model."""
    cluster = MemoryCluster()
    cluster.create(a_manifest(model={"modelRef": {"name": "olmoe"}}))
    told: list[tuple[Key, Any]] = []

    async def answers(url: str) -> ProbeResult:
        return ProbeResult(ok=True, message="")

    async def serve() -> Outcome:
        return await reconcile(
            cluster,
            Key("default", "chat"),
            probe=answers,
            now=lambda: NOON,
            settings=SETTINGS,
            names_models=lambda key, models: told.append((key, models)),
        )

    def settle(live: dict[str, Any]) -> None:
        counts = dict.fromkeys(("replicas", "updatedReplicas", "readyReplicas"), live["spec"]["replicas"])
        live["status"] = {"observedGeneration": live["metadata"]["generation"], **counts}

    waiting = await serve()
    assert condition(waiting) == condition(waiting, "ModelReady") == ("False", "ModelNotFound")
    assert condition(waiting, "Stalled")[0] == "False"
    assert not [name for name in cluster.contents() if name.startswith("Deployment/")]
    assert told == [(Key("default", "chat"), ("olmoe",))]

    cluster.create(a_model_manifest())
    await run(cluster)
    assert condition(await serve()) == ("False", "ModelNotCached")
    ends(cluster, jobs(cluster)[0])
    await run(cluster)
    assert {"Deployment/chat-engine", "Deployment/chat-gateway"} <= set((await serve()).applied)
    for name in ("chat-engine", "chat-gateway"):
        cluster.edit("Deployment", Key("default", name), settle)
    serving = await serve()
    assert condition(serving) == ("True", "Serving")
    assert serving.status["model"] == {"name": "OLMoE", "digest": "sha256:source", "sizeBytes": 100}
    assert (await run(cluster)).status["usedBy"] == 1

    # Another variant is wanted that the model does not pack: what runs stays.
    cluster.edit(names.KIND, Key("default", "chat"), lambda live: live["spec"].update(variant="Nano"))
    lacking = await serve()
    assert condition(lacking) == ("False", "VariantNotPacked")
    assert condition(lacking, "Stalled") == ("True", "VariantNotPacked")
    mount = str(cluster.get("Deployment", Key("default", "chat-engine")))
    assert "'subPath': 'Lite'" in mount
    cluster.edit(names.MODEL_KIND, KEY, lambda live: live["spec"].update(variants=["Lite", "Nano"]))
    await run(cluster)
    assert condition(await serve()) == ("False", "ModelNotCached")
    ends(cluster, next(job for job in jobs(cluster) if "nano" in job))
    await run(cluster)
    await serve()
    assert "'subPath': 'Nano'" in str(cluster.get("Deployment", Key("default", "chat-engine")))

    cluster.remove(names.MODEL_KIND, KEY)
    bereft = await serve()
    assert condition(bereft) == ("False", "ModelNotFound")
    assert (bereft.applied, bereft.deleted) == ((), ())


async def test_a_model_that_is_pulled_once_more_is_no_outage_of_those_who_mount_it() -> None:
    cluster = MemoryCluster()
    cluster.create(a_model_manifest())
    cluster.create(a_manifest(model={"modelRef": {"name": "olmoe"}}))
    await run(cluster)
    ends(cluster, jobs(cluster)[0])
    await run(cluster)

    async def answers(url: str) -> ProbeResult:
        return ProbeResult(ok=True, message="")

    async def serve(settings: ReconcileSettings = SETTINGS) -> Outcome:
        return await reconcile(cluster, Key("default", "chat"), probe=answers, now=lambda: NOON, settings=settings)

    await serve()
    counts = {"observedGeneration": 1, "replicas": 1, "updatedReplicas": 1, "readyReplicas": 1}
    for name in ("chat-engine", "chat-gateway"):
        cluster.edit("Deployment", Key("default", name), lambda live: live.update(status=counts))
    assert condition(await serve()) == ("True", "Serving")
    newer = ReconcileSettings(plan=PlanSettings(engine_image="newer"))
    during = await serve(newer)
    assert (condition(during), condition(during, "ModelReady")) == (("True", "Serving"), ("True", "ModelNotCached"))
    assert condition(during, "Reconciling")[0] == "True"
    assert "newer" not in str(cluster.get("Deployment", Key("default", "chat-engine")))
    await run(cluster, settings=newer)
    ends(cluster, jobs(cluster)[0])
    await run(cluster, settings=newer)
    assert "Deployment/chat-engine" in (await serve(newer)).applied
