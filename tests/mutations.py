"""Small changes to a manifest, derived from the schema: bounds, types, enums, lengths, absence, repetition."""

import copy
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

Step = str | int


@dataclass(frozen=True)
class Mutation:
    """A manifest that differs in one place from one that is valid. Valid or not: that is for the judges to say."""

    name: str
    manifest: dict[str, Any]


def mutations(manifest: dict[str, Any], schema: Mapping[str, Any]) -> Iterator[Mutation]:
    """Every mutation of every field that the manifest has below its spec."""
    for path, node, value in _places(manifest["spec"], schema["properties"]["spec"], ("spec",)):
        for what, changed in _values(node, value):
            yield Mutation(f"{_dotted(path)} {what}", _with(manifest, path, changed))
        yield Mutation(f"{_dotted(path)} removed", _without(manifest, path))


def _places(
    value: Any, node: Mapping[str, Any], path: tuple[Step, ...]
) -> Iterator[tuple[tuple[Step, ...], Mapping[str, Any], Any]]:
    if value is not None:
        yield path, node, value
    if isinstance(value, dict):
        for key, inner in value.items():
            inside = node.get("properties", {}).get(key) or node.get("additionalProperties")
            if inside:
                yield from _places(inner, inside, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _places(inner, node["items"], (*path, index))


def _values(node: Mapping[str, Any], value: Any) -> Iterator[tuple[str, Any]]:
    wrong = {"string": 5, "integer": "many", "boolean": "yes", "array": {"a": 1}, "object": ["a"]}
    yield "of another type", wrong[node["type"]]
    yield "null", None
    for bound, step in (("minimum", -1), ("maximum", 1)):
        if bound in node:
            yield f"at its {bound}", node[bound]
            yield f"beyond its {bound}", node[bound] + step
    if node["type"] == "integer":
        yield "a fraction", 1.5
    for choice in node.get("enum", ()):
        yield f"= {choice}", choice
        yield f"= {choice.lower()}", choice.lower()
    if node["type"] == "string" and "enum" not in node:
        yield "empty", ""
        yield "too long", "a" * (node["maxLength"] + 1)
        yield "with a space", f"{value} {value}"
        yield "in capitals", str(value).upper()
        yield "with a line", f"{value}\n"
        yield "not in ASCII", f"{value}é"
    if node["type"] == "array":
        yield "empty", []
        yield "repeated", [*value, *value]
        yield "too many", [copy.deepcopy(value[0]) for _ in range(node["maxItems"] + 1)]
    if "additionalProperties" in node:
        yield "too many", {f"key-{index}": "a" for index in range(node["maxProperties"] + 1)}
        yield "of no label", {"not a label": "a"}
        yield "empty", {}
    elif node["type"] == "object":
        yield "with a stranger", {**value, "stranger": 1}
        yield "empty", {}


def _with(manifest: dict[str, Any], path: tuple[Step, ...], value: Any) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    node: Any = changed
    for step in path[:-1]:
        node = node[step]
    node[path[-1]] = value
    return changed


def _without(manifest: dict[str, Any], path: tuple[Step, ...]) -> dict[str, Any]:
    changed = copy.deepcopy(manifest)
    node: Any = changed
    for step in path[:-1]:
        node = node[step]
    del node[path[-1]]
    return changed


def _dotted(path: tuple[Step, ...]) -> str:
    return "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in path).removeprefix(".")
