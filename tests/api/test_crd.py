"""The generated CRDs keep the promises that we make about every field."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_cases import ALTERNATIVES, BY_RULE, EVERY_FIELD, FORBIDDEN_CHANGES
from pydantic import BaseModel

from flash_api.crd import DEPLOYMENTS, MODELS, RESOURCES, Resource, custom_resource_definition
from flash_api.rules import Rule, models_in_lists, models_inside, rules_of, violations, violations_of_change
from flash_api.v1alpha1.base import PATTERN_MEANINGS
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.flashmodel import FlashModel
from flash_operator.rendering import as_yaml

ROOT = Path(__file__).parents[2]
CLASSES: dict[str, Any] = {"FlashDeployment": FlashDeployment, "FlashModel": FlashModel}
UNIT = re.compile(r"\b(bytes|tokens?|(milli)?seconds|percent|count|number of|requests|experts|port|exit code)\b", re.I)


def version(resource: Resource) -> dict[str, Any]:
    found: dict[str, Any] = custom_resource_definition(resource)["spec"]["versions"][0]
    return found


def schema(resource: Resource) -> dict[str, Any]:
    found: dict[str, Any] = version(resource)["schema"]["openAPIV3Schema"]
    return found


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, inner in node.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in node:
        yield from nodes(node["items"], f"{path}[]")
    if "additionalProperties" in node:
        yield from nodes(node["additionalProperties"], f"{path}{{}}")


NODES = [
    pytest.param(path, node, id=f"{resource.kind}{path}")
    for resource in RESOURCES
    for path, node in nodes(schema(resource))
    if path not in ("", ".metadata", ".kind", ".apiVersion")
]
FIELDS = [param for param in NODES if not str(param.values[0]).endswith(("[]", "{}"))]


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_the_committed_crd_is_the_generated_one(resource: Resource) -> None:
    """Otherwise: flash crds"""
    committed = (ROOT / "crds" / resource.file).read_text()
    crd = custom_resource_definition(resource)
    assert committed.partition("---\n")[2] == as_yaml([crd])
    assert yaml.safe_load(committed) == crd


@pytest.mark.parametrize(("path", "node"), FIELDS)
def test_every_field_is_described_with_its_unit_and_an_example(path: str, node: dict[str, Any]) -> None:
    text = node.get("description", "")
    assert text.endswith("."), path
    assert len(text) >= 10, path
    if node["type"] != "object" or "additionalProperties" in node:
        assert "Example: " in text, path
    if node["type"] == "integer":
        assert UNIT.search(text.partition("Example")[0]), f"{path} names no unit: {text}"


@pytest.mark.parametrize(("path", "node"), NODES)
def test_every_field_is_bounded(path: str, node: dict[str, Any]) -> None:
    if node["type"] == "integer":
        assert {"minimum", "maximum"} <= node.keys(), path
    if node["type"] == "string":
        assert {"maxLength", "enum"} & node.keys(), path
        assert "pattern" not in node or path.endswith(".reason"), f"{path} shows its pattern, not its meaning"
    if node["type"] == "array":
        assert "maxItems" in node, path
        assert "x-kubernetes-list-type" in node, path
    if "additionalProperties" in node:
        assert "maxProperties" in node, path


@pytest.mark.parametrize(("path", "node"), NODES)
def test_the_schema_is_structural(path: str, node: dict[str, Any]) -> None:
    assert node["type"] in ("object", "array", "string", "integer", "boolean"), path
    assert not {"$ref", "anyOf", "allOf", "oneOf", "title", "const", "nullable"} & node.keys(), path
    assert "x-kubernetes-preserve-unknown-fields" not in node


def test_the_table_of_kubectl_has_the_columns_that_fit() -> None:
    columns = version(DEPLOYMENTS)["additionalPrinterColumns"]
    shown = [column["name"] for column in columns if not column.get("priority")]
    assert shown == ["Ready", "Variant", "Model", "Replicas", "TTFT", "Endpoint", "Region", "Age"]
    assert len(columns) > len(shown)
    assert len([c for c in version(MODELS)["additionalPrinterColumns"] if not c.get("priority")]) <= 8


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_columns_and_scale_show_fields_that_exist(resource: Resource) -> None:
    known = {path.removesuffix("[]") for path, _ in nodes(schema(resource))}
    for column in resource.columns:
        if not column.path.startswith((".metadata", ".status.conditions")):
            assert column.path in known, column.name
    for path in (resource.scale or {}).values():
        assert path in known


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_conditions_are_a_map_by_type(resource: Resource) -> None:
    conditions = schema(resource)["properties"]["status"]["properties"]["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])


def classes(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for inner in (*models_inside(model).values(), *models_in_lists(model).values()):
        yield from classes(inner)


RULES = list(
    {rule.name: rule for kind in CLASSES.values() for model in classes(kind) for rule in rules_of(model)}.values()
)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_every_rule_speaks_with_values_and_a_remedy(rule: Rule) -> None:
    assert rule.remedy
    assert rule.rule.startswith("must")
    assert "{" not in rule.message
    assert rule.of_change == ("oldSelf" in rule.cel)


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.kind)
def test_every_rule_is_in_the_crd(resource: Resource) -> None:
    objects = [node for _, node in nodes(schema(resource)) if node["type"] == "object"]
    written = {v["rule"] for node in objects for v in node.get("x-kubernetes-validations", ())}
    assert written == {rule.cel for model in classes(resource.model) for rule in rules_of(model)}


def test_every_pattern_has_a_meaning_in_words() -> None:
    for meaning in PATTERN_MEANINGS.values():
        assert meaning.startswith("must be ")


def matches(rule: Rule, said: str) -> bool:
    """Whether a message was made from the rule, whatever the values in it."""
    literal = re.split(r"\{self\.[A-Za-z0-9.]+\}", rule.rule)
    return re.fullmatch(".*".join(map(re.escape, literal)), said) is not None


def test_every_rule_is_broken_by_some_case() -> None:
    broken = [
        violation
        for case in BY_RULE
        for violation in violations(CLASSES[case.manifest["kind"]].model_validate(case.manifest))
    ]
    for change in FORBIDDEN_CHANGES:
        model = CLASSES[change.after["kind"]]
        broken += violations_of_change(model.model_validate(change.before), model.model_validate(change.after))
    said = {(violation.field.rpartition(".")[2], violation.rule) for violation in broken}
    for rule in RULES:
        assert any(field == rule.field.rpartition(".")[2] and matches(rule, text) for field, text in said), rule.name


def leaves(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    elif isinstance(value, list) and value and isinstance(value[0], dict):
        yield from leaves(value[0], f"{path}[]")
    else:
        yield path


def test_the_case_of_every_field_has_every_field() -> None:
    written = {path.removeprefix(".") for path in leaves(EVERY_FIELD["spec"])}
    of_maps = {"placement.nodeSelector", "observability.metrics.podMonitorLabels"}
    written = {next((m for m in of_maps if path.startswith(f"{m}.")), path) for path in written}
    known = {
        path.removeprefix(".spec.").removesuffix("[]")
        for path, node in nodes(schema(DEPLOYMENTS))
        if path.startswith(".spec.")
        and "properties" not in node
        and "properties" not in node.get("items", {})
        and not path.endswith("{}")
    }
    assert written == known - ALTERNATIVES
    assert known >= ALTERNATIVES
