"""What is wrong with a manifest, as its author will read it: field, value, rule, remedy."""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from pydantic import ValidationError

from flash_api.crd import structural_schema
from flash_api.v1alpha1.base import PATTERN_MEANINGS

VALUE_MAX_CHARACTERS: Final = 80
_ABSENT: Final = object()

Path = Sequence[str | int]


@dataclass(frozen=True)
class Problem:
    """One thing to change in a manifest."""

    field: str
    """Path of the field, `spec.engine.replicas`; empty = the document as a whole."""
    value: str
    """What is written there, as JSON; empty = nothing, or not for showing."""
    rule: str
    """What must be so."""
    remedy: str
    """What to write instead; may be empty where the rule says it all."""
    file: str = ""
    document: int = 1
    """Which document of the file, counted from 1."""
    line: int | None = None
    column: int | None = None

    def __str__(self) -> str:
        value = f" ({self.value})" if self.value else ""
        remedy = f" {self.remedy[0].upper()}{self.remedy[1:]}." if self.remedy else ""
        return f"{self.field}{value} {self.rule}.{remedy}".strip().replace("?.", "?").replace("..", ".")

    @property
    def place(self) -> str:
        """`file:line:column`, as far as known, in the form that editors follow."""
        return ":".join(str(part) for part in (self.file, self.line, self.column) if part)


def problems_of(
    error: ValidationError, raw: object, schema: Mapping[str, Any] | None = None
) -> Iterator[tuple[Path, Problem]]:
    """The findings of a pydantic validation over a FlashDeployment (or over `schema`), with the path of each."""
    root = structural_schema() if schema is None else schema
    for found in error.errors(include_url=False, include_context=True):
        # Of a key that is wrong itself, pydantic adds this to the path.
        path = tuple(step for step in found["loc"] if step != "[key]")
        pattern = found.get("ctx", {}).get("pattern", "")
        yield path, _problem(found["type"], str(found["msg"]), path, raw, root, pattern)


def shown(value: object) -> str:
    """A value as JSON, cut to a readable length."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= VALUE_MAX_CHARACTERS else text[: VALUE_MAX_CHARACTERS - 1] + "…"


def dotted(path: Path, schema: Mapping[str, Any] | None = None) -> str:
    """`("spec", "items", 2)` as `spec.items[2]`; with a schema, the key of a map as `spec.labels[key]`."""
    text, node = "", schema or {}
    for step in path:
        text += (
            f"[{step}]"
            if isinstance(step, int) or isinstance(node.get("additionalProperties"), Mapping)
            else f".{step}"
        )
        node = _inside(node, step)
    return text.removeprefix(".")


def without_nulls(value: Any, schema: Mapping[str, Any]) -> Any:
    """The value as the API server reads it: a known field that is null is a field that is not there."""
    if isinstance(value, Mapping):
        return {
            key: without_nulls(inner, _inside(schema, key))
            for key, inner in value.items()
            if inner is not None or not _inside(schema, key)
        }
    if isinstance(value, list):
        return [without_nulls(inner, _inside(schema, index)) for index, inner in enumerate(value)]
    return value


def nearest(word: str, known: Sequence[str]) -> str | None:
    """The known word that the author most likely meant."""
    folded = {_folded(name): name for name in known}
    close = difflib.get_close_matches(_folded(word), list(folded), n=1, cutoff=0.6)
    return folded[close[0]] if close else None


def _problem(kind: str, message: str, path: Path, raw: object, root: Mapping[str, Any], pattern: str) -> Problem:
    field, value = dotted(path, root), _at(raw, path)
    written = "" if value is _ABSENT else shown(value)
    node = _schema_at(root, path)
    if kind == "extra_forbidden":
        known = sorted(_schema_at(root, path[:-1]).get("properties", {}))
        meant = nearest(str(path[-1]), known)
        remedy = f"did you mean {meant}? " if meant else ""
        return Problem(field, written, "is not a field that exists", f"{remedy}Fields here: {', '.join(known)}")
    if kind == "missing":
        return Problem(field, "", "is required", _hint(node))
    if kind in ("enum", "literal_error"):
        allowed = [str(choice) for choice in node.get("enum", ())]
        meant = nearest(str(value), allowed) if isinstance(value, str) else None
        rule = f"must be one of {', '.join(allowed)}" if allowed else _rule(message)
        return Problem(field, written, rule, f"did you mean {meant}?" if meant else "")
    if kind == "string_pattern_mismatch":
        return Problem(field, written, PATTERN_MEANINGS.get(pattern, _rule(message)), _hint(node))
    return Problem(field, written, _rule(message), _hint(node))


def _rule(message: str) -> str:
    rule = re.sub(r"^(Input|String|List|Dictionary|Tuple|Value|Object|Number|Data) should", "must", message)
    rule = re.sub("^must be (an object|a valid dictionary.*)$", "must be a mapping of fields", rule)
    rule = re.sub(r"a valid (dictionary|string|integer|boolean|list)", r"a \1", rule).replace("a integer", "an integer")
    return rule.split(" to extract fields from")[0].split(" or instance of")[0]


def _hint(node: Mapping[str, Any]) -> str:
    description = str(node.get("description", ""))
    return description.rstrip(".")


def _at(raw: object, path: Path) -> object:
    value = raw
    for step in path:
        if isinstance(step, int):
            if not isinstance(value, list) or step >= len(value):
                return _ABSENT
            value = value[step]
        elif isinstance(value, Mapping) and step in value:
            value = value[step]
        else:
            return _ABSENT
    return value


def _schema_at(root: Mapping[str, Any], path: Path) -> Mapping[str, Any]:
    node: Mapping[str, Any] = root
    for step in path:
        node = _inside(node, step)
    return node


def _inside(node: Mapping[str, Any], step: str | int) -> Mapping[str, Any]:
    """The schema of what stands at `step`, empty when it has none."""
    inside = node.get("additionalProperties")
    if not isinstance(inside, Mapping):
        inside = node.get("items") if isinstance(step, int) else node.get("properties", {}).get(step)
    return inside if isinstance(inside, Mapping) else {}


def _folded(name: str) -> str:
    return name.replace("_", "").replace("-", "").lower()
