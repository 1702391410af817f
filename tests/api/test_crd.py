"""The generated CRD keeps the promises that we make about every field."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from manifest_cases import BY_RULE, VALID

from flash_api.crd import custom_resource_definition
from flash_api.rules import Rule, violations
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_operator.rendering import as_yaml

ROOT = Path(__file__).parents[2]
CRD = custom_resource_definition()
VERSION = CRD["spec"]["versions"][0]
SCHEMA = VERSION["schema"]["openAPIV3Schema"]


def nodes(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, inner in schema.get("properties", {}).items():
        yield from nodes(inner, f"{path}.{name}")
    if "items" in schema:
        yield from nodes(schema["items"], f"{path}[]")


NODES = [(path, node) for path, node in nodes(SCHEMA) if path not in ("", ".metadata", ".kind", ".apiVersion")]
ids = [path for path, _ in NODES]


def test_the_committed_crd_is_the_generated_one() -> None:
    """Otherwise: flash crds"""
    committed = (ROOT / "crds" / "flashplane.dev_flashdeployments.yaml").read_text()
    assert committed.partition("\n")[2] == as_yaml([CRD])
    assert yaml.safe_load(committed) == CRD


@pytest.mark.parametrize(("path", "node"), NODES, ids=ids)
def test_every_field_is_described_and_bounded(path: str, node: dict[str, Any]) -> None:
    if not path.endswith("[]"):
        assert node["description"], path
        assert node["description"].endswith("."), path
    bounds = {"string": {"maxLength", "enum", "format"}, "integer": {"maximum", "minimum"}, "array": {"maxItems"}}
    assert node["type"] == "object" or bounds[node["type"]] & node.keys(), path
    if node["type"] == "integer" and path.startswith(".spec"):
        assert {"minimum", "maximum"} <= node.keys(), path


@pytest.mark.parametrize(("path", "node"), NODES, ids=ids)
def test_the_schema_is_structural(path: str, node: dict[str, Any]) -> None:
    assert not {"$ref", "anyOf", "allOf", "oneOf", "title", "const", "nullable"} & node.keys(), path
    assert "x-kubernetes-preserve-unknown-fields" not in node


def test_the_table_of_kubectl_fits() -> None:
    columns = VERSION["additionalPrinterColumns"]
    assert len(columns) <= 8
    assert [c["name"] for c in columns if c.get("priority")] == ["Reason"]


def test_conditions_are_a_map_by_type() -> None:
    conditions = SCHEMA["properties"]["status"]["properties"]["conditions"]
    assert (conditions["x-kubernetes-list-type"], conditions["x-kubernetes-list-map-keys"]) == ("map", ["type"])


def rules() -> list[Rule]:
    found: list[Rule] = []
    models: list[Any] = [FlashDeployment]
    while models:
        model = models.pop()
        found += getattr(model, "cel_rules", ())
        for field in model.model_fields.values():
            inner = field.annotation
            if isinstance(inner, type) and hasattr(inner, "model_fields"):
                models.append(inner)
    return found


def test_every_rule_speaks_with_values_and_a_remedy() -> None:
    for rule in rules():
        assert rule.remedy
        assert rule.rule.startswith("must"), rule.name
        assert "{" not in rule.message, rule.name


def test_every_rule_is_in_the_crd() -> None:
    written = {v["rule"] for _, node in nodes(SCHEMA) for v in node.get("x-kubernetes-validations", ())}
    assert written == {rule.cel for rule in rules()}


def test_every_rule_is_broken_by_some_case_and_kept_by_the_valid_ones() -> None:
    names = {rule.rule.split("{")[0] for rule in rules()}
    broken = {
        name
        for case in BY_RULE
        for violation in violations(FlashDeployment.model_validate(case.manifest))
        for name in names
        if violation.rule.startswith(name)
    }
    assert broken == names
    for manifest in VALID.values():
        assert list(violations(FlashDeployment.model_validate(manifest))) == []
