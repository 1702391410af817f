"""YAML text to plain values that remember their lines. Knows YAML, not what the documents mean.

Reads as kubectl does (dates and `yes`/`no` stay text) and refuses what a configuration never needs: duplicate keys, and
nesting or aliases that grow a small file into a large value.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import yaml
from yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode

TEXT_MAX_CHARACTERS: Final = 1024**2
NODES_MAX: Final = 100_000
DEPTH_MAX: Final = 64

_YAML: Final = "tag:yaml.org,2002:"
_TAGS: Final = frozenset(f"{_YAML}{kind}" for kind in ("null", "bool", "int", "float", "str", "seq", "map", "merge"))


class YamlProblem(Exception):
    """The text is not acceptable YAML. Lines and columns count from 1."""

    def __init__(self, message: str, *, line: int | None = None, column: int | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


@dataclass(frozen=True)
class Document:
    """One YAML document."""

    value: Any
    node: Node

    def line(self, path: Sequence[str | int]) -> int:
        """The line of the field at `path`, or of the nearest field around it that is there."""
        node: Node = self.node
        line = node.start_mark.line
        for step in path:
            if isinstance(node, MappingNode):
                pair = next(((key, value) for key, value in node.value if key.value == step), None)
                if pair is None:
                    break
                line, node = pair[0].start_mark.line, pair[1]
            elif isinstance(node, SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line
            else:
                break
        return int(line) + 1


def documents(text: str) -> Iterator[Document]:
    """The documents that are not empty, one by one. Raises YamlProblem at the first bad one."""
    if len(text) > TEXT_MAX_CHARACTERS:
        raise YamlProblem(f"the file is larger than {TEXT_MAX_CHARACTERS} characters")
    try:
        loader = _Loader(text)
    except yaml.reader.ReaderError as error:
        raise YamlProblem(f"character {error.position + 1} is not allowed in YAML: {error.reason}") from error
    try:
        while loader.check_node():
            node = loader.get_node()
            value = loader.construct_document(node)
            if node is not None and value is not None:
                yield Document(value, node)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message = ": ".join(part for part in (error.context, error.problem) if part)
        if mark is None:
            raise YamlProblem(message) from error
        raise YamlProblem(message, line=mark.line + 1, column=mark.column + 1) from error
    finally:
        loader.dispose()


class _Loader(yaml.SafeLoader):
    """A SafeLoader with kubectl's idea of scalars and a bound on size."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._nodes = 0
        self._depth = 0
        self._sizes: dict[int, int] = {}

    def resolve(self, kind: type[Node], value: str | None, implicit: tuple[bool, bool] | bool) -> str:
        if kind is ScalarNode and value is not None and ":" in value:
            return f"{_YAML}str"  # YAML 1.1 reads 1:30 as a number to the base 60, kubectl does not
        return str(super().resolve(kind, value, implicit))  # type: ignore[no-untyped-call]

    def compose_document(self) -> Node | None:
        self._sizes.clear()  # anchors end with their document, and so do the nodes whose identities are the keys here
        return super().compose_document()

    def compose_node(self, parent: Node | None, index: int) -> Node | None:
        aliased = self.check_event(yaml.AliasEvent)
        mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
        before = self._nodes
        self._depth += 1
        if self._depth > DEPTH_MAX:
            raise yaml.MarkedYAMLError(problem=f"nested deeper than {DEPTH_MAX} levels", problem_mark=mark)
        node = super().compose_node(parent, index)
        self._depth -= 1
        if aliased and id(node) not in self._sizes:
            raise yaml.MarkedYAMLError(problem="an alias stands inside of what it stands for", problem_mark=mark)
        # An alias counts as everything that it stands for.
        self._nodes += self._sizes[id(node)] if aliased else 1
        if not aliased:
            self._sizes[id(node)] = self._nodes - before
        if self._nodes > NODES_MAX:
            raise yaml.MarkedYAMLError(
                problem=f"larger than {NODES_MAX} values once aliases are filled in", problem_mark=mark
            )
        return node

    def construct_object(self, node: Node, deep: bool = False) -> Any:
        if node.tag not in _TAGS:
            raise yaml.MarkedYAMLError(
                problem=f"the tag {node.tag.replace(_YAML, '!!')} is not one of JSON's types",
                problem_mark=node.start_mark,
            )
        try:
            value = super().construct_object(node, deep=deep)
            if isinstance(value, str):
                value.encode()  # half of a surrogate pair, written as an escape, is no text
            return value
        except ValueError as error:  # `!!int x`, a number of thousands of digits, or `\ud800`
            kind = node.tag.removeprefix(_YAML)
            raise yaml.MarkedYAMLError(
                problem=f"this cannot be read as {kind}", problem_mark=node.start_mark
            ) from error

    def construct_mapping(self, node: MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: dict[str, Node] = {}
        for key, _ in node.value:
            name = str(key.value)
            if key.tag != f"{_YAML}merge" and name in seen:
                line = seen[name].start_mark.line + 1
                raise yaml.MarkedYAMLError(
                    problem=f"the key {name!r} stands twice in one mapping, first in line {line}",
                    problem_mark=key.start_mark,
                )
            seen[name] = key
        return super().construct_mapping(node, deep=deep)


_TYPED_BY_KUBECTL_ONLY_ON_DEMAND: Final = tuple(f"{_YAML}{kind}" for kind in ("timestamp", "bool", "value"))

_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag not in _TYPED_BY_KUBECTL_ONLY_ON_DEMAND]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(f"{_YAML}bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), list("tTfF"))
