"""The CustomResourceDefinition, generated from the pydantic models: structural schema, CEL rules, printer columns."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any, Final

from pydantic import BaseModel

from flash_api import names
from flash_api.rules import Rule, models_inside
from flash_api.v1alpha1.flashdeployment import FlashDeployment

Schema = dict[str, Any]

_READY: Final = '.status.conditions[?(@.type=="Ready")]'
_KEPT: Final = (
    "type",
    "description",
    "format",
    "enum",
    "pattern",
    "minimum",
    "maximum",
    "minLength",
    "maxLength",
    "minItems",
    "maxItems",
    "maxProperties",
)


def custom_resource_definition() -> Schema:
    """The whole manifest of the CRD."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{names.PLURAL}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": names.KIND,
                "listKind": f"{names.KIND}List",
                "plural": names.PLURAL,
                "singular": names.SINGULAR,
                "shortNames": [names.SHORT_NAME],
                "categories": [names.CATEGORY],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {
                        "status": {},
                        "scale": {
                            "specReplicasPath": ".spec.engine.replicas",
                            "statusReplicasPath": ".status.engine.ready",
                        },
                    },
                    "additionalPrinterColumns": [
                        _column("Ready", "string", f"{_READY}.status", "Whether a request through the endpoint works."),
                        _column("Reason", "string", f"{_READY}.reason", "Why it is not ready.", priority=1),
                        _column("Variant", "string", ".spec.variant", "Number format of the model."),
                        _column("Model", "string", ".spec.model.source", "Where the weights come from."),
                        _column("Replicas", "string", ".status.replicas", "Ready and wanted engine pods."),
                        _column("Endpoint", "string", ".status.endpoint", "Base URL for OpenAI clients."),
                        _column("Age", "date", ".metadata.creationTimestamp", "Time since it was made."),
                    ],
                    "schema": {"openAPIV3Schema": structural_schema()},
                }
            ],
        },
    }


@cache
def structural_schema() -> Schema:
    """The schema of a FlashDeployment in the form that Kubernetes accepts: no references, unions or titles."""
    source = FlashDeployment.model_json_schema(by_alias=True, mode="validation")
    schema = _structural(source, source.get("$defs", {}), FlashDeployment)
    schema["properties"] |= {
        "apiVersion": {"type": "string", "description": f"Always {names.API_VERSION}."},
        "kind": {"type": "string", "description": f"Always {names.KIND}."},
        "metadata": {"type": "object"},
    }
    schema["properties"]["status"].pop("default", None)
    schema["required"] = ["spec"]
    return schema


def _structural(source: Mapping[str, Any], definitions: Mapping[str, Any], model: type[BaseModel] | None) -> Schema:
    node = _resolved(source, definitions)
    schema: Schema = {key: node[key] for key in _KEPT if key in node}
    if "const" in node:
        schema["enum"] = [node["const"]]
    if node.get("default") is not None:
        # Written out in full: the API server judges an object's default by our rules before it fills in its fields.
        schema["default"] = _without_nulls(node["default"])
    schema |= {key: value for key, value in node.items() if key.startswith("x-kubernetes-")}
    if "properties" in node:
        inner = models_inside(model) if model is not None else {}
        schema["properties"] = {
            name: _structural(field, definitions, inner.get(name)) for name, field in node["properties"].items()
        }
        if required := node.get("required"):
            schema["required"] = list(required)
    if "items" in node:
        schema["items"] = _structural(node["items"], definitions, None)
    rules: tuple[Rule, ...] = getattr(model, "cel_rules", ())
    if rules:
        schema["x-kubernetes-validations"] = [_validation(rule) for rule in rules]
    return schema


def _resolved(source: Mapping[str, Any], definitions: Mapping[str, Any]) -> dict[str, Any]:
    """The node with its reference followed and `X | None` read as an optional X; what stands beside wins."""
    beside = {key: value for key, value in source.items() if key not in ("$ref", "anyOf", "allOf")}
    if "$ref" in source:
        return {**_resolved(definitions[source["$ref"].rpartition("/")[2]], definitions), **beside}
    if "anyOf" in source:
        (only,) = [branch for branch in source["anyOf"] if branch.get("type") != "null"]
        return {**_resolved(only, definitions), **beside}
    return beside


def _without_nulls(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    return value


def _validation(rule: Rule) -> Schema:
    entry = {
        "rule": rule.cel,
        "message": rule.message,
        "messageExpression": rule.message_expression,
        "reason": "FieldValueInvalid",
    }
    # The API server lets a rule blame a field of its own schema only, and metadata is not part of the root's.
    return entry if not rule.field or rule.field.startswith("metadata") else {**entry, "fieldPath": f".{rule.field}"}


def _column(name: str, kind: str, path: str, description: str, *, priority: int = 0) -> Schema:
    column: Schema = {"name": name, "type": kind, "jsonPath": path, "description": description}
    return {**column, "priority": priority} if priority else column
