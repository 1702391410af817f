"""What a manifest's author is told."""

import textwrap
from typing import Any

import pytest
import yaml
from manifest_cases import ALLOWED_CHANGES, FORBIDDEN_CHANGES, INVALID, VALID, Change, Invalid

from flash_api.manifest import parse_manifests, problems_of_change, stored_deployment
from flash_api.problems import Problem


def problems(text: str) -> tuple[Problem, ...]:
    return parse_manifests(textwrap.dedent(text), file="chat.yaml").problems


@pytest.mark.parametrize("case", INVALID, ids=lambda case: case.name)
def test_an_invalid_manifest_is_refused_with_field_value_rule_and_remedy(case: Invalid) -> None:
    found = parse_manifests(yaml.safe_dump(case.manifest))
    assert found.deployments == ()
    (problem,) = found.problems
    assert problem.field == case.field
    assert case.says.lower() in str(problem).lower()
    assert problem.rule
    assert problem.line is not None


@pytest.mark.parametrize("manifest", VALID.values(), ids=VALID.keys())
def test_a_valid_manifest_is_accepted(manifest: dict[str, Any]) -> None:
    found = parse_manifests(yaml.safe_dump(manifest))
    assert found.problems == ()
    assert [found.kind for found in (*found.deployments, *found.models)] == [manifest["kind"]]


def changed(change: Change) -> list[tuple[str, str]]:
    before, after = (parse_manifests(yaml.safe_dump(manifest)) for manifest in (change.before, change.after))
    ((old,), (new,)) = ((*found.deployments, *found.models) for found in (before, after))
    return [(problem.field, str(problem)) for problem in problems_of_change(old, new)]


@pytest.mark.parametrize("change", FORBIDDEN_CHANGES, ids=lambda change: change.name)
def test_a_promise_is_not_taken_back(change: Change) -> None:
    ((field, message),) = changed(change)
    assert field == change.field
    assert change.says in message


@pytest.mark.parametrize("change", ALLOWED_CHANGES, ids=lambda change: change.name)
def test_what_is_no_promise_may_change(change: Change) -> None:
    assert changed(change) == []


def test_a_problem_reads_as_one_sentence_after_another() -> None:
    (problem,) = problems(
        """\
        apiVersion: flashplane.dev/v1alpha1
        kind: FlashDeployment
        metadata: {name: chat}
        spec:
          model: {source: "builtin://x"}
          engine:
            replicas: -1
        """
    )
    assert str(problem) == (
        "spec.engine.replicas (-1) must be greater than or equal to 0. Number of engine pods; unset = 1, or what "
        "autoscaling decides. Write it where kubectl scale or a HorizontalPodAutoscaler is to change it. Example: 2."
    )
    assert problem.place == "chat.yaml:7"


def test_all_problems_of_all_documents_are_found_at_once() -> None:
    found = problems(
        """\
        apiVersion: flashplane.dev/v1alpha1
        kind: FlashDeployment
        metadata: {name: a}
        spec: {model: {source: nowhere}, engine: {replicas: -1}}
        ---
        apiVersion: flashplane.dev/v1alpha1
        kind: FlashDeployment
        metadata: {name: b}
        spec: {}
        """
    )
    assert [(p.document, p.field) for p in found] == [
        (1, "spec.model.source"),
        (1, "spec.engine.replicas"),
        (2, "spec.model"),
    ]


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("a: [1\n", "chat.yaml:2:1", "is not valid YAML"),
        ("a: 1\nb: 'open\n", "chat.yaml:3:1", "is not valid YAML"),
        ("a: 1\na: 2\n", "chat.yaml:2:1", "the key 'a' stands twice"),
        ("a:\n\t- 1\n", "chat.yaml:2:1", "is not valid YAML"),
        ("a: *nowhere\n", "chat.yaml:1:4", "undefined alias"),
        ("a: !!python/object:os.system {}\n", "chat.yaml:1:4", "is not one of JSON's types"),
        ("a: !!timestamp 2024-01-01\n", "chat.yaml:1:4", "is not one of JSON's types"),
        ("a: !!int many\n", "chat.yaml:1:4", "cannot be read as int"),
        (f"a: {'9' * 5000}\n", "chat.yaml:1:4", "cannot be read as int"),
        ('a: "\\ud800"\n', "chat.yaml:1:4", "cannot be read as str"),
        ("a: &a {b: *a}\n", "chat.yaml:1:11", "inside of what it stands for"),
        ("a: \x00\n", "chat.yaml", "is not allowed in YAML"),
        ("[" * 500, "chat.yaml:1:65", "nested deeper than 64 levels"),
        ("x" * (1024**2 + 1), "chat.yaml", "larger than 1048576 characters"),
    ],
)
def test_text_that_is_no_yaml_is_told_by_line_and_column(text: str, place: str, says: str) -> None:
    (problem,) = problems(text)
    assert problem.place == place
    assert says in str(problem)


def test_a_small_file_cannot_grow_by_aliases() -> None:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    (problem,) = problems("\n".join(lines))
    assert "once aliases are filled in" in str(problem)


def test_anchors_work_as_in_kubectl() -> None:
    found = parse_manifests(
        textwrap.dedent(
            """\
            apiVersion: flashplane.dev/v1alpha1
            kind: FlashDeployment
            metadata: {name: chat}
            spec:
              model: {source: "builtin://x"}
              engine: {resources: &r {cpu: "1"}}
              gateway: {resources: *r}
            """
        )
    )
    assert found.deployments[0].spec.gateway.resources.cpu == "1"


