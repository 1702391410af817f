"""Our kinds on a real API server: what it refuses, fills in, prints and scales, without an operator."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from builders import a_manifest
from control_plane import ControlPlane
from hermetic_errors import KubectlFailed
from manifest_cases import ALLOWED_CHANGES, BY_RULE, FORBIDDEN_CHANGES, INVALID, VALID, Change, Invalid
from mutations import mutations
from operator_process import Kubectl, eventually

from flash_api.crd import structural_schema
from flash_api.manifest import parse_manifests
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.flashmodel import FlashModel

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.yaml"))
CLASSES: dict[str, Any] = {"FlashDeployment": FlashDeployment, "FlashModel": FlashModel}


def collection(namespace: str, kind: str) -> str:
    return f"/apis/flashplane.dev/v1alpha1/namespaces/{namespace}/{kind.lower()}s"


def post(control_plane: ControlPlane, namespace: str, manifest: dict[str, Any]) -> Any:
    body = {**manifest, "metadata": {**manifest["metadata"], "namespace": namespace}}
    path = collection(namespace, manifest["kind"])
    return control_plane.api.request("POST", f"{path}?dryRun=All&fieldValidation=Strict", body)


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.name)
def test_the_api_server_refuses_what_lint_refuses(control_plane: ControlPlane, case: Invalid) -> None:
    answer = post(control_plane, "default", case.manifest)
    assert answer.status in (400, 422), answer.text
    assert case.field in answer.json()["message"]


@pytest.mark.parametrize("case", BY_RULE, ids=lambda case: case.name)
def test_the_api_server_words_a_rule_as_lint_does(control_plane: ControlPlane, case: Invalid) -> None:
    (problem,) = parse_manifests(yaml.safe_dump(case.manifest)).problems
    assert f"{problem.rule}; {problem.remedy}" in post(control_plane, "default", case.manifest).json()["message"]


@pytest.mark.parametrize(
    ("name", "value"), [("hour 25", "25:00"), ("block too large", "10.0.0.0/33"), ("source without scheme", "olmoe")]
)
def test_the_api_server_says_a_wrong_text_and_what_it_must_be(
    control_plane: ControlPlane, name: str, value: str
) -> None:
    (case,) = (case for case in INVALID if case.name == name)
    (problem,) = parse_manifests(yaml.safe_dump(case.manifest)).problems
    assert f'"{value}" {problem.rule}' in post(control_plane, "default", case.manifest).json()["message"]


@pytest.mark.parametrize("manifest", VALID.values(), ids=VALID.keys())
def test_the_api_server_accepts_what_lint_accepts_and_fills_in_the_same_defaults(
    control_plane: ControlPlane, manifest: dict[str, Any]
) -> None:
    answer = post(control_plane, "default", manifest)
    assert answer.status == 201, answer.text
    parsed = parse_manifests(yaml.safe_dump(manifest))
    (ours,) = (found.spec for found in (*parsed.deployments, *parsed.models))
    assert answer.json()["spec"] == ours.model_dump(mode="json", by_alias=True, exclude_none=True)


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_the_api_server_accepts_our_examples(kubectl: Kubectl, file: Path) -> None:
    kubectl("apply", "--server-side", "--dry-run=server", "--validate=strict", "-f", str(file))


MUTATED = (
    "every field",
    "public through a Gateway",
    "public through an Ingress",
    "private with friends",
    "a shared model",
    "a draft in the engine",
    "FlashModel: every field",
)


def test_the_api_server_and_lint_agree_on_every_mutation(control_plane: ControlPlane) -> None:
    judged, differences = 0, []
    for name in MUTATED:
        schema = structural_schema(CLASSES[VALID[name]["kind"]])
        for mutation in mutations(VALID[name], schema):
            answer = post(control_plane, "default", mutation.manifest)
            problems = parse_manifests(yaml.safe_dump(mutation.manifest)).problems
            assert answer.status in (201, 400, 422), f"{name}: {mutation.name}: {answer.text}"
            judged += 1
            if (answer.status == 201) != (problems == ()):
                said = answer.json().get("message", "accepted")
                differences.append(f"{name}: {mutation.name}: {said} / {[str(problem) for problem in problems]}")
    print(f"{judged} mutations")
    assert judged >= 1000
    assert differences == []


def changed(control_plane: ControlPlane, namespace: str, case: Change) -> Any:
    """The API server's answer to the change of an object that it has stored."""
    before = {**case.before, "metadata": {"name": case.before["metadata"]["name"], "namespace": namespace}}
    path = collection(namespace, before["kind"])
    created = control_plane.api.request("POST", path, before)
    assert created.status == 201, created.text
    after = {**case.after, "metadata": created.json()["metadata"]}
    return control_plane.api.request("PUT", f"{path}/{before['metadata']['name']}", after)


