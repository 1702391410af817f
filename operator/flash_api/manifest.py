"""From manifest text to FlashDeployments, FlashModels and Secrets, or to the full list of what is wrong with it.

Strict at the door: unknown fields, wrong types and broken cross-field rules are refused here as the API server would.
Lenient for what is stored already (`stored_deployment`): a newer release may have written it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SecretStr, StringConstraints, ValidationError
from pydantic.alias_generators import to_camel

from flash_api import names
from flash_api.crd import structural_schema
from flash_api.documents import Document, YamlProblem, documents
from flash_api.problems import Path, Problem, dotted, nearest, problems_of, shown, without_nulls
from flash_api.rules import Violation, models_inside, strictly, violations, violations_of_change, violations_of_parts
from flash_api.v1alpha1.base import DNS_SUBDOMAIN_PATTERN, SECRET_KEY_PATTERN
from flash_api.v1alpha1.flashdeployment import FlashDeployment, ObjectMeta
from flash_api.v1alpha1.flashmodel import FlashModel

NAMESPACE_DEFAULT: Final = "default"
_LEAST_SPECS: Final[Mapping[str, Mapping[str, Any]]] = {
    names.KIND: {"model": {"source": "builtin://any"}},
    names.MODEL_KIND: {"source": "builtin://any"},
}
"""Each breaks no rule: it stands in for a spec whose own mistakes are told elsewhere."""
_RESOURCES: Final[Mapping[str, type[FlashDeployment] | type[FlashModel]]] = {
    names.KIND: FlashDeployment,
    names.MODEL_KIND: FlashModel,
}
_STEP: Final = re.compile(r"([^.\[\]]+)|\[([0-9]+)\]")

T = TypeVar("T", bound=BaseModel)


class SecretMeta(ObjectMeta):
    """The name becomes part of a path where Secrets are files, as it does of a URL on a cluster."""

    name: Annotated[str, StringConstraints(pattern=DNS_SUBDOMAIN_PATTERN, min_length=1, max_length=253)]


SecretKey = Annotated[str, StringConstraints(pattern=SECRET_KEY_PATTERN, max_length=253)]


class Secret(BaseModel):
    """A core/v1 Secret, which a manifest may carry beside the FlashDeployment that names it."""

    model_config = ConfigDict(alias_generator=to_camel, populate_by_name=True, extra="forbid", frozen=True)

    api_version: Literal["v1"] = "v1"
    kind: Literal["Secret"] = "Secret"
    metadata: SecretMeta
    type: str = "Opaque"
    immutable: bool = False
    data: dict[SecretKey, SecretStr] = Field(default_factory=dict)
    string_data: dict[SecretKey, SecretStr] = Field(default_factory=dict)

    def value(self, key: str) -> bytes | None:
        """The decoded value of a key, None when the Secret has no such key."""
        if key in self.string_data:
            return self.string_data[key].get_secret_value().encode()
        return base64.b64decode(self.data[key].get_secret_value()) if key in self.data else None


@dataclass(frozen=True)
class Manifests:
    """What a text holds. With problems, the objects are those documents that are right."""

    deployments: tuple[FlashDeployment, ...] = ()
    models: tuple[FlashModel, ...] = ()
    secrets: tuple[Secret, ...] = ()
    problems: tuple[Problem, ...] = ()


def parse_manifests(text: str, *, file: str = "", namespace: str = NAMESPACE_DEFAULT) -> Manifests:
    """Parse every document; objects without a namespace get `namespace`. Never raises for what the text says."""
    deployments: list[FlashDeployment] = []
    models: list[FlashModel] = []
    secrets: list[Secret] = []
    problems: list[Problem] = []
    seen: set[Identity] = set()
    number = 0
    try:
        for number, document in enumerate(documents(text), start=1):
            found, wrong = _parse(document, namespace)
            if found is not None:
                wrong = _repeated(document, found, seen)
            problems += [replace(problem, file=file, document=number, line=line) for line, problem in wrong]
            if isinstance(found, FlashDeployment):
                deployments.append(found)
            elif isinstance(found, FlashModel):
                models.append(found)
            elif found is not None:
                secrets.append(found)
    except YamlProblem as bad:
        problems.append(
            Problem("", "", f"is not valid YAML: {bad}", "mend the text there", file, number + 1, bad.line, bad.column)
        )
    if number == 0 and not problems:
        problems.append(Problem("", "", "holds no object", f"write at least one {names.KIND}", file))
    return Manifests(tuple(deployments), tuple(models), tuple(secrets), tuple(problems))


def stored_deployment(live: Mapping[str, Any]) -> FlashDeployment:
    """A FlashDeployment as the cluster holds it, without its status; unknown fields are ignored.

    Raises pydantic's ValidationError for values that this release cannot read.
    """
    body = {key: value for key, value in live.items() if key != "status"}
    return FlashDeployment.model_validate(body, extra="ignore")


def stored_model(live: Mapping[str, Any]) -> FlashModel:
    """A FlashModel as the cluster holds it, without its status; as `stored_deployment`."""
    body = {key: value for key, value in live.items() if key != "status"}
    return FlashModel.model_validate(body, extra="ignore")


def problems_of_change(
    before: FlashDeployment | FlashModel, after: FlashDeployment | FlashModel
) -> tuple[Problem, ...]:
    """What `after` may not become of `before`, which has the same kind: fields that are promises."""
    return tuple(
        Problem(found.field, "" if found.value is None else shown(found.value), found.rule, found.remedy)
        for found in violations_of_change(before, after)
    )


def describe(error: ValidationError, raw: object) -> tuple[Problem, ...]:
    """The problems behind a failed validation of a FlashDeployment."""
    return tuple(problem for _, problem in problems_of(error, raw))


Located = tuple[int, Problem]
Identity = tuple[str, str, str]
"""Kind, namespace, name."""


Resource = FlashDeployment | FlashModel | Secret


def _parse(document: Document, namespace: str) -> tuple[Resource | None, list[Located]]:
    raw = document.value
    if not isinstance(raw, dict):
        return None, [(document.line(()), Problem("", "", "must be a mapping with apiVersion, kind and metadata", ""))]
    identity = _identity_problem(raw)
    if identity is not None:
        path, problem = identity
        return None, [(document.line(path), problem)]
    if raw["kind"] == "Secret":
        return _secret(document, raw, namespace)
    return _resource(document, raw, namespace)


def _identity_problem(raw: Mapping[str, Any]) -> tuple[Path, Problem] | None:
    kinds = {**dict.fromkeys(_RESOURCES, names.API_VERSION), "Secret": "v1"}
    kind, version = raw.get("kind"), raw.get("apiVersion")
    if not isinstance(kind, str) or kind not in kinds:
        meant = nearest(kind, list(kinds)) if isinstance(kind, str) else None
        remedy = f"did you mean {meant}?" if meant else f"write kind: {names.KIND}"
        written = "" if kind is None else shown(kind)
        return ("kind",), Problem("kind", written, f"must be one of {', '.join(kinds)}", remedy)
    if version != kinds[kind]:
        written = "" if version is None else shown(version)
        return ("apiVersion",), Problem("apiVersion", written, f"must be {kinds[kind]} for kind {kind}", "")
    return None


def _resource(
    document: Document, raw: dict[str, Any], namespace: str
) -> tuple[FlashDeployment | FlashModel | None, list[Located]]:
    model = _RESOURCES[raw["kind"]]
    schema = structural_schema(model)
    raw = without_nulls(raw, schema)
    try:
        # The status belongs to the operator; a manifest saved from a cluster carries one, and kubectl ignores it too.
        found = _strict(model, {key: value for key, value in raw.items() if key != "status"}, namespace)
    except ValidationError as error:
        wrong = [(document.line(path), problem) for path, problem in problems_of(error, raw, schema)]
        return None, sorted([*wrong, *_rules_of_parts(document, raw, namespace)], key=lambda located: located[0])
    broken = _broken(document, violations(found))
    return (None, broken) if broken else (found, [])


def _rules_of_parts(document: Document, raw: dict[str, Any], namespace: str) -> list[Located]:
    """The rules that can be judged although some field is wrong: those of the name and of every part that is right."""
    broken: list[Located] = []
    kind = raw["kind"]
    with contextlib.suppress(ValidationError):
        least = {"metadata": raw.get("metadata"), "spec": _LEAST_SPECS[kind]}
        broken += _broken(document, violations(_strict(_RESOURCES[kind], least, namespace)))
    if isinstance(raw.get("spec"), dict):
        spec = models_inside(_RESOURCES[kind])["spec"]
        broken += _broken(document, violations_of_parts(spec, raw["spec"], "spec"))
    return broken


def _broken(document: Document, found: Iterable[Violation]) -> list[Located]:
    return [
        (
            document.line(_steps(violation.field)),
            Problem(
                violation.field,
                "" if violation.value is None else shown(violation.value),
                violation.rule,
                violation.remedy,
            ),
        )
        for violation in found
    ]


def _steps(field: str) -> list[str | int]:
    """`spec.items[2]` as the steps from the document to the value."""
    return [int(index) if index else name for name, index in _STEP.findall(field)]


def _secret(document: Document, raw: dict[str, Any], namespace: str) -> tuple[Secret | None, list[Located]]:
    try:
        found = _strict(Secret, raw, namespace)
    except ValidationError as error:
        schema = Secret.model_json_schema(by_alias=True)
        return None, [
            (document.line(path), _without_value(path, problem)) for path, problem in problems_of(error, raw, schema)
        ]
    wrong: list[Located] = []
    for key, value in found.data.items():
        try:
            base64.b64decode(value.get_secret_value(), validate=True)
        except (binascii.Error, ValueError):
            path = ("data", key)
            problem = Problem(dotted(path), "", "must be base64", "write plain text under stringData instead")
            wrong.append((document.line(path), problem))
    return (None, wrong) if wrong else (found, [])


def _strict(model: type[T], raw: dict[str, Any], namespace: str) -> T:
    metadata = raw.get("metadata")
    if isinstance(metadata, dict) and not metadata.get("namespace"):
        raw = {**raw, "metadata": {**metadata, "namespace": namespace}}
    return strictly(model, raw)


def _without_value(path: Path, problem: Problem) -> Problem:
    secret = path[:1] in (("data",), ("stringData",))
    return replace(problem, value="") if secret else problem


def _repeated(document: Document, found: Resource, seen: set[Identity]) -> list[Located]:
    """The problem of an object that an earlier document holds too; otherwise it is one of the `seen` from now on."""
    identity = found.kind, found.metadata.namespace, found.metadata.name
    if identity not in seen:
        seen.add(identity)
        return []
    path = ("metadata", "name")
    remedy = f"give each {found.kind} a name of its own"
    return [
        (document.line(path), Problem(dotted(path), shown(found.metadata.name), "stands twice in this file", remedy))
    ]
