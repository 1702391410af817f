"""FlashModels on the real API: Jobs and their pods are the real controllers', only the kubelet is played."""

import json
from typing import Any

import yaml
from builders import a_manifest, a_model_manifest
from operator_process import Kubectl, OperatorProcess, eventually

from flash_api import names

WORDS = {"name": "OLMoE-1B-7B", "sizeBytes": 4096, "digest": f"sha256:{'a' * 64}", "packedDigest": f"sha256:{'b' * 64}"}
_NOW = "2026-01-01T00:00:00Z"


def apply(kubectl: Kubectl, manifest: dict[str, Any]) -> None:
    written = {**manifest, "metadata": {"name": manifest["metadata"]["name"]}}
    kubectl("apply", "--server-side", "-f", "-", stdin=yaml.safe_dump(written))


def ready(kubectl: Kubectl, resource: str, name: str) -> tuple[str, str]:
    conditions = (kubectl.get(resource, name) or {}).get("status", {}).get("conditions", [])
    return next(((c["status"], c["reason"]) for c in conditions if c["type"] == "Ready"), ("", ""))


def model(kubectl: Kubectl) -> dict[str, Any]:
    status: dict[str, Any] = kubectl.get("fm", "olmoe").get("status", {})
    return status


def packed(kubectl: Kubectl) -> list[str]:
    return [entry["variant"] for entry in model(kubectl).get("variants", [])]


def a_pod_of(kubectl: Kubectl, variant: str) -> str:
    """The pod that the Job controller has made for the pull of this variant, and that has not ended yet."""

    def found() -> str:
        pods = kubectl.items("pods", "-l", f"{names.LABEL_MODEL}=olmoe")
        open_ = [p for p in pods if p.get("status", {}).get("phase") in (None, "Pending", "Running")]
        named = [p for p in open_ if p["metadata"]["annotations"][names.ANNOTATION_VARIANT] == variant]
        return str(named[0]["metadata"]["name"]) if named else ""

    return eventually(f"a pod that pulls {variant}", found)


def ends(kubectl: Kubectl, variant: str, *, code: int = 0, message: str = "") -> None:
    """What a kubelet writes when the pull has ended."""
    pod = a_pod_of(kubectl, variant)
    ended = {"exitCode": code, "reason": "Error" if code else "Completed", "message": message or json.dumps(WORDS)}
    ended |= {"startedAt": _NOW, "finishedAt": _NOW}
    container = {"name": "pull", "image": "x", "imageID": "", "ready": False, "restartCount": 0}
    status = {
        "phase": "Failed" if code else "Succeeded",
        "startTime": _NOW,
        "conditions": [{"type": "PodScheduled", "status": "True"}, {"type": "Ready", "status": "False"}],
        "containerStatuses": [{**container, "state": {"terminated": ended}}],
    }
    kubectl("patch", "pod", pod, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status}))


USER = a_manifest("chat", model={"modelRef": {"name": "olmoe"}})


def engines(kubectl: Kubectl) -> dict[str, Any] | None:
    found: dict[str, Any] | None = kubectl.get("deployment", names.engine_name("chat"))
    return found


