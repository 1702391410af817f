"""The CustomResourceDefinitions, generated from the pydantic models: structural schema, CEL rules, printer columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any, Final

from pydantic import BaseModel

from flash_api import names
from flash_api.rules import Rule, cel_string, models_in_lists, models_inside, rules_of, text_validation
from flash_api.v1alpha1.base import PATTERN_MEANINGS
from flash_api.v1alpha1.flashdeployment import FlashDeployment
from flash_api.v1alpha1.flashmodel import FlashModel

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
    "minProperties",
    "maxProperties",
)


@dataclass(frozen=True)
class Column:
    """One column of `kubectl get`."""

    name: str
    path: str
    description: str
    type: str = "string"
    wide: bool = False
    """Whether only `-o wide` shows it."""


@dataclass(frozen=True)
class Resource:
    """One kind of ours, as the API server has to know it."""

    model: type[BaseModel]
    kind: str
    plural: str
    short_name: str
    columns: tuple[Column, ...]
    scale: Mapping[str, str] | None = None

    @property
    def file(self) -> str:
        """The name of the file that holds the CRD."""
        return f"{names.GROUP}_{self.plural}.yaml"


_REASON: Final = Column("Reason", f"{_READY}.reason", "Why it is not ready.", wide=True)
_AGE: Final = Column("Age", ".metadata.creationTimestamp", "Time since it was made.", type="date")

DEPLOYMENTS: Final = Resource(
    model=FlashDeployment,
    kind=names.KIND,
    plural=names.PLURAL,
    short_name=names.SHORT_NAME,
    columns=(
        Column("Ready", f"{_READY}.status", "Whether a request through the endpoint works."),
        _REASON,
        Column("Variant", ".spec.variant", "Number format of the model."),
        Column("Model", ".spec.model.source", "Where the weights come from."),
        Column("Shared", ".spec.model.modelRef.name", "FlashModel that brings the weights.", wide=True),
        Column("Replicas", ".status.replicas", "Ready and wanted engine pods."),
        Column("TTFT", ".status.latency.ttftMilliseconds", "Time to first token, 90th percentile, ms.", type="integer"),
        Column(
            "TPOT", ".status.latency.tpotMilliseconds", "Time per token, 90th percentile, ms.", "integer", wide=True
        ),
        Column("Endpoint", ".status.endpoint", "Base URL for OpenAI clients."),
        Column("Region", ".status.region", "Regions of the pods."),
        Column("Draft", ".spec.draft.mode", "Where proposals for speculative decoding come from.", wide=True),
        Column("Drafting", ".status.draft.active", "Whether proposals are used now.", "boolean", wide=True),
        Column("Accepted", ".status.draft.acceptancePercent", "Proposals accepted, percent.", "integer", wide=True),
        Column("Speedup", ".status.draft.speedupPercent", "Speed with proposals, percent.", "integer", wide=True),
        Column("Revision", ".status.appliedRevision", "Hash of the plan last applied.", wide=True),
        Column("Digest", ".status.model.digest", "Digest of the packed model.", wide=True),
        _AGE,
    ),
    scale={
        "specReplicasPath": ".spec.engine.replicas",
        "statusReplicasPath": ".status.engine.replicas",
        "labelSelectorPath": ".status.engine.selector",
    },
)

MODELS: Final = Resource(
    model=FlashModel,
    kind=names.MODEL_KIND,
    plural=names.MODEL_PLURAL,
    short_name=names.MODEL_SHORT_NAME,
    columns=(
        Column("Ready", f"{_READY}.status", "Whether deployments can use it."),
        _REASON,
        Column("Source", ".spec.source", "Where the weights come from."),
        Column("Variants", ".spec.variants", "Variants to pack."),
        Column("Packed", ".status.progress", "Variants that are packed, of those wanted."),
        Column("Bytes", ".status.sizeBytes", "Bytes of all packed variants.", type="integer"),
        Column("Used-By", ".status.usedBy", "FlashDeployments whose pods mount it.", type="integer"),
        Column("Digest", ".status.digest", "Digest of the weights as downloaded.", wide=True),
        _AGE,
    ),
)

RESOURCES: Final = (DEPLOYMENTS, MODELS)


def custom_resource_definition(resource: Resource = DEPLOYMENTS) -> Schema:
    """The whole manifest of one CRD."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{names.GROUP}"},
        "spec": {
            "group": names.GROUP,
            "scope": "Namespaced",
            "names": {
                "kind": resource.kind,
                "listKind": f"{resource.kind}List",
                "plural": resource.plural,
                "singular": resource.kind.lower(),
                "shortNames": [resource.short_name],
                "categories": [names.CATEGORY],
            },
            "versions": [
                {
                    "name": names.VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}, **({"scale": dict(resource.scale)} if resource.scale else {})},
                    "additionalPrinterColumns": [_column(column) for column in resource.columns],
                    "schema": {"openAPIV3Schema": structural_schema(resource.model)},
                }
            ],
        },
    }


@cache
def structural_schema(model: type[BaseModel] = FlashDeployment) -> Schema:
    """The schema of a resource in the form that Kubernetes accepts: no references, unions or titles."""
    source = model.model_json_schema(by_alias=True, mode="validation")
    schema = _structural(source, source.get("$defs", {}), model)
    kind = schema["properties"]["kind"]["enum"][0]
    schema["properties"] |= {
        "apiVersion": {"type": "string", "description": f"Always {names.API_VERSION}."},
        "kind": {"type": "string", "description": f"Always {kind}."},
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
        inner = {**models_inside(model), **models_in_lists(model)} if model is not None else {}
        schema["properties"] = {
            name: _structural(field, definitions, inner.get(name)) for name, field in node["properties"].items()
        }
        if required := node.get("required"):
            schema["required"] = list(required)
    if isinstance(node.get("additionalProperties"), Mapping):
        schema["additionalProperties"] = _structural(node["additionalProperties"], definitions, None)
    if "items" in node:
        schema["items"] = _structural(node["items"], definitions, model)
    elif rules := rules_of(model):
        schema["x-kubernetes-validations"] = [_validation(rule) for rule in rules]
    if schema.get("pattern") in PATTERN_MEANINGS:
        # The API server's own message would show the expression; as a rule it says what is meant.
        pattern = schema.pop("pattern")
        matches = f"self.matches({cel_string(pattern)})"
        schema["x-kubernetes-validations"] = [text_validation(matches, PATTERN_MEANINGS[pattern])]
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


def _column(column: Column) -> Schema:
    found: Schema = {
        "name": column.name,
        "type": column.type,
        "jsonPath": column.path,
        "description": column.description,
    }
    return {**found, "priority": 1} if column.wide else found