@pytest.mark.parametrize("case", FORBIDDEN_CHANGES, ids=lambda case: case.name)
def test_the_api_server_lets_no_promise_be_taken_back(
    control_plane: ControlPlane, namespace: str, case: Change
) -> None:
    answer = changed(control_plane, namespace, case)
    assert answer.status == 422, answer.text
    assert case.field in answer.json()["message"]
    assert case.says in answer.json()["message"]


@pytest.mark.parametrize("case", ALLOWED_CHANGES, ids=lambda case: case.name)
def test_the_api_server_lets_everything_else_change(control_plane: ControlPlane, namespace: str, case: Change) -> None:
    answer = changed(control_plane, namespace, case)
    assert answer.status == 200, answer.text


def apply(kubectl: Kubectl, **spec: Any) -> None:
    manifest = {**a_manifest(**spec), "metadata": {"name": "chat"}}
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))


def test_kubectl_scale_writes_the_number_of_engines(kubectl: Kubectl) -> None:
    apply(kubectl, engine={"replicas": 1})
    kubectl("scale", "fd", "chat", "--current-replicas=1", "--replicas=3")
    assert kubectl.get("fd", "chat")["spec"]["engine"]["replicas"] == 3


def test_kubectl_scale_works_where_no_number_was_written(kubectl: Kubectl) -> None:
    apply(kubectl)
    kubectl("scale", "fd", "chat", "--replicas=3")
    assert kubectl.get("fd", "chat")["spec"]["engine"]["replicas"] == 3


def test_what_scales_itself_is_not_scaled_by_hand(kubectl: Kubectl) -> None:
    apply(kubectl, engine={"autoscaling": {"maxReplicas": 4}})
    with pytest.raises(KubectlFailed, match="replicas \\(3\\) must be unset when autoscaling is set"):
        kubectl("scale", "fd", "chat", "--replicas=3")


def test_a_horizontal_pod_autoscaler_writes_the_number_of_engines(kubectl: Kubectl) -> None:
    apply(kubectl, engine={"replicas": 1})
    # Below its minimum an autoscaler acts without a metric, of which there is none here.
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(AN_AUTOSCALER))
    eventually("it is scaled", lambda: kubectl.get("fd", "chat")["spec"]["engine"]["replicas"] == 3, seconds=90)


def test_the_scale_subresource_tells_an_autoscaler_which_pods_it_scales(kubectl: Kubectl) -> None:
    apply(kubectl, engine={"replicas": 2})
    selector = "flashplane.dev/deployment=chat,app.kubernetes.io/component=engine"
    status = {"status": {"engine": {"replicas": 1, "selector": selector}}}
    kubectl("patch", "fd", "chat", "--subresource=status", "--type=merge", "-p", json.dumps(status))
    scale = json.loads(kubectl("get", "--raw", f"{collection(kubectl.namespace, 'FlashDeployment')}/chat/scale"))
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 1, "selector": selector}


@pytest.mark.parametrize("field", ["fd.spec", "fd.status", "fm.spec", "fm.status"])
def test_kubectl_explain_is_the_reference(kubectl: Kubectl, field: str) -> None:
    assert "FIELDS:" in kubectl("explain", field, "--recursive")
    assert "no description" not in kubectl("explain", field)


def test_kubectl_prints_a_model_as_a_line(kubectl: Kubectl) -> None:
    manifest = {**VALID["FlashModel: the least"], "metadata": {"name": "olmoe"}}
    kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(manifest))
    header, row = kubectl("get", "fm").strip().splitlines()
    assert header.split() == ["NAME", "READY", "SOURCE", "VARIANTS", "PACKED", "BYTES", "USED-BY", "AGE"]
    assert row.split()[1:3] == ["hf://allenai/OLMoE-1B-7B-0924", '["Lite"]']
    assert "olmoe" in kubectl("get", "flash")


AN_AUTOSCALER = {
    "apiVersion": "autoscaling/v2",
    "kind": "HorizontalPodAutoscaler",
    "metadata": {"name": "chat"},
    "spec": {
        "scaleTargetRef": {"apiVersion": "flashplane.dev/v1alpha1", "kind": "FlashDeployment", "name": "chat"},
        "minReplicas": 3,
        "maxReplicas": 5,
        "metrics": [
            {
                "type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}},
            }
        ],
    },
}