def test_a_deployment_waits_for_its_model_and_then_mounts_it(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply(kubectl, USER)
    eventually("it waits", lambda: ready(kubectl, "fd", "chat") == ("False", "ModelNotFound"))
    apply(kubectl, a_model_manifest())
    eventually("it waits on", lambda: ready(kubectl, "fd", "chat") == ("False", "ModelNotCached"))
    assert engines(kubectl) is None
    ends(kubectl, "Lite")
    eventually("the model is packed", lambda: ready(kubectl, "fm", "olmoe") == ("True", "ModelPacked"))
    pod = eventually("the engines", lambda: engines(kubectl))["spec"]["template"]["spec"]
    assert "initContainers" not in pod
    assert {"claimName": "olmoe-model"} in [v.get("persistentVolumeClaim") for v in pod["volumes"]]
    status = model(kubectl)
    assert (status["name"], status["digest"], status["sizeBytes"]) == ("OLMoE-1B-7B", WORDS["digest"], 4096)
    assert status["variants"][0]["digest"] == WORDS["packedDigest"]
    assert kubectl.get("fd", "chat")["status"]["model"]["digest"] == WORDS["digest"]
    eventually("its user is counted", lambda: model(kubectl).get("usedBy") == 1)
    row = kubectl("get", "fm", "olmoe", "--no-headers").split()
    assert row[:6] == ["olmoe", "True", "hf://allenai/OLMoE-1B-7B-0924", '["Lite"]', "1/1", "4096"]


def test_one_more_variant_is_packed_and_the_others_are_kept(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply(kubectl, a_model_manifest())
    ends(kubectl, "Lite")
    eventually("Lite", lambda: packed(kubectl) == ["Lite"])
    first = kubectl.items("jobs", "-l", names.LABEL_MODEL)[0]["metadata"]["uid"]
    apply(kubectl, a_model_manifest(variants=["Lite", "Nano"]))
    eventually("it is packing", lambda: ready(kubectl, "fm", "olmoe") == ("False", "Packing"))
    assert packed(kubectl) == ["Lite"]
    ends(kubectl, "Nano")
    eventually("both", lambda: packed(kubectl) == ["Lite", "Nano"])
    assert first in [job["metadata"]["uid"] for job in kubectl.items("jobs", "-l", names.LABEL_MODEL)]


def test_a_failed_pull_is_tried_again_and_says_why(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply(kubectl, a_model_manifest())
    why = "flash-pull: error: source hf://allenai/OLMoE-1B-7B-0924: did not answer"
    ends(kubectl, "Lite", code=4, message=why)
    eventually("it says why", lambda: ready(kubectl, "fm", "olmoe") == ("False", "SourceUnreachable"))
    failure = model(kubectl)["lastFailure"]
    assert (failure["container"], failure["exitCode"], failure["message"]) == ("pull", 4, why)
    ends(kubectl, "Lite")  # by the next pod, which the Job controller makes after its pause of ten seconds
    eventually("it is mended", lambda: ready(kubectl, "fm", "olmoe") == ("True", "ModelPacked"))
    assert "lastFailure" not in model(kubectl)


def test_a_hopeless_pull_stalls(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply(kubectl, a_model_manifest())
    ends(kubectl, "Lite", code=2, message="flash-pull: error: architecture MambaForCausalLM is not supported")

    def stalled() -> str:
        return next((c["reason"] for c in model(kubectl)["conditions"] if (c["type"], c["status"]) == STALLED), "")

    assert eventually("it stalls", stalled) == "ModelNotSupported"
    assert len(kubectl.items("pods", "-l", names.LABEL_MODEL)) == 1


STALLED = ("Stalled", "True")


def test_a_deleted_model_leaves_running_pods_alone_and_takes_the_rest(
    operator: OperatorProcess, kubectl: Kubectl
) -> None:
    apply(kubectl, a_model_manifest())
    apply(kubectl, USER)
    ends(kubectl, "Lite")
    before = eventually("the engines", lambda: engines(kubectl))
    kubectl("delete", "fm", "olmoe")
    eventually("it is missed", lambda: ready(kubectl, "fd", "chat") == ("False", "ModelNotFound"))
    eventually("the jobs are gone", lambda: not kubectl.items("jobs", "-l", names.LABEL_MODEL))
    after = engines(kubectl)
    assert after is not None
    assert after["metadata"]["generation"] == before["metadata"]["generation"]


def test_a_model_kept_elsewhere_is_refused_to_a_deployment_with_residency(
    operator: OperatorProcess, kubectl: Kubectl
) -> None:
    apply(kubectl, a_model_manifest(residency={"regions": ["us"]}))
    apply(kubectl, {**USER, "spec": {**USER["spec"], "residency": {"regions": ["eu"]}}})
    eventually("it is refused", lambda: ready(kubectl, "fd", "chat") == ("False", "ModelOutsideRegion"))
    assert engines(kubectl) is None


def test_a_deleted_volume_is_made_anew_and_filled_again(operator: OperatorProcess, kubectl: Kubectl) -> None:
    apply(kubectl, a_model_manifest())
    ends(kubectl, "Lite")
    eventually("it is packed", lambda: packed(kubectl) == ["Lite"])
    jobs = {job["metadata"]["uid"] for job in kubectl.items("jobs", "-l", names.LABEL_MODEL)}
    kubectl("delete", "pvc", "olmoe-model", "--wait=false")
    eventually("nothing is packed", lambda: not packed(kubectl))
    ends(kubectl, "Lite")
    eventually("it is packed again", lambda: packed(kubectl) == ["Lite"])
    assert jobs.isdisjoint(job["metadata"]["uid"] for job in kubectl.items("jobs", "-l", names.LABEL_MODEL))
