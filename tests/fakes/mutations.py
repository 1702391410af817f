"""Manifests that a schema invites: every property at its bounds and beyond, each enum value, absent, of the wrong type,
and pairs of them. Pure and repeatable: the same schema gives the same list, and a new property joins by itself.
"""

import copy
import random
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

Schema = Mapping[str, Any]
Path = tuple[str, ...]

REMOVED: Final = object()
SEED: Final = 20
ODD_TEXTS: Final = (
    *(
        ".",
        "..",
        "..a",
        "a..b",
        "-",
        "a-.b",
        "a.",
        "0",
        "00",
        "0.0",
        "0.0000001",
        "1",
        "999999999999999999",
        "1m",
        "1.5Ti",
    ),
    *("9999999999999999Ti", "builtin://..", "builtin://a b", "builtin://a/b", "file:///", "file:///a/../b", "hf://a/b"),
    *(
        "https://example.com/m.gguf",
        "pvc://claim/path",
        "s3://bucket/key",
        "gs://bucket/key",
        "oci://r/m:1",
        "file:///a",
    ),
)
"""Where a text's pattern lets one of these through, something behind it may not."""


@dataclass(frozen=True)
class Mutation:
    """One property set to one value, or taken out."""

    path: Path
    kind: str
    value: Any

    def __str__(self) -> str:
        return f"{'.'.join(self.path)}: {self.kind}"


def mutations(schema: Schema, path: Path = ()) -> Iterator[Mutation]:
    """Every mutation of every property below an object schema."""
    for name, node in schema.get("properties", {}).items():
        here = (*path, name)
        yield Mutation(here, "removed", REMOVED)
        yield Mutation(here, "null", None)
        for kind, value in _values(node):
            yield Mutation(here, kind, value)
        yield from mutations(node, here)
    if "properties" in schema:
        yield Mutation((*path, "noSuchField"), "unknown field", 1)


def mutated(manifest: Mapping[str, Any], schema: Schema, *changes: Mutation) -> dict[str, Any]:
    """A copy of the manifest with the changes, each inside parents that have what their schemas require."""
    result = copy.deepcopy(dict(manifest))
    for change in changes:
        _set(result, schema, change.path, change.value)
    return result


def pairs(schema: Schema, count: int) -> list[tuple[Mutation, Mutation]]:
    """Pairs of values that are each within the schema, of different properties."""
    fitting = [m for m in mutations(schema) if m.kind in FITTING]
    chosen, seen, dice = [], set(), random.Random(SEED)
    while len(chosen) < count:
        one, other = sorted(dice.sample(range(len(fitting)), 2))
        a, b = fitting[one], fitting[other]
        apart = a.path[: len(b.path)] != b.path and b.path[: len(a.path)] != a.path
        if apart and (one, other) not in seen:
            seen.add((one, other))
            chosen.append((a, b))
    return chosen


FITTING: Final = frozenset({"minimum", "maximum", "enum", "example", "between", "true", "false", "shortest", "longest"})


def _set(target: dict[str, Any], schema: Schema, path: Path, value: Any) -> None:
    name, rest = path[0], path[1:]
    node = schema.get("properties", {}).get(name, {})
    if rest:
        if not isinstance(target.get(name), dict):
            target[name] = _example(node)
        _set(target[name], node, rest, value)
    elif value is REMOVED:
        target.pop(name, None)
    else:
        target[name] = value


def _values(node: Schema) -> Iterator[tuple[str, Any]]:
    if node.get("x-kubernetes-int-or-string"):
        yield from (("example", 1), ("example", "25%"), ("beyond", "many"), ("wrong type", []))
        return
    kind = node.get("type")
    if kind in ("integer", "number"):
        low, high = node.get("minimum", 0), node.get("maximum", 2**31)
        yield from (("minimum", low), ("maximum", high), ("between", min(high, low + 1)))
        yield from (("below", low - 1), ("above", high + 1), ("enormous", 2**70))
        yield from (("wrong type", str(low)), ("wrong type", low + 0.5), ("wrong type", True))
    elif kind == "boolean":
        yield from (("true", True), ("false", False), ("wrong type", "yes"), ("wrong type", 1))
    elif kind == "string":
        yield from _texts(node)
    elif kind == "array":
        one = _example(node.get("items", {}))
        most = node.get("maxItems", 64)
        yield from (("shortest", []), ("example", [one]), ("too long", [one] * (most + 1)), ("wrong type", one))
        yield ("wrong type", [[]])
    elif kind == "object":
        yield from (("example", _example(node)), ("wrong type", "text"), ("wrong type", []))
        inner = node.get("additionalProperties")
        if isinstance(inner, Mapping):
            most = node.get("maxProperties", 64)
            yield ("example", {"some-key": _example(inner)})
            yield ("too long", {f"key-{number}": _example(inner) for number in range(most + 1)})


def _texts(node: Schema) -> Iterator[tuple[str, Any]]:
    if "enum" in node:
        yield from (("enum", value) for value in node["enum"])
        yield from (("beyond", str(node["enum"][0]).swapcase()), ("beyond", "none-of-them"))
    elif "pattern" in node:
        yield from (("example", text) for text in matching(node["pattern"], node.get("maxLength", 64)))
        yield ("beyond", "no match\n!")
    else:
        low, high = node.get("minLength", 0), node.get("maxLength", 256)
        yield from (("shortest", "a" * low), ("longest", "a" * high))
    yield ("too long", "a" * (node.get("maxLength", 4096) + 1))
    yield from (("empty", ""), ("wrong type", 5), ("wrong type", {"a": "b"}))


def _example(node: Schema) -> Any:
    """The least value that the schema allows."""
    if "default" in node:
        return copy.deepcopy(node["default"])
    kind = node.get("type")
    if kind == "object":
        return {name: _example(node["properties"][name]) for name in node.get("required", ())}
    if kind == "array":
        return [_example(node.get("items", {}))] * node.get("minItems", 0)
    if kind in ("integer", "number"):
        return node.get("minimum", 1)
    if kind == "boolean":
        return True
    if "enum" in node:
        return node["enum"][0]
    if "pattern" in node:
        return matching(node["pattern"], node.get("maxLength", 64))[0]
    return "a" * max(1, node.get("minLength", 0))


def matching(pattern: str, longest: int, count: int = 2) -> list[str]:
    """Texts that match the whole pattern, odd ones among them; the same ones each time."""
    found: dict[str, None] = {}
    # Control characters have no place in YAML, so nobody can write them.
    printable = st.characters(min_codepoint=32, max_codepoint=0x2FF)

    @settings(
        derandomize=True,
        database=None,
        deadline=None,
        max_examples=count * 5,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.from_regex(pattern, fullmatch=True, alphabet=printable))
    def collect(text: str) -> None:
        if len(text) <= longest:
            found[text] = None

    collect()
    odd = [text for text in ODD_TEXTS if len(text) <= longest and re.fullmatch(pattern, text)]
    return [*sorted(found, key=lambda text: (len(text), text))[-count:], *odd]