def test_scalars_are_read_as_kubectl_reads_them() -> None:
    text = """\
        apiVersion: flashplane.dev/v1alpha1
        kind: FlashDeployment
        metadata: {name: no}
        spec: {model: {source: "hf://a/b", revision: 2024-01-01}}
        """
    (deployment,) = parse_manifests(textwrap.dedent(text)).deployments
    assert (deployment.metadata.name, deployment.spec.model.revision) == ("no", "2024-01-01")
    (deployment,) = parse_manifests(textwrap.dedent(text.replace("2024-01-01", "12:30"))).deployments
    assert deployment.spec.model.revision == "12:30"


@pytest.mark.parametrize(
    ("text", "field", "says"),
    [
        ("", "", "holds no object"),
        ("# only a comment\n---\n", "", "holds no object"),
        ("just text", "", "must be a mapping"),
        ("- a\n- b\n", "", "must be a mapping"),
        ("kind: FlashDeployment", "apiVersion", "must be flashplane.dev/v1alpha1"),
        ("kind: flashdeployment", "kind", "did you mean FlashDeployment?"),
        ("kind: [FlashDeployment]", "kind", "must be one of FlashDeployment, FlashModel, Secret"),
        ("kind: Pod\napiVersion: v1", "kind", "must be one of FlashDeployment, FlashModel, Secret"),
        ("kind: FlashDeployment\napiVersion: flashplane.dev/v1", "apiVersion", "must be flashplane.dev/v1alpha1"),
        ("kind: Secret\napiVersion: v1\nmetadata: {}", "metadata.name", "is required"),
        ("kind: Secret\napiVersion: v1\nmetadata: {name: s}\ndata: {k: 'no base64!'}", "data.k", "must be base64"),
        ("kind: Secret\napiVersion: v1\nmetadata: {name: ../../s}", "metadata.name", "must be a Kubernetes name"),
        (
            "kind: Secret\napiVersion: v1\nmetadata: {name: s, namespace: ../..}",
            "metadata.namespace",
            "Kubernetes name",
        ),
        ("kind: Secret\napiVersion: v1\nmetadata: {name: s}\ndata: {../k: eA==}", "data.../k", "a key of a Secret"),
        ("kind: Secret\napiVersion: v1\nmetadata: {name: s}\nstringdata: {}", "stringdata", "did you mean stringData?"),
    ],
)
def test_documents_that_are_none_of_ours_are_refused(text: str, field: str, says: str) -> None:
    (problem,) = problems(text)
    assert problem.field == field
    assert says.lower() in str(problem).lower()


SECRET = {"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "keys"}}


@pytest.mark.parametrize("manifest", [VALID["the least"], SECRET], ids=["FlashDeployment", "Secret"])
def test_a_name_stands_once(manifest: dict[str, Any]) -> None:
    (problem,) = parse_manifests(yaml.safe_dump_all([manifest] * 2)).problems
    assert "stands twice in this file" in str(problem)
    assert (problem.document, problem.field) == (2, "metadata.name")
    assert problem.line is not None


def test_the_same_name_in_two_namespaces_is_two_objects() -> None:
    elsewhere = {**VALID["the least"], "metadata": {"name": "chat", "namespace": "other"}}
    assert parse_manifests(yaml.safe_dump_all([VALID["the least"], elsewhere])).problems == ()


def test_a_namespace_that_is_none_is_refused() -> None:
    climbing = {**VALID["the least"], "metadata": {"name": "chat", "namespace": "../.."}}
    (problem,) = parse_manifests(yaml.safe_dump(climbing)).problems
    assert problem.field == "metadata.namespace"


def test_rules_are_judged_where_the_fields_allow_it() -> None:
    found = problems(
        """\
        apiVersion: flashplane.dev/v1alpha1
        kind: FlashDeployment
        metadata: {name: Bad_Name}
        unknown: {}
        spec:
          model: {source: "builtin://x", revision: main}
          engine:
            replicas: many
            resources: {memory: 1Mi}
        """
    )
    assert [p.field for p in found] == [
        "metadata.name",
        "unknown",
        "spec.model.revision",
        "spec.engine.replicas",
        "spec.engine.resources.memory",
    ]


def test_a_manifest_saved_from_a_cluster_can_be_applied_again() -> None:
    saved = {**VALID["the least"], "status": {"whatever": 1}}
    saved["metadata"] = {"name": "chat", "uid": "u", "resourceVersion": "1", "generation": 4, "managedFields": []}
    assert parse_manifests(yaml.safe_dump(saved)).problems == ()


def test_a_secret_is_read_and_never_shown() -> None:
    text = """\
        kind: Secret
        apiVersion: v1
        metadata: {name: keys}
        data: {a: aHVudGVyMg==}
        stringData: {b: hunter2}
        """
    (secret,) = parse_manifests(textwrap.dedent(text)).secrets
    assert (secret.value("a"), secret.value("b"), secret.value("c")) == (b"hunter2", b"hunter2", None)
    assert "hunter2" not in repr(secret)
    (problem,) = problems(text.replace("hunter2", "{hunter2: 1}"))
    assert "hunter2" not in str(problem)


def test_what_is_stored_may_be_newer_than_we_are() -> None:
    stored = {**VALID["the least"], "spec": {**VALID["the least"]["spec"], "later": 1}, "status": {"alien": True}}
    assert stored_deployment(stored).metadata.name == "chat"
